"""The running nodes as targets, within a web node's network; their processes as this computer sees them."""

import ctypes
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from bench.apis import Target
from cli.inventory import Host, Service
from cli.units import APIS

# The kinds of processes that a request keeps busy, in the order of the table, by how the names of their units
# begin. Each database has a consumer, whose name may end in that of the database.
_KINDS = {
    "nginx.service": "nginx",
    "timestamp-command.service": "command",
    "timestamp-query.service": "query",
    "timestamp-consumer": "consumer",
    "kafka.service": "broker",
    "systemd-journald.service": "journal",
    "postgresql@": "database",
}
_CLONE_NEWNET = 0x40000000


class NodesError(Exception):
    """The nodes cannot be measured; the message says why."""


def targets(service: Service) -> tuple[Target, Target]:
    """Return how the service is reached within a web node's network: directly, and through nginx.

    Both have the processes of all nodes, those of nginx in the order of the web nodes. Raises NodesError.
    """
    processes: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for node in service.nodes:
        for kind, pid in _processes(node):
            processes[kind] += (pid,)
    ordered = {kind: processes[kind] for kind in _KINDS.values() if kind in processes}
    ports = {unit: port for port, unit in APIS.items()}
    command, query = (
        f"http://127.0.0.1:{ports[f'timestamp-{name}.service']}" for name in ("command", "query")
    )
    authority = str(service.certificate_authority)
    return (
        Target("direct", command, query, ordered),
        Target("nginx", service.url, service.url, ordered, authority),
    )


def enter_network(pid: int, proc: Path = Path("/proc")) -> None:
    """Let this process, and what it starts from now on, have the network of another. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (proc / f"{pid}/ns/net").open() as network:
        # Only from Python 3.12 on is there an os.setns.
        if libc.setns(network.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _processes(node: Host) -> Iterable[tuple[str, int]]:
    """Return the kind and the id here of each main process that a request keeps busy on a node."""
    # Each request has lines in the journal of a web node.
    journal = ["systemd-journald.service"] if "web" in node.groups else []
    kinds = {unit: kind for unit in (*node.units, *journal) if (kind := kind_of(unit))}
    if not kinds:
        return []
    namespace, main = running(_ask(node, list(kinds)))
    ids = here(namespace)
    missing = sorted(unit for unit in kinds if main.get(unit, 0) not in ids)
    if missing:
        raise NodesError(
            f"{node.short_name}: {', '.join(missing)}: no such process on this computer. The nodes must "
            "be containers that run here, and this program root."
        )
    return [(kind, ids[main[unit]]) for unit, kind in kinds.items()]


def kind_of(unit: str) -> str | None:
    """Return the kind of a unit's processes, or None: requests do not keep it busy."""
    if not unit.endswith(".service"):
        return None
    return next((kind for start, kind in _KINDS.items() if unit.startswith(start)), None)


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
