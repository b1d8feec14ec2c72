"""The checks of `make diagnose`: what a node's state means, and for each failure how to fix it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from cli.inventory import Host
from cli.units import CONTRACT, NGINX_ACME, debian_postgresql

# site.yml renews a certificate that has fewer days left.
CERTIFICATE_DAYS = 30
# One by ACME, which may last for a day only, is renewed when a third of its time is left.
ACME_SHARE = 0.25
FREE_SHARE = 0.1
FREE_BYTES = 1 << 30
CLOCK_SECONDS = 2.0
CONNECTIONS_SHARE = 0.8
DAY_SECONDS = 86400
GIBIBYTE = 1 << 30
# What follows the path of a program or library that an update has replaced (role unit_state).
REPLACED = " (deleted)"
BROKER_PORT = str(CONTRACT["contract_broker_port"])


@dataclass(frozen=True)
class Check:
    """One line: where, what was checked, the result, and for a failure how to fix it.

    What is to be done some day, and is no failure, has advice.
    """

    where: str
    what: str
    result: str
    fix: str = ""
    advice: str = ""

    @property
    def passed(self) -> bool:
        """Whether there is nothing to fix."""
        return not self.fix


def line(check: Check) -> str:
    """Return a check as text: one line, and below a failure how to fix it."""
    word = "FAIL" if check.fix else "note" if check.advice else "pass"
    text = f"{word}  {check.where:<8} {check.what}: {check.result}"
    if check.fix:
        return f"{text}\n      fix: {check.fix}"
    return f"{text}\n      when it suits: {check.advice}" if check.advice else text


def look_at_node(node: Host, nodes: Sequence[Host], state: Mapping[str, Any]) -> Iterator[Check]:
    """Yield the checks of the state that a node reports."""
    yield clock(node, state)
    yield from (volume(node, one) for one in state["volumes"])
    yield from (certificate(node, one, state["time"]) for one in state["certificates"])
    if node.firewall:
        yield Check(
            node.short_name,
            "firewall",
            "loaded" if state["firewall"] else "its rules are not loaded: every port is open",
            "" if state["firewall"] else on_node(node, "systemctl restart timestamp-firewall"),
        )
    units = {one["Id"]: one for one in state["units"]}
    for one in units.values():
        yield unit(node, one)
    for name in sorted(set(state["failed_units"]) - set(units)):
        fix = obtain(node) if name == NGINX_ACME else on_node(node, f"systemctl status {name}")
        yield Check(node.short_name, name, "failed", fix)
    yield from outdated(node, state["outdated"])
    yield updates(node, state["updates"])
    yield reboot(node, state["reboot"], {name for name, _ in state["outdated"]})
    if state["database"] is not None:
        yield from database(node, state["database"])
    for one in state["reached"]:
        yield reached(node, nodes, one)
    for one in state["ready"]:
        if units.get(node.processes[one["port"]], {}).get("ActiveState") in ("active", "activating"):
            yield ready(node, one)
    yield from (projection(node, nodes, one) for one in state["projections"])
    if state["kafka"] is not None:
        yield from cluster(node, nodes, state["kafka"])


def agreement(states: Mapping[str, Mapping[str, str]]) -> Iterator[Check]:
    """Check that nodes have the same versions, by what each has, with the names of nodes.

    They differ when a play was broken off or limited, or a node was away.
    """
    for what in dict.fromkeys(what for state in states.values() for what in state):
        names: dict[str, list[str]] = {}
        for node, state in states.items():
            if what in state:
                names.setdefault(state[what], []).append(node)
        if sum(map(len, names.values())) < 2:
            continue
        result, fix = "yes", ""
        if len(names) > 1:
            result = "no: " + "; ".join(f"{value} on {', '.join(nodes)}" for value, nodes in names.items())
            again = "run the deployment, upgrade or renewal again that was under way"
            fix = f"{again}, or `ansible-playbook site.yml`"
        yield Check("here", f"{what} is the same on all nodes", result, fix)


def unit_behind(node: Host, port: str) -> str:
    """Return the unit of a node that serves a port of Kafka or PostgreSQL."""
    return "kafka.service" if port == BROKER_PORT else node.postgresql_unit


def on_node(node: Host, command: str) -> str:
    """Return the make command that runs a command on a node."""
    return f"make ssh NODE={node.short_name} COMMAND={shlex.quote(command)}"


def first_of(names: Sequence[str]) -> str:
    """Return the first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def logs_of(node: Host, name: str) -> str:
    """Return the make command that shows a unit's journal."""
    return f"make logs NODE={node.short_name} UNIT={name}"


def clock(node: Host, state: Mapping[str, Any]) -> Check:
    """Compare the clocks: certificates and the times of records depend on them."""
    ahead = state["ahead"]
    wrong = abs(ahead) > CLOCK_SECONDS
    unit_name = state["time_unit"]
    restart = f"systemctl restart {unit_name}; " if unit_name else ""
    fix = "" if unit_name else "install a time daemon (apt install systemd-timesyncd); "
    fix += on_node(node, f"{restart}timedatectl")
    return Check(
        node.short_name,
        "clock",
        f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this computer" if wrong else "right",
        fix if wrong else "",
    )


def volume(node: Host, state: Mapping[str, Any]) -> Check:
    """Check the free space and inodes of a volume."""
    enough = (
        state["free"] >= min(FREE_BYTES, state["size"] // 2) and state["free"] >= FREE_SHARE * state["size"]
    )
    inodes = state["free_inodes"] >= FREE_SHARE
    result = f"{state['free'] / GIBIBYTE:.1f} GiB free of {state['size'] / GIBIBYTE:.1f}"
    fix = (
        f"add disk under {state['path']}: docs/operations.md, Growth of the log. What takes the space: "
        + on_node(node, f"du --one-file-system -xh --max-depth=2 {state['path']} | sort -h | tail")
    )
    if not inodes:
        result += f", {state['free_inodes']:.0%} of its inodes free"
    return Check(node.short_name, f"volume of {state['path']}", result, "" if enough and inodes else fix)


def certificate(node: Host, state: Mapping[str, Any], now: float) -> Check:
    """Check that a certificate can be read, lasts for a while, and has its key."""
    what = f"certificate {state['path']}"
    renew = "run `ansible-playbook site.yml` (local nodes: `make up`): it renews the certificate"
    least = float(CERTIFICATE_DAYS)
    if state.get("by_acme", False):
        renew = obtain(node)
        if state["not_after"] is not None:
            least = min(least, ACME_SHARE * (state["not_after"] - state["not_before"]) / DAY_SECONDS)
    if state["not_after"] is None:
        return Check(node.short_name, what, "cannot be read", renew)
    days = (state["not_after"] - now) / DAY_SECONDS
    if not state["key_fits"]:
        return Check(node.short_name, what, "its key is missing or belongs to another certificate", renew)
    result = f"valid for {days:.0f} more days" if days > 0 else f"ended {-days:.0f} days ago"
    return Check(node.short_name, what, result, renew if days < least else "")


def obtain(node: Host) -> str:
    """Return how a certificate by ACME is obtained, when that does not happen by itself."""
    return f"{logs_of(node, NGINX_ACME)} says why it is not renewed; then " + on_node(
        node, f"systemctl start {NGINX_ACME}"
    )


def unit(node: Host, state: Mapping[str, str]) -> Check:
    """Check that a unit exists and runs; the result of one that does not has the end of its journal."""
    name = state["Id"]
    active = state.get("ActiveState", "")
    if active == "active":
        return Check(node.short_name, name, "runs")
    if state.get("LoadState") == "masked":
        return Check(node.short_name, name, "is masked", on_node(node, f"systemctl unmask --now {name}"))
    if state.get("LoadState") == "not-found":
        return Check(
            node.short_name,
            name,
            "is not installed",
            "run `ansible-playbook site.yml` (local nodes: `make up`)",
        )
    result = f"{active} ({state.get('SubState', '')}, {state.get('Result', '')})"
    end = " / ".join(line.strip() for line in state.get("journal", "").splitlines())
    if end:
        result += f"; its journal ends with: {end[-500:]}"
    if active == "activating" and state.get("SubState") == "start":
        fix = f"it waits for a dependency: see the other checks, and {logs_of(node, name)}"
    elif active == "inactive":
        fix = on_node(node, f"systemctl start {name}")
    else:
        fix = f"{logs_of(node, name)}, then " + on_node(node, f"systemctl restart {name}")
    return Check(node.short_name, name, result, fix)


def outdated(node: Host, state: Sequence[Sequence[str]]) -> Iterator[Check]:
    """Check that each unit runs with what is on the disk: its release, settings, secrets and certificates."""
    for name in dict.fromkeys(name for name, _ in state):
        paths = [path for other, path in state if other == name]
        # An installed update that does not run yet is no fault.
        updated = all(path.endswith(REPLACED) for path in paths)
        restart = "run `ansible-playbook site.yml` (local nodes: `make up`): it restarts what is outdated"
        yield Check(
            node.short_name,
            f"{name} runs with what is on the disk",
            f"not with {first_of(paths)}",
            "" if updated else restart,
            "make upgrade" if updated else "",
        )
    if not state:
        yield Check(node.short_name, "units run with what is on the disk", "yes")


def updates(node: Host, state: Mapping[str, Sequence[str]]) -> Check:
    """Check whether Debian's updates wait; that is no failure."""
    secure, count = list(state["security"]), len(state["all"])
    result = f"{count} wait" if count else "none wait"
    if secure:
        result += (
            f", {len(secure)} of them for security ({', '.join(secure[:5])}{', …' if secure[5:] else ''})"
        )
    return Check(node.short_name, "Debian's updates", result, advice="make upgrade" if count else "")


def reboot(node: Host, reasons: Sequence[str], outdated: Set[str]) -> Check:
    """Check whether a reboot is due; that is no failure. Units that are `outdated` have their own check."""
    due = [reason for reason in reasons if reason.split()[0] not in outdated]
    return Check(
        node.short_name,
        "reboot",
        f"due: {', '.join(due)}" if due else "not due",
        advice="make reboot" if due else "",
    )


def database(node: Host, state: Mapping[str, Any]) -> Iterator[Check]:
    """Check that PostgreSQL answers, has connections left, and has the table."""
    if state["error"]:
        yield Check(
            node.short_name,
            "database timestamps",
            state["error"],
            "if it was dropped, `ansible-playbook site.yml` recreates it and docs/operations.md says how it "
            "is filled from the log; if PostgreSQL does not run: "
            + on_node(node, f"systemctl restart {node.postgresql_unit}"),
        )
        return
    full = state["connections"] >= CONNECTIONS_SHARE * state["most"]
    yield Check(
        node.short_name,
        "database connections",
        f"{state['connections']} of {state['most']}",
        "raise postgresql_connections, or lower the workers of the APIs" if full else "",
    )
    version = node.postgresql_unit.partition("@")[2].partition("-")[0]
    newer = debian_postgresql(state["debian"])
    left = newer != "" and int(version) < int(newer)
    yield Check(
        node.short_name,
        "database version",
        f"PostgreSQL {version}"
        + (f"; Debian {state['debian']} has {newer} and renews no other" if left else ""),
        advice="make move-database" if left else "",
    )
    yield Check(
        node.short_name,
        "table timestamp_records",
        "exists" if state["table"] else "missing",
        ""
        if state["table"]
        else "the consumer creates it when it starts: make ssh NODE=web COMMAND='systemctl restart "
        "timestamp-consumer.service'; docs/operations.md says how it is filled from the log",
    )


def reached(node: Host, nodes: Sequence[Host], state: Mapping[str, str]) -> Check:
    """Check that a web node reaches the broker or the database, and name the part that prevents it."""
    host, _, port = state["peer"].rpartition(":")
    other = next(one for one in nodes if one.address == host)
    name = unit_behind(other, port)
    error = state["error"]
    what = f"reaches {name.partition('@')[0].removesuffix('.service')} at {state['peer']}"
    if not error:
        return Check(node.short_name, what, "yes")
    if "certificate" in error.lower():
        fix = "run `ansible-playbook site.yml` (local nodes: `make up`): the two sides have different CAs"
    elif "refused" in error:
        fix = f"{name} does not listen there: " + on_node(other, f"systemctl restart {name}")
    else:
        fix = "packets are lost: is the node on, and does its firewall accept this node? " + on_node(
            other, "nft list table inet timestamp_service"
        )
    return Check(node.short_name, what, error, fix)


def projection(node: Host, nodes: Sequence[Host], state: Mapping[str, Any]) -> Check:
    """Check that the query API of a web node can use a database: it answers there, and no row is missing."""
    host = state["at"].partition(":")[0]
    name = next((one.short_name for one in nodes if one.address == host), host)
    return Check(
        node.short_name,
        f"reads from the database at {state['at']}",
        ("yes" + (f", it lacks {state['lacks']} messages that another one has" if state["lacks"] else ""))
        if state["healthy"]
        else "no: it does not answer in time, or rows are missing",
        ""
        if state["healthy"]
        else f"see the other checks of {name}; if they pass, rows are missing: make rebuild HOST={name}"
        " (docs/rebuild.md)",
    )


def cluster(node: Host, nodes: Sequence[Host], state: Mapping[str, Any]) -> Iterator[Check]:
    """Check what a broker knows of the cluster: each partition is led and whole, all controllers keep up."""
    fix = "a broker is away, or catches up: see kafka.service of each node above, and " + logs_of(
        node, "kafka"
    )
    if state["error"]:
        yield Check(node.short_name, "cluster of Kafka", state["error"], fix)
        return
    for what, lacking in (
        ("partitions have a leader", state["leaderless"]),
        ("partitions have all replicas in sync", state["behind"]),
    ):
        result = f"not {first_of(lacking)}" if lacking else "yes"
        yield Check(node.short_name, what, result, fix if lacking else "")
    wanted = sum("kafka_controllers" in one.groups for one in nodes) or sum(
        "kafka" in one.groups for one in nodes
    )
    late = f"; {', '.join(map(str, state['late']))} behind" if state["late"] else ""
    yield Check(
        node.short_name,
        "controllers that vote",
        f"{len(state['voters'])} of {wanted}{late}",
        fix if late or len(state["voters"]) < wanted else "",
    )


def ready(node: Host, state: Mapping[str, Any]) -> Check:
    """Check that a process reports that it is ready; one that is not says what it lacks."""
    name = node.processes[state["port"]]
    if state["status"] == 200:
        return Check(node.short_name, f"{name} is ready", "yes")
    try:
        result = str(json.loads(state["said"])["detail"])
    except (ValueError, KeyError, TypeError):
        result = state["said"]
    lacks = result.lower()
    if not state["status"]:
        fix = f"the process hangs: {logs_of(node, name)}, then " + on_node(node, f"systemctl restart {name}")
    elif any(word in lacks for word in ("kafka", "broker", "topic")):
        fix = "it cannot use Kafka: see kafka.service above; for a refused password run site.yml; " + logs_of(
            node, name
        )
    elif "not whole" in lacks:
        fix = "rows are missing from the database: make rebuild (docs/rebuild.md)"
    elif any(word in lacks for word in ("database", "postgres", "table")):
        fix = (
            "it cannot use PostgreSQL: see postgresql above; for a refused password run site.yml; "
            + logs_of(node, name)
        )
    else:
        fix = logs_of(node, name)
    return Check(node.short_name, f"{name} is ready", result, fix)
