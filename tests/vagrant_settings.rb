# What the Vagrantfile comes to, machine by machine, for one provider, as JSON. Nothing is started or asked for.
# usage: ruby tests/vagrant_settings.rb PROVIDER   (in the project's folder)
require "vagrant"

def values(config)
  config.instance_variables.to_h { |name| [name.to_s.delete("@"), config.instance_variable_get(name)] }
end

provider = ARGV.fetch(0).to_sym
environment = Vagrant::Environment.new(ui_class: Vagrant::UI::Silent)
machines = environment.vagrantfile.machine_names.to_h do |name|
  config = environment.vagrantfile.machine_config(name, provider, nil, nil, false)[:config]
  networks = config.vm.networks.select { |kind, _| kind == :private_network }.map(&:last)
  [name, {
    "box" => config.vm.box,
    "hostname" => config.vm.hostname,
    "networks" => networks,
    "provisioners" => config.vm.provisioners.map { |one| values(one.config).merge("type" => one.type) },
    "message" => config.vm.post_up_message,
    "settings" => values(config.vm.get_provider_config(provider)),
  }]
end
puts JSON.generate(machines)
