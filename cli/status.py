"""`make status`: one line for each unit of every node, and one for a timestamp end to end."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cli.end_to_end import EndToEndError, send_and_read_back
from cli.hints import typed
from cli.inventory import Host, Service
from cli.root import NOT_ROOT
from cli.units import PATTERNS

PROPERTIES = (
    "Id",
    "Type",
    "ActiveState",
    "SubState",
    "StateChangeTimestamp",
    "NRestarts",
    "MemoryCurrent",
    "Result",
)
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Unit:
    """One unit as systemd describes it; restarts and memory (in bytes) are None where it has none."""

    name: str
    type: str
    active: str
    sub: str
    since: str
    restarts: int | None
    memory: int | None
    result: str

    @property
    def is_healthy(self) -> bool:
        """Whether the unit is active; a oneshot unit, such as a timer's, is activating while it runs."""
        return self.active == "active" or (self.type == "oneshot" and self.active == "activating")


def parse_units(text: str) -> list[Unit]:
    """Read the output of `systemctl show`: blocks of NAME=value lines with an empty line between them."""
    units = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("Id"):
            units[values["Id"]] = Unit(
                name=values["Id"],
                type=values.get("Type", ""),
                active=values.get("ActiveState", ""),
                sub=values.get("SubState", ""),
                since=values.get("StateChangeTimestamp", ""),
                restarts=_number(values.get("NRestarts", "")),
                memory=_number(values.get("MemoryCurrent", "")),
                result=values.get("Result", ""),
            )
    return [units[name] for name in sorted(units, key=lambda name: (not name.endswith(".service"), name))]


def line(node: Host, unit: Unit) -> str:
    """Return a unit as one line of text."""
    state = unit.active if unit.is_healthy else f"{unit.active.upper()} ({unit.sub}, {unit.result})"
    words = [f"{node.short_name:<8} {unit.name:<28} {state:<10} since {unit.since or 'never'}"]
    if unit.restarts is not None:
        words.append(f"{unit.restarts} restarts")
    if unit.memory is not None and unit.name.endswith(".service"):
        words.append(f"{unit.memory / MEBIBYTE:.0f} MiB")
    return "  ".join(words)


def look(node: Host) -> list[Unit] | str:
    """Ask a node about its units by ssh; a text says why it does not tell them."""
    remote = [
        "systemctl",
        "show",
        f"--property={','.join(PROPERTIES)}",
        *node.units,
        *(f"'{one}'" for one in PATTERNS),
    ]
    try:
        done = node.run(" ".join(remote), timeout=20)
    except subprocess.TimeoutExpired:
        return "does not answer by ssh within 20 s."
    if done.returncode == NOT_ROOT:
        return done.stderr.strip()
    if not done.stdout.strip():
        hint = node.hint or "It is off, or out of reach."
        return f"does not answer by ssh ({done.stderr.strip() or 'it said nothing'}). {hint}"
    return parse_units(done.stdout)


def show(service: Service) -> int:
    """Print the state of every unit. Returns 1 when a part does not work, or no node answers."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        units_by_node = dict(zip(service.nodes, pool.map(look, service.nodes), strict=True))
    healthy = True
    for node, units in units_by_node.items():
        if isinstance(units, str):
            print(f"{node.short_name:<8} {typed(service, units)}")
            healthy = False
            continue
        for unit in units:
            print(line(node, unit))
            healthy = healthy and unit.is_healthy
    if all(isinstance(units, str) for units in units_by_node.values()):
        print("No node could be asked.")
        return 1
    try:
        trip = send_and_read_back(service.url, service.certificate_authority)
    except EndToEndError as error:
        print(f"end to end: FAILED: {error}")
        return 1
    print(
        f"end to end: passed: {trip.id} recorded in {trip.post_milliseconds:.0f} ms and read back in "
        f"{trip.get_milliseconds:.0f} ms at {service.url}"
    )
    return 0 if healthy else 1


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() and int(text) < 1 << 63 else None
