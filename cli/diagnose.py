"""`make diagnose`: one line for each check, pass or fail, and for each failure how to fix it.

It works from the foundations upwards: the inventory, ssh, the state that each node reports, and one timestamp
end to end. It changes nothing on a node, except that the last check records a timestamp.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cli.checks import BROKER_PORT, Check, agreement, line, look_at_node
from cli.end_to_end import EndToEndError, send_and_read_back
from cli.hints import typed
from cli.inventory import PROJECT, Host, Service
from cli.root import NOT_ROOT
from cli.units import CONTRACT, PROMETHEUS_PORT

STATE_PROGRAM = PROJECT / "roles/base/files/node_state.py"


def question(node: Host, nodes: Sequence[Host]) -> dict[str, Any]:
    """Return what a node of these groups has to report."""
    asked: dict[str, Any] = {
        "units": list(node.units),
        "database": node.database_port,
    }
    if "kafka" in node.groups and sum("kafka" in one.groups for one in nodes) > 1:
        asked["kafka"] = f"{node.address}:{BROKER_PORT}"
    if node.exporters:
        asked["exporters"] = dict(node.exporters)
        if "monitoring" in node.groups:
            asked["prometheus"] = PROMETHEUS_PORT
    if "web" in node.groups:
        asked["ports"] = list(node.processes)
        asked["query"] = CONTRACT["contract_ports"]["query"]
        asked["peers"] = [f"{one.address}:{BROKER_PORT}" for one in nodes if "kafka" in one.groups]
        asked["peers"] += [f"{one.address}:{one.database_port}" for one in nodes if one.database_port]
    return asked


def ask(node: Host, nodes: Sequence[Host]) -> dict[str, Any] | Check:
    """Return the state that a node reports, with the seconds that its clock is ahead; or what failed."""
    # Python reads its program from ssh.
    program = f"exec python3 -I - {shlex.quote(json.dumps(question(node, nodes)))}"
    before = time.time()
    try:
        done = node.run(program, timeout=120, data=STATE_PROGRAM.read_text())
        state = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return away(node, "no answer within 120 s")
    except ValueError:
        lines = done.stderr.strip().splitlines() or ["no answer"]
        if done.returncode == NOT_ROOT:
            # The last line says how to fix it.
            return Check(node.short_name, "becomes root", " ".join(lines[:-1]), lines[-1])
        return away(node, lines[-1])
    # The node reads its clock after ssh has connected; how long that took is not known.
    state["ahead"] = max(state["time"] - time.time(), min(0.0, state["time"] - before))
    return dict(state)


def away(node: Host, error: str) -> Check:
    """Return the check of a node that does not answer."""
    hint = node.hint or "check that it runs and that its address and ssh key in the inventory are right"
    return Check(node.short_name, "answers by ssh", error, hint)


def authority(service: Service) -> Check:
    """Check that this computer has the CA certificate of the nodes."""
    path = service.certificate_authority
    exists = path.is_file()
    return Check(
        "here",
        "CA certificate",
        str(path) if exists else f"{path} is missing",
        "" if exists else "restore the inventory's secrets from their backup, or run `make up` (site.yml)",
    )


def end_to_end(service: Service) -> Check:
    """Record a timestamp and read it back."""
    try:
        trip = send_and_read_back(service.url, service.certificate_authority)
    except EndToEndError as error:
        return Check(
            "here",
            "end to end",
            str(error),
            "start with the first failure above; without one, see make logs",
        )
    return Check("here", "end to end", f"{trip.post_milliseconds:.0f} + {trip.get_milliseconds:.0f} ms")


def diagnose(service: Service) -> Iterator[Check]:
    """Yield every check, from the foundations upwards."""
    yield authority(service)
    with ThreadPoolExecutor(max_workers=16) as pool:
        states = list(pool.map(lambda node: ask(node, service.nodes), service.nodes))
    for node, state in zip(service.nodes, states, strict=True):
        if isinstance(state, Check):
            yield state
            continue
        yield Check(node.short_name, "answers by ssh", "yes")
        yield from look_at_node(node, service.nodes, state)
    yield from agreement(
        {
            node.short_name: state["shared"]
            for node, state in zip(service.nodes, states, strict=True)
            if not isinstance(state, Check)
        }
    )
    yield end_to_end(service)


def show(service: Service) -> int:
    """Print every check and how to fix what failed; returns 1 when a check fails."""
    failures = 0
    for check in diagnose(service):
        print(typed(service, line(check)), flush=True)
        failures += not check.passed
    print(f"{failures} checks failed." if failures else "All checks passed.")
    return 1 if failures else 0
