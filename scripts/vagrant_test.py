"""`make vagrant-test`: the Vagrant machines from nothing to nothing, with the time of each phase.

It makes machines of its own, beside those of `vagrant up`: with another network, inventory and folder of
Vagrant's. Whatever happens, they are destroyed, and all that was started for them is stopped.
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

import box
import diagnose
import vagrant_host
from check import CheckError, read_back, send_and_read_back
from inventory import PROJECT, InventoryError, Service, environment, read_service, tool
from nspawn_nodes.system import NodeError
from vagrant_host import HostError

# A network for each provider, so that two runs do not meet; VirtualBox alone would ask for 192.168.56.0/21.
NETWORKS = {"libvirt": "192.168.57", "lxc": "192.168.58"}
NUMBERS = {"db": 11, "web": 12}
HOST: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "libvirt": vagrant_host.libvirt,
    "lxc": vagrant_host.lxc_network,
}
# An emulated machine boots for a minute or two, and so do Kafka and the services after that.
WELL_SECONDS = 900.0
TOLD_LINES = 60


class TrialError(Exception):
    """What did not happen as it should, as a text for a person."""


@dataclass
class Trial:
    """One run: the environment of its commands, the file for all that they print, and the phases' seconds."""

    provider: str
    folder: Path
    environment: dict[str, str]
    phases: list[tuple[str, float]] = field(default_factory=list)

    @property
    def network(self) -> str:
        """The name of this run's network, with which those of its machines begin."""
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
        """What the commands printed."""
        return self.folder / "log"

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say and remember how long something takes, whether it succeeds or not."""
        print(f"{name} …", flush=True)
        begun = time.monotonic()
        try:
            yield
        finally:
            self.phases.append((name, time.monotonic() - begun))
            print(f"    {self.phases[-1][1]:.0f} s", flush=True)

    def run(self, *command: str) -> str:
        """Run a command and return what it printed, which is in the log too. Raises TrialError."""
        said = []
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
                    said.append(line)
                    log.write(f"{time.strftime('%H:%M:%S')} {line}")
                    log.flush()
                    if os.environ.get("V") == "1":
                        print(line, end="", flush=True)
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            end = "".join(said[-TOLD_LINES:])
            raise TrialError(f"Exit status {process.returncode}: {' '.join(command)}\n{end}")
        return "".join(said)


def trial(provider: str, folder: Path) -> Trial:
    """Prepare a run in an empty folder: a copy of the inventory without its secrets, and the settings."""
    given = Trial(provider, folder, {})
    copied = PROJECT / "inventories/vagrant"
    shutil.copytree(copied, given.inventory, ignore=shutil.ignore_patterns("secrets"))
    own = {
        "VAGRANT_DOTFILE_PATH": str(folder / "vagrant"),
        "VAGRANT_DEFAULT_PROVIDER": provider,
        "TIMESTAMP_BOX": os.environ.get("TIMESTAMP_BOX") or box.NAME,
        "TIMESTAMP_INVENTORY": given.inventory,
        "TIMESTAMP_VM_INVENTORY": given.inventory,
        "TIMESTAMP_VM_NETWORK": given.network,
        **{f"TIMESTAMP_VM_{name.upper()}_ADDRESS": address for name, address in given.addresses.items()},
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "ANSIBLE_NOCOLOR": "1",
    }
    if provider == "libvirt" and not vagrant_host.has_kvm():
        own["TIMESTAMP_VM_DRIVER"] = os.environ.get("TIMESTAMP_VM_DRIVER") or "qemu"
    # The inventory, read in this process too, looks some of them up.
    os.environ.update(own)
    given.environment.update(environment())
    return given


def changed(output: str) -> int:
    """Return how many tasks changed something, from what ansible-playbook printed at its end.

    Raises TrialError when it printed none of the lines that tell.
    """
    counts = [int(count) for count in re.findall(r"ok=\d+ +changed=(\d+)", output)]
    if not counts:
        raise TrialError("Ansible did not say what it changed.")
    return sum(counts)


def well(service: Service) -> bool:
    """Say whether `make diagnose` finds nothing."""
    return all(one.passed for one in diagnose.diagnose(service))


def up(given: Trial) -> None:
    """Make the machines; the last lines say what to try."""
    output = given.run("vagrant", "up", f"--provider={given.provider}")
    url = f"https://{given.addresses['web']}"
    if f"POST {url}/api/v1/timestamp/" not in output[-2000:]:
        raise TrialError(f"`vagrant up` did not end with the lines to try:\n{output[-2000:]}")


def check(given: Trial) -> None:
    """Run everything on the machines that are there."""
    with given.phase("vagrant provision again: nothing changes"):
        count = changed(given.run("vagrant", "provision"))
        if count:
            raise TrialError(f"{count} tasks changed something the second time; {given.log} says which.")
    with given.phase("vagrant ssh"):
        for name in given.addresses:
            said = given.run("vagrant", "ssh", name, "--command", "hostname --fqdn")
            if said.split() != [f"{name}.vagrant.internal"]:
                raise TrialError(f"`vagrant ssh {name}` reaches another machine: {said}")
    with given.phase("the tests of the nodes (molecule/tests)"):
        given.run(tool("pytest"), "-p", "no:cacheprovider", "molecule/tests")
    service = read_service(given.inventory)
    with given.phase("HTTPS from this computer: POST and GET"):
        passage = send_and_read_back(service.url, service.certificate_authority)
    with given.phase("vagrant reload of both, until all is well"):
        given.run("vagrant", "reload")
        if not vagrant_host.until(lambda: well(service), WELL_SECONDS):
            left = [one for one in diagnose.diagnose(service) if not one.passed]
            raise TrialError(f"Not well {WELL_SECONDS:.0f} s after the machines booted anew: {left}")
        read_back(service.url, service.certificate_authority, passage.id)
    if given.provider == "libvirt":
        with given.phase("power cuts under load (molecule/vagrant/test_power_cut.py)"):
            output = given.run(
                tool("pytest"), "-p", "no:cacheprovider", "-s", "molecule/vagrant/test_power_cut.py"
            )
            print(
                "".join(f"    {line}\n" for line in re.findall(r"kafka_flush_messages: .*", output)), end=""
            )


def destroy(given: Trial) -> None:
    """Remove the machines, and see that none is left."""
    given.run("vagrant", "destroy", "--force")
    left = vagrant_host.machines(given.provider, given.network)
    if left or Path(f"/sys/class/net/{given.network}").exists():
        raise TrialError(f"`vagrant destroy` left something: {left or given.network}")


def whole(given: Trial) -> None:
    """Go the whole way; the machines are destroyed in any case."""
    if given.environment["TIMESTAMP_BOX"] == box.NAME and not box.is_added(given.provider):
        with given.phase(f"make box PROVIDER={given.provider}"):
            box.add(given.provider)
    try:
        with given.phase(f"vagrant up --provider={given.provider}"):
            up(given)
        check(given)
    finally:
        with given.phase("vagrant destroy -f"):
            destroy(given)


def main(arguments: Sequence[str]) -> int:
    """Try the Vagrantfile with one provider."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--provider", choices=sorted(HOST), required=True)
    chosen = parser.parse_args(arguments)
    given = trial(chosen.provider, Path(tempfile.mkdtemp(prefix="timestamp-service-vagrant-")))
    print(f"What the commands print is in {given.log}.")
    begun = time.monotonic()
    # Also who is asked to end destroys the machines.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with HOST[chosen.provider]():
            whole(given)
    except (TrialError, HostError, NodeError, CheckError, InventoryError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        failed = True
    else:
        failed = False
        shutil.rmtree(given.folder)
    print()
    for name, seconds in given.phases:
        print(f"{seconds:7.0f} s  {name}")
    print(f"{time.monotonic() - begun:7.0f} s  in all")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
