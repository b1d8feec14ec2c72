"""What the machines are to be like: the role's variables as one frozen value."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

# The host's end of a machine's network cable is called vb-<machine>, and Linux allows 15 characters.
MACHINE_NAME_LENGTH = 12


@dataclass(frozen=True)
class Node:
    """One machine: its name in the inventory, its name on this computer, its folder and its address."""

    name: str
    machine: str
    address: str
    folder: Path

    @property
    def short_name(self) -> str:
        """The host name inside: the first label of the inventory's name."""
        return self.name.partition(".")[0]

    @property
    def root(self) -> Path:
        """Where the machine's file system is mounted."""
        return self.folder / "root"

    @property
    def cable(self) -> str:
        """The host's end of the machine's network cable, as systemd-nspawn names it."""
        return f"vb-{self.machine}"


@dataclass(frozen=True)
class Spec:
    """All machines of one state folder, and what they share."""

    nodes: tuple[Node, ...]
    state_folder: Path
    cache_folder: Path
    ssh_folder: Path
    work_tree: Path
    role_folder: Path
    bridge: str
    gateway: ipaddress.IPv4Interface
    suite: str
    mirror: str
    packages: tuple[str, ...]
    nameservers: tuple[str, ...]
    certificate_authorities_folder: Path
    wait_seconds: float
    force: bool

    @property
    def code_folder(self) -> Path:
        """What the supervisor's Python has to have on its path."""
        return self.role_folder / "module_utils"

    @property
    def lock_file(self) -> Path:
        """Beside the state folder, not in it: it outlives the removal of the folder."""
        return self.state_folder.with_name(f".{self.state_folder.name}.lock")


def faults(spec: Spec) -> list[str]:
    """Say what in a spec cannot work, one sentence a fault."""
    problems = []
    for node in spec.nodes:
        if len(node.machine) > MACHINE_NAME_LENGTH:
            problems.append(f"Machine name {node.machine} is longer than {MACHINE_NAME_LENGTH} characters.")
        if ipaddress.ip_address(node.address) not in spec.gateway.network:
            problems.append(f"Address {node.address} of {node.name} is outside {spec.gateway.network}.")
        if node.address == str(spec.gateway.ip):
            problems.append(f"Address {node.address} of {node.name} is the gateway's.")
    for what, values in (
        ("machine name", [node.machine for node in spec.nodes]),
        ("address", [node.address for node in spec.nodes]),
    ):
        problems += [
            f"Two nodes share the {what} {value}." for value in sorted(set(values)) if values.count(value) > 1
        ]
    if len(spec.bridge) > 15:
        problems.append(f"Bridge name {spec.bridge} is longer than 15 characters.")
    return problems
