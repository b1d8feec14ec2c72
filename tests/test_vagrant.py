"""The Vagrantfile is valid, and comes to the machines that it promises, for each provider."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cli.inventory import PROJECT, environment, tool
from scripts.vagrant import trial

HAS_LXC = (
    subprocess.run(["dpkg", "--status", "vagrant-lxc"], capture_output=True, check=False).returncode == 0
)
LXC = pytest.mark.skipif(not HAS_LXC, reason="vagrant-lxc is not installed: Debian 13 does not have it")
PROVIDERS = ["libvirt", pytest.param("lxc", marks=LXC), "virtualbox"]
OWN = {
    "TIMESTAMP_BOX": "mine/debian",
    "TIMESTAMP_VM_MEMORY": "3072",
    "TIMESTAMP_VM_CORES": "1",
    "TIMESTAMP_VM_DB_ADDRESS": "192.168.60.21",
    "TIMESTAMP_VM_WEB_ADDRESS": "192.168.60.22",
    "TIMESTAMP_VM_NETWORK": "mine",
    "TIMESTAMP_VM_INVENTORY": "inventories/mine",
    "TIMESTAMP_VM_DRIVER": "qemu",
    "TIMESTAMP_VM_MTU": "1280",
}
Machines = dict[str, dict[str, Any]]


def surroundings(folder: Path, own: dict[str, str]) -> dict[str, str]:
    """Return an environment in which Vagrant knows of no machine, no box and no settings but these."""
    given = {
        name: value for name, value in os.environ.items() if not name.startswith(("TIMESTAMP_", "VAGRANT_"))
    }
    return {
        **given,
        "VAGRANT_HOME": str(folder / "home"),
        "VAGRANT_DOTFILE_PATH": str(folder / "machines"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        **own,
    }


Render = Callable[..., Machines]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Give a function that evaluates the Vagrantfile for a provider and settings; nothing is started."""
    folder = tmp_path_factory.mktemp("vagrant")

    @cache
    def render(provider: str, mine: bool = False) -> Machines:
        done = subprocess.run(
            ["ruby", PROJECT / "tests/vagrant_settings.rb", provider],
            cwd=PROJECT,
            env=surroundings(folder, OWN if mine else {}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        machines: Machines = json.loads(done.stdout)
        assert list(machines) == ["db", "web"]
        return machines

    return render


@pytest.mark.parametrize("provider", PROVIDERS)
def test_is_valid(provider: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=PROJECT,
        env=surroundings(tmp_path, {"VAGRANT_DEFAULT_PROVIDER": provider}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Vagrantfile validated successfully" in done.stdout


@pytest.mark.parametrize("provider", PROVIDERS)
def test_both_machines_are_provisioned_once_from_the_last(provider: str, rendered: Render) -> None:
    machines = rendered(provider)
    assert machines["db"]["provisioners"] == []
    (only,) = machines["web"]["provisioners"]
    assert (only["type"], only["playbook"], only["limit"]) == ("ansible", "site.yml", "all")
    assert only["inventory_path"] == "inventories/vagrant"
    assert machines["db"]["hostname"] == "db.vagrant.internal"
    assert "curl --cacert" in machines["web"]["message"]
    assert "-X POST https://192.168.56.12/api/v1/timestamp/" in machines["web"]["message"]


def test_libvirt_by_default(rendered: Render) -> None:
    machines = rendered("libvirt")
    for name, address in (("db", "192.168.56.11"), ("web", "192.168.56.12")):
        settings = machines[name]["settings"]
        assert machines[name]["box"] == "debian/trixie64"
        assert (settings["driver"], settings["cpu_mode"]) == ("kvm", "host-model")
        assert (settings["memory"], settings["cpus"], settings["default_prefix"]) == (2048, 2, "ts-vagrant-")
        (network,) = machines[name]["networks"]
        assert (network["ip"], network["libvirt__forward_mode"]) == (address, "none")


def test_libvirt_with_own_settings(rendered: Render) -> None:
    machine = rendered("libvirt", mine=True)["web"]
    settings = machine["settings"]
    assert machine["box"] == "mine/debian"
    assert (settings["driver"], settings["cpu_mode"]) == ("qemu", "maximum")
    assert (settings["memory"], settings["cpus"], settings["default_prefix"]) == (3072, 1, "mine-")
    (network,) = machine["networks"]
    assert (network["ip"], network["libvirt__network_name"]) == ("192.168.60.22", "mine")
    assert network["libvirt__mtu"] == settings["management_network_mtu"] == 1280
    assert machine["provisioners"][0]["inventory_path"] == "inventories/mine"
    assert str(PROJECT / "inventories/mine/secrets/certificates/ca.crt") in machine["message"]


@pytest.mark.parametrize(
    ("mine", "memory", "cores", "address"),
    [(False, 2048, 2, "192.168.56.11"), (True, 3072, 1, "192.168.60.21")],
)
def test_virtualbox(rendered: Render, mine: bool, memory: int, cores: int, address: str) -> None:
    machine = rendered("virtualbox", mine=mine)["db"]
    assert machine["box"] == ("mine/debian" if mine else "bento/debian-13")
    orders = [order for _, order in machine["settings"]["customizations"]]
    assert ["modifyvm", "id", "--memory", str(memory)] in orders
    assert ["modifyvm", "id", "--cpus", cores] in orders
    assert [network["ip"] for network in machine["networks"]] == [address]


@LXC
def test_lxc_by_default(rendered: Render) -> None:
    machine = rendered("lxc")["db"]
    settings = dict(machine["settings"]["customizations"])
    # Debian has none for lxc.
    assert machine["box"] == "timestamp-service/trixie64"
    # LXC gives the second address itself, before anything in the container looks for it.
    assert machine["networks"] == []
    assert settings["net.1.ipv4.address"] == "192.168.56.11/24"
    assert settings["net.1.link"] == "ts-vagrant"
    assert (
        f"{PROJECT}/scripts/vagrant/lxc_bridge.sh up ts-vagrant 192.168.56.1 " in settings["hook.pre-start"]
    )
    assert machine["settings"]["container_name"] == "ts-vagrant-db"


@LXC
def test_lxc_with_own_settings(rendered: Render) -> None:
    machine = rendered("lxc", mine=True)["web"]
    settings = dict(machine["settings"]["customizations"])
    assert machine["box"] == "mine/debian"
    assert "3072M" in (settings.get("cgroup2.memory.max"), settings.get("cgroup.memory.limit_in_bytes"))
    assert settings.get("cgroup2.cpu.max") == "100000 100000" or settings["cgroup.cpu.cfs_quota_us"] == 100000
    assert settings["net.0.mtu"] == settings["net.1.mtu"] == 1280
    assert settings["net.1.ipv4.address"] == "192.168.60.22/24"


def says(host: str, expression: str, own: dict[str, str]) -> str:
    """Return what an expression comes to for a host of the inventory."""
    command = [tool("ansible"), "-i", "inventories/vagrant", host, "-m", "ansible.builtin.debug"]
    done = subprocess.run(
        [*command, "-a", json.dumps({"msg": expression})],
        cwd=PROJECT,
        env=environment(own),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # It is wrapped.
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("mine", [False, True])
def test_inventory_has_the_addresses_of_the_vagrantfile(rendered: Render, mine: bool) -> None:
    for name, machine in rendered("libvirt", mine=mine).items():
        said = says(f"{name}.vagrant.internal", "{{ node_address }}.", OWN if mine else {})
        assert f"{machine['networks'][0]['ip']}." in said


@pytest.mark.parametrize("provider", ["libvirt", "parallels"])
def test_key_is_the_one_that_vagrant_made(tmp_path: Path, provider: str) -> None:
    folder = tmp_path / "machines/web" / provider
    folder.mkdir(parents=True)
    (folder / "private_key").touch()
    question = "{{ ansible_ssh_private_key_file }} {{ ansible_ssh_common_args }}"
    said = says("web.vagrant.internal", question, {"VAGRANT_DOTFILE_PATH": str(tmp_path)})
    assert f"{folder}/private_key -o UserKnownHostsFile={folder}/known_hosts" in said


def test_what_changed_is_read_from_the_recap() -> None:
    recap = "db : ok=56   changed=2    unreachable=0\nweb : ok=65   changed=1    unreachable=0\n"
    assert trial.changed(recap) == 3
    with pytest.raises(trial.TrialError):
        trial.changed("nothing of that kind")
