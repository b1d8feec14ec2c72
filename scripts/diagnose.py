"""`make diagnose`: every check a line, pass or fail, and for each failure what mends it.

It looks from this computer inwards: the inventory, ssh, what each node says of itself, and the whole way of a
timestamp. Nothing is changed on a node; the last check records one timestamp.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from check import CheckError, send_and_read_back
from inventory import PROJECT, Host, InventoryError, Service, read_service
from units import PROCESSES

STATE_PROGRAM = PROJECT / "roles/base/files/node_state.py"
# site.yml renews a certificate that has fewer days left.
CERTIFICATE_DAYS = 30
FREE_SHARE = 0.1
FREE_BYTES = 1 << 30
CLOCK_SECONDS = 2.0
CONNECTIONS_SHARE = 0.8
DAY_SECONDS = 86400
GIBIBYTE = 1 << 30
# How the unit behind a port begins.
UNIT_BEHIND: Mapping[str, str] = {"9092": "kafka.", "5432": "postgresql@"}


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, where, and how it was found; a failure comes with what mends it."""

    where: str
    what: str
    found: str
    mend: str = ""

    @property
    def passed(self) -> bool:
        """Whether there is nothing to mend."""
        return not self.mend


def question(node: Host, nodes: Sequence[Host]) -> dict[str, Any]:
    """Return what a node is asked for, by its groups."""
    asked: dict[str, Any] = {
        "units": list(node.units),
        "database": "postgresql" in node.groups,
    }
    if "web" in node.groups:
        asked["ports"] = list(PROCESSES)
        asked["peers"] = [f"{one.address}:9092" for one in nodes if "kafka" in one.groups]
        asked["peers"] += [f"{one.address}:5432" for one in nodes if "postgresql" in one.groups]
    return asked


def ask(node: Host, nodes: Sequence[Host]) -> tuple[dict[str, Any] | None, str]:
    """Have a node say its state, with the seconds by which its clock is ahead; else None, and why not."""
    # Python reads its program from ssh; sudo is for an inventory that logs in as somebody else than root.
    program = "exec $([ $(id -u) = 0 ] || echo sudo -n) python3 -I - "
    before = time.time()
    try:
        done = subprocess.run(
            [*node.ssh, "-o", "BatchMode=yes", program + shlex.quote(json.dumps(question(node, nodes)))],
            input=STATE_PROGRAM.read_text(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        state = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return None, "no answer within 120 s"
    except ValueError:
        return None, (done.stderr.strip().splitlines() or ["no answer"])[-1]
    # The node took its time at the start; how long ssh needed before that is not known.
    state["ahead"] = max(state["time"] - time.time(), min(0.0, state["time"] - before))
    return state, ""


def look_at_node(node: Host, nodes: Sequence[Host], state: Mapping[str, Any]) -> Iterator[Check]:
    """Yield the checks of what a node says of itself."""
    yield clock(node, state)
    yield from (volume(node, one) for one in state["volumes"])
    yield from (certificate(node, one, state["time"]) for one in state["certificates"])
    yield Check(
        node.short_name,
        "firewall",
        "loaded" if state["firewall"] else "its rules are not loaded: every port is open",
        "" if state["firewall"] else on_node(node, "systemctl restart nftables"),
    )
    units = {one["Id"]: one for one in state["units"]}
    for one in units.values():
        yield unit(node, one)
    for name in sorted(set(state["failed_units"]) - set(units)):
        yield Check(node.short_name, name, "failed", on_node(node, f"systemctl status {name}"))
    if state["database"] is not None:
        yield from database(node, state["database"])
    for one in state["reached"]:
        yield reached(node, nodes, one)
    for one in state["ready"]:
        if units.get(PROCESSES[one["port"]], {}).get("ActiveState") in ("active", "activating"):
            yield ready(node, one)


def unit_behind(node: Host, port: str) -> str:
    """Return the unit of a node that serves a port of Kafka or PostgreSQL."""
    return next(name for name in node.units if name.startswith(UNIT_BEHIND[port]))


def on_node(node: Host, command: str) -> str:
    """Return the make command that runs something on a node."""
    return f"make ssh NODE={node.short_name} COMMAND={shlex.quote(command)}"


def logs_of(node: Host, name: str) -> str:
    """Return the make command that shows a unit's journal."""
    return f"make logs NODE={node.short_name} UNIT={name}"


def clock(node: Host, state: Mapping[str, Any]) -> Check:
    """Compare the clocks: certificates and the times of records depend on them."""
    ahead = state["ahead"]
    wrong = abs(ahead) > CLOCK_SECONDS
    return Check(
        node.short_name,
        "clock",
        f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this computer" if wrong else "right",
        on_node(node, "systemctl restart systemd-timesyncd; timedatectl timesync-status") if wrong else "",
    )


def volume(node: Host, said: Mapping[str, Any]) -> Check:
    """Check the free space and inodes of a volume."""
    enough = said["free"] >= min(FREE_BYTES, said["size"] // 2) and said["free"] >= FREE_SHARE * said["size"]
    inodes = said["free_inodes"] >= FREE_SHARE
    found = f"{said['free'] / GIBIBYTE:.1f} GiB free of {said['size'] / GIBIBYTE:.1f}"
    mend = (
        f"add disk under {said['path']}: docs/operations.md, Growth of the log. What takes the space: "
        + on_node(node, f"du --one-file-system -xh --max-depth=2 {said['path']} | sort -h | tail")
    )
    if not inodes:
        found += f", {said['free_inodes']:.0%} of its inodes free"
    return Check(node.short_name, f"volume of {said['path']}", found, "" if enough and inodes else mend)


def certificate(node: Host, said: Mapping[str, Any], now: float) -> Check:
    """Check that a certificate can be read, lasts for a while, and has its key."""
    what = f"certificate {said['path']}"
    renew = "run `ansible-playbook site.yml` (local nodes: `make up`): it writes the certificate anew"
    if said["not_after"] is None:
        return Check(node.short_name, what, "cannot be read", renew)
    days = (said["not_after"] - now) / DAY_SECONDS
    if not said["key_fits"]:
        return Check(node.short_name, what, "its key is missing or belongs to another certificate", renew)
    found = f"valid for {days:.0f} more days" if days > 0 else f"ended {-days:.0f} days ago"
    return Check(node.short_name, what, found, renew if days < CERTIFICATE_DAYS else "")


def unit(node: Host, said: Mapping[str, str]) -> Check:
    """Check that a unit is there and runs; the end of its journal stands in what was found."""
    name = said["Id"]
    active = said.get("ActiveState", "")
    if active == "active":
        return Check(node.short_name, name, "runs")
    if said.get("LoadState") == "masked":
        return Check(node.short_name, name, "is masked", on_node(node, f"systemctl unmask --now {name}"))
    if said.get("LoadState") == "not-found":
        return Check(
            node.short_name,
            name,
            "is not installed",
            "run `ansible-playbook site.yml` (local nodes: `make up`)",
        )
    found = f"{active} ({said.get('SubState', '')}, {said.get('Result', '')})"
    end = " / ".join(line.strip() for line in said.get("journal", "").splitlines())
    if end:
        found += f"; its journal ends with: {end[-500:]}"
    if active == "activating" and said.get("SubState") == "start":
        mend = f"it waits for what it depends on: see the other lines, and {logs_of(node, name)}"
    elif active == "inactive":
        mend = on_node(node, f"systemctl start {name}")
    else:
        mend = f"{logs_of(node, name)}, then " + on_node(node, f"systemctl restart {name}")
    return Check(node.short_name, name, found, mend)


def database(node: Host, said: Mapping[str, Any]) -> Iterator[Check]:
    """Check that PostgreSQL answers, has connections left, and holds the table."""
    if said["error"]:
        yield Check(
            node.short_name,
            "database timestamps",
            said["error"],
            "if it was dropped, `ansible-playbook site.yml` makes it anew and docs/operations.md says how it "
            "is filled from the log; if PostgreSQL does not run: "
            + on_node(node, f"systemctl restart {unit_behind(node, '5432')}"),
        )
        return
    full = said["connections"] >= CONNECTIONS_SHARE * said["most"]
    yield Check(
        node.short_name,
        "database connections",
        f"{said['connections']} of {said['most']}",
        "raise postgresql_connections, or lower the workers of the APIs" if full else "",
    )
    yield Check(
        node.short_name,
        "table timestamp_records",
        "there" if said["table"] else "missing",
        ""
        if said["table"]
        else "the consumer makes it when it starts: make ssh NODE=web COMMAND='systemctl restart "
        "timestamp-consumer.service'; docs/operations.md says how it is filled from the log",
    )


def reached(node: Host, nodes: Sequence[Host], said: Mapping[str, str]) -> Check:
    """Check that a web node reaches the broker or the database, and say which part is in the way."""
    host, _, port = said["peer"].rpartition(":")
    other = next(one for one in nodes if one.address == host)
    name = unit_behind(other, port)
    error = said["error"]
    what = f"reaches {name.partition('@')[0].removesuffix('.service')} at {said['peer']}"
    if not error:
        return Check(node.short_name, what, "yes")
    if "certificate" in error.lower():
        mend = "run `ansible-playbook site.yml` (local nodes: `make up`): the two sides have different CAs"
    elif "refused" in error:
        mend = f"{name} does not listen there: " + on_node(other, f"systemctl restart {name}")
    else:
        mend = (
            "packets are lost on the way: is the node on, and does its firewall let this one in? "
            + on_node(other, "nft list table inet timestamp_service")
        )
    return Check(node.short_name, what, error, mend)


def ready(node: Host, said: Mapping[str, Any]) -> Check:
    """Check that a process calls itself ready; if not it says what it lacks."""
    name = PROCESSES[said["port"]]
    if said["status"] == 200:
        return Check(node.short_name, f"{name} is ready", "yes")
    try:
        found = str(json.loads(said["said"])["detail"])
    except (ValueError, KeyError, TypeError):
        found = said["said"]
    lacks = found.lower()
    if not said["status"]:
        mend = f"the process hangs: {logs_of(node, name)}, then " + on_node(node, f"systemctl restart {name}")
    elif any(word in lacks for word in ("kafka", "broker", "topic")):
        mend = (
            "it cannot use Kafka: see kafka.service above; for a refused password run site.yml; "
            + logs_of(node, name)
        )
    elif any(word in lacks for word in ("database", "postgres", "table")):
        mend = (
            "it cannot use PostgreSQL: see postgresql above; for a refused password run site.yml; "
            + logs_of(node, name)
        )
    else:
        mend = logs_of(node, name)
    return Check(node.short_name, f"{name} is ready", found, mend)


def authority(service: Service) -> Check:
    """Check that this computer has the CA by which it knows the nodes."""
    path = service.certificate_authority
    there = path.is_file()
    return Check(
        "here",
        "CA certificate",
        str(path) if there else f"{path} is missing",
        "" if there else "put the inventory's secrets back from their backup, or run `make up` (site.yml)",
    )


def whole_way(service: Service) -> Check:
    """Record a timestamp and read it back."""
    what = "a timestamp goes the whole way"
    try:
        passage = send_and_read_back(service.url, service.certificate_authority)
    except CheckError as error:
        return Check("here", what, str(error), "mend the first failure above; if there is none: make logs")
    return Check("here", what, f"{passage.post_milliseconds:.0f} + {passage.get_milliseconds:.0f} ms")


def diagnose(service: Service) -> Iterator[Check]:
    """Yield every check, from the foundations upwards."""
    yield authority(service)
    with ThreadPoolExecutor(max_workers=16) as pool:
        states = list(pool.map(lambda node: ask(node, service.nodes), service.nodes))
    for node, (state, error) in zip(service.nodes, states, strict=True):
        if state is None:
            hint = (
                node.hint or "check that it runs and that its address and ssh key in the inventory are right"
            )
            yield Check(node.short_name, "answers by ssh", error, hint)
            continue
        yield Check(node.short_name, "answers by ssh", "yes")
        yield from look_at_node(node, service.nodes, state)
    yield whole_way(service)


def line(check: Check) -> str:
    """Return what is shown of a check: one line, and below a failure what mends it."""
    shown = f"{'pass' if check.passed else 'FAIL'}  {check.where:<8} {check.what}: {check.found}"
    return shown if check.passed else f"{shown}\n      mend: {check.mend}"


def main(arguments: Sequence[str]) -> int:
    """Look at everything and say how to mend what is wrong. Exits with 1 when a check fails."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inventory", required=True)
    chosen = parser.parse_args(arguments)
    try:
        service = read_service(chosen.inventory)
    except InventoryError as error:
        print(line(Check("here", "inventory", str(error), "inventories/production is an example to copy")))
        return 1
    failures = 0
    for check in diagnose(service):
        print(line(check), flush=True)
        failures += not check.passed
    print(f"{failures} checks failed." if failures else "All is well.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
