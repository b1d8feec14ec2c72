"""Starts what Vagrant's providers need on this computer, where systemd does not, and stops it again."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.vagrant.box import POOL, VIRSH, sudo

# For a libvirt that runs as root, without a security module; with one, defining a machine takes a minute.
QEMU_SETTINGS = """\
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
"""
LXC_NET = "/usr/libexec/lxc/lxc-net"
LXC_BRIDGE = Path("/sys/class/net/lxcbr0")
# libvirt leaves its chains in the packet filter when it ends, and the rules that jump to them.
CHAINS = {
    "filter": (
        ("INPUT", "LIBVIRT_INP"),
        ("OUTPUT", "LIBVIRT_OUT"),
        ("FORWARD", "LIBVIRT_FWX"),
        ("FORWARD", "LIBVIRT_FWI"),
        ("FORWARD", "LIBVIRT_FWO"),
    ),
    "mangle": (("POSTROUTING", "LIBVIRT_PRT"),),
    "nat": (("POSTROUTING", "LIBVIRT_PRT"),),
}
START_SECONDS = 60.0


class HostError(Exception):
    """Why something does not run on this computer, as a text for a person."""


def succeeds(*command: str) -> bool:
    """Return whether a command exits with 0."""
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; returns whether it did in time."""
    end = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.2)
    return held


def virsh(*arguments: str) -> str:
    """Return the output of virsh. Raises CalledProcessError."""
    return subprocess.run([*VIRSH, *arguments], capture_output=True, text=True, check=True).stdout


def has_kvm() -> bool:
    """Return whether machines can use hardware virtualisation here: /dev/kvm alone does not prove it."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    # Only x86 names it among the flags.
    return Path("/dev/kvm").exists() and ("vmx" in flags or "svm" in flags or platform.machine() != "x86_64")


@contextmanager
def libvirt() -> Iterator[None]:
    """Run libvirt's daemon, and remove it and everything that it created at the end.

    A daemon that runs already is used as it is. Ours reads its settings from a file that only it sees, and
    runs, with its machines, at the lowest priority.
    """
    if succeeds(*VIRSH, "version"):
        with pool():
            yield
        return
    folder = Path(tempfile.mkdtemp(prefix="timestamp-service-libvirt-"))
    settings = folder / "qemu.conf"
    settings.write_text(QEMU_SETTINGS)
    # The daemon's cache describes the emulator under other settings.
    script = (
        "rm -f /var/cache/libvirt/qemu/capabilities/*.xml; mkdir -p /run/libvirt;"
        ' mount --bind "$1" /etc/libvirt/qemu.conf && exec nice -n 19 libvirtd'
    )
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(settings)]
    with (folder / "log").open("w") as log:
        daemon = subprocess.Popen(
            [*sudo(), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        if not until(lambda: succeeds(*VIRSH, "version"), START_SECONDS):
            raise HostError(f"libvirtd does not start: {(folder / 'log').read_text()[-2000:]}")
        with pool():
            yield
    finally:
        subprocess.run([*sudo(), "kill", str(daemon.pid)], check=False)
        daemon.wait(timeout=60)
        remove_chains()
        shutil.rmtree(folder)


@contextmanager
def pool() -> Iterator[None]:
    """Remove the storage pool at the end (not its folder) if it was not there before."""
    before = virsh("pool-list", "--all", "--name").split()
    try:
        yield
    finally:
        if POOL not in before and POOL in virsh("pool-list", "--all", "--name").split():
            for line in virsh("vol-list", POOL).splitlines()[2:]:
                if line.strip():
                    virsh("vol-delete", line.split()[0], "--pool", POOL)
            virsh("pool-destroy", POOL)
            virsh("pool-undefine", POOL)


def remove_chains() -> None:
    """Remove libvirt's chains from the packet filter."""
    for family in ("iptables", "ip6tables"):
        for table, chains in CHAINS.items():
            filter_of = [*sudo(), family, "-t", table]
            for above, chain in chains:
                for action in (["-D", above, "-j", chain], ["-F", chain], ["-X", chain]):
                    succeeds(*filter_of, *action)


@contextmanager
def lxc_network() -> Iterator[None]:
    """Run LXC's own bridge lxcbr0, with DHCP and NAT, and stop it at the end if it was started here."""
    if LXC_BRIDGE.exists():
        yield
        return
    started = subprocess.run([*sudo(), LXC_NET, "start"], capture_output=True, text=True, check=False)
    if started.returncode:
        raise HostError(f"LXC's network does not start: {started.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([*sudo(), LXC_NET, "stop"], capture_output=True, check=False)


def machines(provider: str, prefix: str) -> list[str]:
    """Return the names of the provider's machines that begin with the prefix."""
    if provider == "libvirt":
        names = virsh("list", "--all", "--name").split()
    else:
        command = [*sudo(), "lxc-ls", "-1"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in names if name.startswith(prefix)]
