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

from cli.checks import BROKER_PORT, DATABASE_PORT, Check, line, look_at_node
from cli.end_to_end import EndToEndError, send_and_read_back
from cli.inventory import PROJECT, Host, Service
from cli.units import PROCESSES

STATE_PROGRAM = PROJECT / "roles/base/files/node_state.py"


def question(node: Host, nodes: Sequence[Host]) -> dict[str, Any]:
    """Return what a node of these groups has to report."""
    asked: dict[str, Any] = {
        "units": list(node.units),
        "database": "postgresql" in node.groups,
    }
    if "web" in node.groups:
        asked["ports"] = list(PROCESSES)
        asked["peers"] = [f"{one.address}:{BROKER_PORT}" for one in nodes if "kafka" in one.groups]
        asked["peers"] += [f"{one.address}:{DATABASE_PORT}" for one in nodes if "postgresql" in one.groups]
    return asked


def ask(node: Host, nodes: Sequence[Host]) -> tuple[dict[str, Any] | None, str]:
    """Return the state that a node reports, with the seconds that its clock is ahead; or None, and why."""
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
    # The node reads its clock after ssh has connected; how long that took is not known.
    state["ahead"] = max(state["time"] - time.time(), min(0.0, state["time"] - before))
    return state, ""


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
    for node, (state, error) in zip(service.nodes, states, strict=True):
        if state is None:
            hint = (
                node.hint or "check that it runs and that its address and ssh key in the inventory are right"
            )
            yield Check(node.short_name, "answers by ssh", error, hint)
            continue
        yield Check(node.short_name, "answers by ssh", "yes")
        yield from look_at_node(node, service.nodes, state)
    yield end_to_end(service)


def show(service: Service) -> int:
    """Print every check and how to fix what failed; returns 1 when a check fails."""
    failures = 0
    for check in diagnose(service):
        print(line(check), flush=True)
        failures += not check.passed
    print(f"{failures} checks failed." if failures else "All checks passed.")
    return 1 if failures else 0
