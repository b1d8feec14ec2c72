"""`make status`: a line a unit of every node, and one for the whole way of a timestamp."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from check import CheckError, send_and_read_back
from inventory import Host, InventoryError, read_service
from units import PATTERNS

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
    def is_well(self) -> bool:
        """Whether the unit is active; one that runs to its end (of a timer) never is while it works."""
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
    """Return what is shown of a unit."""
    state = unit.active if unit.is_well else f"{unit.active.upper()} ({unit.sub}, {unit.result})"
    words = [f"{node.short_name:<8} {unit.name:<28} {state:<10} since {unit.since or 'never'}"]
    if unit.restarts is not None:
        words.append(f"{unit.restarts} restarts")
    if unit.memory is not None and unit.name.endswith(".service"):
        words.append(f"{unit.memory / MEBIBYTE:.0f} MiB")
    return "  ".join(words)


def look(node: Host) -> list[Unit] | None:
    """Ask a node about its units by ssh; None when it does not answer within 5 s."""
    remote = [
        "systemctl",
        "show",
        f"--property={','.join(PROPERTIES)}",
        *node.units,
        *(f"'{one}'" for one in PATTERNS),
    ]
    try:
        done = subprocess.run(
            [*node.ssh, "-o", "BatchMode=yes", *remote],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return parse_units(done.stdout) if done.stdout.strip() else None


def main(arguments: Sequence[str]) -> int:
    """Tell what runs. Exits with 1 when something does not work; a service that is off is no fault."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inventory", required=True)
    chosen = parser.parse_args(arguments)
    try:
        service = read_service(chosen.inventory)
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 1
    with ThreadPoolExecutor(max_workers=16) as pool:
        seen = dict(zip(service.nodes, pool.map(look, service.nodes), strict=True))
    well = True
    for node, units in seen.items():
        if units is None:
            print(f"{node.short_name:<8} does not answer by ssh: it is off, or out of reach")
            continue
        for unit in units:
            print(line(node, unit))
            well = well and unit.is_well
    if all(units is None for units in seen.values()):
        print("The service is off: `make up` starts it.")
        return 0
    try:
        passage = send_and_read_back(service.url, service.certificate_authority)
    except CheckError as error:
        print(f"end to end: FAILED: {error}")
        return 1
    print(
        f"end to end: well: {passage.id} recorded in {passage.post_milliseconds:.0f} ms and read back in "
        f"{passage.get_milliseconds:.0f} ms at {service.url}"
    )
    return 0 if well and None not in seen.values() else 1


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() and int(text) < 1 << 63 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
