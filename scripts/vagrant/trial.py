"""`make vagrant-test`: create, test and destroy the Vagrant machines, with the time of each phase.

The machines are its own, beside those of `vagrant up`, with another network, inventory and Vagrant folder.
They are always destroyed, and everything that was started for them is stopped.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nspawn_nodes.system import NodeError

from cli.diagnose import diagnose
from cli.end_to_end import EndToEndError, read_back, send_and_read_back
from cli.inventory import PROJECT, InventoryError, Service, environment, read_service, tool
from scripts.vagrant import box, host
from scripts.vagrant.host import HostError

# One network for each provider, so that two runs can share a computer; VirtualBox insists on 192.168.56.0/21.
NETWORKS = {"libvirt": "192.168.57", "lxc": "192.168.58"}
NUMBERS = {"db": 11, "web": 12}
PROVIDERS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "libvirt": host.libvirt,
    "lxc": host.lxc_network,
}
# An emulated machine boots for a minute or two, and so do Kafka and the services after that.
HEALTHY_SECONDS = 900.0
ERROR_LINES = 60


class TrialError(Exception):
    """What went wrong, as a text for a person."""


@dataclass
class Trial:
    """One run: the environment of its commands, its folder with their log, and the seconds of each phase."""

    provider: str
    folder: Path
    environment: dict[str, str]
    suite: str = box.SUITES[0]
    phases: list[tuple[str, float]] = field(default_factory=list)

    @property
    def network(self) -> str:
        """The name of this run's network, with which the names of its machines begin."""
        return f"ts-test-{self.provider}"

    @property
    def addresses(self) -> dict[str, str]:
        """The address of each machine."""
        return {name: f"{NETWORKS[self.provider]}.{number}" for name, number in NUMBERS.items()}

    @property
    def inventory(self) -> str:
        """The inventory of this run's machines."""
        return str(self.folder / "inventory")

    @property
    def log(self) -> Path:
        """The file with the output of the commands."""
        return self.folder / "log"

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Print and record how long a phase takes, whether it succeeds or not."""
        print(f"{name} …", flush=True)
        begun = time.monotonic()
        try:
            yield
        finally:
            self.phases.append((name, time.monotonic() - begun))
            print(f"    {self.phases[-1][1]:.0f} s", flush=True)

    def run(self, *command: str) -> str:
        """Run a command and return its output, which is in the log too. Raises TrialError."""
        output = []
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                command,
                cwd=PROJECT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            try:
                for line in process.stdout or ():
                    output.append(line)
                    log.write(f"{time.strftime('%H:%M:%S')} {line}")
                    log.flush()
                    if os.environ.get("V") == "1":
                        print(line, end="", flush=True)
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            end = "".join(output[-ERROR_LINES:])
            raise TrialError(f"Exit status {process.returncode}: {' '.join(command)}\n{end}")
        return "".join(output)


def prepare(provider: str, suite: str, folder: Path) -> Trial:
    """Prepare a run in an empty folder: a copy of the inventory without its secrets, and the settings."""
    trial = Trial(provider, folder, {}, suite)
    copied = PROJECT / "inventories/vagrant"
    shutil.copytree(copied, trial.inventory, ignore=shutil.ignore_patterns("secrets"))
    own = {
        "VAGRANT_DOTFILE_PATH": str(folder / "vagrant"),
        "VAGRANT_DEFAULT_PROVIDER": provider,
        "TIMESTAMP_BOX": os.environ.get("TIMESTAMP_BOX") or box.name_of(suite),
        "TIMESTAMP_INVENTORY": trial.inventory,
        "TIMESTAMP_VM_INVENTORY": trial.inventory,
        "TIMESTAMP_VM_NETWORK": trial.network,
        **{f"TIMESTAMP_VM_{name.upper()}_ADDRESS": address for name, address in trial.addresses.items()},
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "ANSIBLE_NOCOLOR": "1",
    }
    if provider == "libvirt" and not host.has_kvm():
        own["TIMESTAMP_VM_DRIVER"] = os.environ.get("TIMESTAMP_VM_DRIVER") or "qemu"
    # This process reads the inventory too, which looks some of them up.
    os.environ.update(own)
    trial.environment.update(environment())
    return trial


def changed(output: str) -> int:
    """Return how many tasks changed something, from the recap of ansible-playbook.

    Raises TrialError when the output has no recap.
    """
    counts = [int(count) for count in re.findall(r"ok=\d+ +changed=(\d+)", output)]
    if not counts:
        raise TrialError("The output of Ansible has no recap.")
    return sum(counts)


def is_healthy(service: Service) -> bool:
    """Return whether every check of `make diagnose` passes."""
    return all(one.passed for one in diagnose(service))


def up(trial: Trial) -> None:
    """Create the machines; the last lines of the output say what to try."""
    output = trial.run("vagrant", "up", f"--provider={trial.provider}")
    url = f"https://{trial.addresses['web']}"
    if f"POST {url}/api/v1/timestamp/" not in output[-2000:]:
        raise TrialError(f"`vagrant up` did not end with the lines to try:\n{output[-2000:]}")


def check(trial: Trial) -> None:
    """Run every check on the machines."""
    with trial.phase("vagrant provision again: nothing changes"):
        count = changed(trial.run("vagrant", "provision"))
        if count:
            raise TrialError(f"{count} tasks changed something the second time; {trial.log} says which.")
    with trial.phase("vagrant ssh"):
        for name in trial.addresses:
            fqdn = trial.run("vagrant", "ssh", name, "--command", "hostname --fqdn")
            if fqdn.split() != [f"{name}.vagrant.internal"]:
                raise TrialError(f"`vagrant ssh {name}` reaches another machine: {fqdn}")
    with trial.phase("the tests of the nodes (molecule/shared/tests)"):
        trial.run(tool("pytest"), "-p", "no:cacheprovider", "molecule/shared/tests")
    service = read_service(trial.inventory)
    with trial.phase("HTTPS from this computer: POST and GET"):
        trip = send_and_read_back(service.url, service.certificate_authority)
    with trial.phase("vagrant reload of both, until they are healthy"):
        trial.run("vagrant", "reload")
        if not host.until(lambda: is_healthy(service), HEALTHY_SECONDS):
            failures = [one for one in diagnose(service) if not one.passed]
            raise TrialError(f"Not healthy {HEALTHY_SECONDS:.0f} s after the machines rebooted: {failures}")
        read_back(service.url, service.certificate_authority, trip.id)
    if trial.provider == "libvirt":
        with trial.phase("power cuts under load (molecule/vagrant/test_power_cut.py)"):
            output = trial.run(
                tool("pytest"), "-p", "no:cacheprovider", "-s", "molecule/vagrant/test_power_cut.py"
            )
            print(
                "".join(f"    {line}\n" for line in re.findall(r"kafka_flush_messages: .*", output)), end=""
            )


def destroy(trial: Trial) -> None:
    """Remove the machines, and check that none is left."""
    trial.run("vagrant", "destroy", "--force")
    left = host.machines(trial.provider, trial.network)
    if left or Path(f"/sys/class/net/{trial.network}").exists():
        raise TrialError(f"`vagrant destroy` left something: {left or trial.network}")


def run_all(trial: Trial) -> None:
    """Create, check and destroy the machines; they are destroyed in any case."""
    own = trial.environment["TIMESTAMP_BOX"] == box.name_of(trial.suite)
    if own and not box.is_added(trial.provider, trial.suite):
        with trial.phase(f"make box PROVIDER={trial.provider} SUITE={trial.suite}"):
            box.add(trial.provider, trial.suite)
    try:
        with trial.phase(f"vagrant up --provider={trial.provider}"):
            up(trial)
        check(trial)
    finally:
        with trial.phase("vagrant destroy -f"):
            destroy(trial)


def main(arguments: Sequence[str]) -> int:
    """Try the Vagrantfile with one provider."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--provider", choices=sorted(PROVIDERS), required=True)
    parser.add_argument("--suite", choices=box.SUITES, default=box.SUITES[0], help="Debian's release")
    chosen = parser.parse_args(arguments)
    trial = prepare(
        chosen.provider, chosen.suite, Path(tempfile.mkdtemp(prefix="timestamp-service-vagrant-"))
    )
    print(f"The output of the commands is in {trial.log}.")
    begun = time.monotonic()
    # SIGTERM too destroys the machines.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with PROVIDERS[chosen.provider]():
            run_all(trial)
    except (TrialError, HostError, NodeError, EndToEndError, InventoryError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        failed = True
    else:
        failed = False
        shutil.rmtree(trial.folder)
    print()
    for name, seconds in trial.phases:
        print(f"{seconds:7.0f} s  {name}")
    print(f"{time.monotonic() - begun:7.0f} s  total")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
