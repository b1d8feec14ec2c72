"""The processes of the nodes as this computer sees them: those of containers are in its /proc too."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.inventory import Host, Service

_NGINX, _JOURNAL = "nginx.service", "systemd-journald.service"
# The names of the units in the table; other instances of a unit are left out.
_NAMES = {
    _NGINX: "nginx",
    "timestamp-command.service": "command",
    "timestamp-query.service": "query",
    "timestamp-consumer.service": "consumer",
    "kafka.service": "broker",
    _JOURNAL: "journal",
}


class NodesError(Exception):
    """The nodes cannot be measured; the message says why."""


@dataclass(frozen=True)
class Nodes:
    """The web node: the prefix `within` that runs a command in its network, and its processes by name."""

    within: tuple[str, ...]
    processes: Mapping[str, int]


def find(service: Service) -> Nodes:
    """Find the first web node's network, and the processes that a request keeps busy. Raises NodesError."""
    web = next(node for node in service.nodes if "web" in node.groups)
    processes: dict[str, int] = {}
    for node in service.nodes:
        if node is not web and "web" in node.groups:
            continue
        units = [name for name in node.units if name.endswith(".service")]
        # Each request has lines in the web node's journal.
        units += [_JOURNAL] if node is web else []
        namespace, main = running(_ask(node, units))
        ids = here(namespace)
        missing = sorted(unit for unit in units if main.get(unit, 0) not in ids)
        if missing:
            raise NodesError(
                f"{node.short_name}: {', '.join(missing)}: no such process on this computer. The nodes must "
                "be containers that run here, and this program root."
            )
        for unit in units:
            if unit.startswith("postgresql@") or unit in _NAMES:
                processes[_NAMES.get(unit, "database")] = ids[main[unit]]
    network = ("nsenter", f"--net=/proc/{processes['nginx']}/ns/net", "--")
    return Nodes(
        network, {name: processes[name] for name in (*_NAMES.values(), "database") if name in processes}
    )


def running(text: str) -> tuple[str, dict[str, int]]:
    """Return from a node's answer its namespace of process ids, and the main process of each unit in it."""
    namespace, _, units = text.partition("\n")
    main = {}
    for block in units.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in values:
            main[values["Id"]] = int(values.get("MainPID", 0))
    return namespace, main


def here(namespace: str, proc: Path = Path("/proc")) -> dict[int, int]:
    """Return the ids that processes of a namespace (such as pid:[4026532183]) have here, by those in it."""
    ids_here = {}
    for folder in proc.glob("[0-9]*"):
        try:
            if os.readlink(folder / "ns/pid") != namespace:
                continue
            status = (folder / "status").read_text()
        except OSError:
            # It has ended, or we have no right to read it.
            continue
        # From the outermost namespace that is seen to its own: proc(5).
        ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
        ids_here[int(ids[-1])] = int(folder.name)
    return ids_here


def _ask(node: Host, units: list[str]) -> str:
    remote = f"readlink /proc/self/ns/pid && systemctl show --property=Id,MainPID {' '.join(units)}"
    done = node.run(remote, timeout=30)
    if done.returncode:
        raise NodesError(f"{node.short_name} does not answer. {node.hint} {done.stderr.strip()}".strip())
    return done.stdout
