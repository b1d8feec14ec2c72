"""What breaks comes back by itself, and nothing that was acknowledged is lost: the ledger is the judge."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import report
from disturbed import ask, failures, until
from faults import ANSWER_SECONDS, FAULTS, PROXY, Fault
from ledgers import Pair
from nodes import COMMAND, CONSUMER, QUERY, Nodes, answered_by_5xx, journal, seconds_until_healthy
from report import Seen

# What was done before, such as a start on a volume of its own, may still go on: that is no part of the fault.
BEGIN_SECONDS = 120.0
# Load before the fault, and after the recovery.
BEFORE_SECONDS = 7.0
AFTER_SECONDS = 3.0
GETS = ("--get-rate", "50", "--get-age", "5")


@pytest.fixture(scope="module")
def seen() -> list[Seen]:
    """Give the lines of the report so far."""
    return []


@pytest.fixture(autouse=True)
def restarts_forgotten(nodes: Nodes) -> Iterator[None]:
    """Set the counts of restarts back: other tests take each for one that was not meant."""
    yield
    for node in nodes.service.nodes:
        ask(node, "systemctl reset-failed")


@pytest.mark.short
def test_all_is_healthy_at_first(nodes: Nodes) -> None:
    assert failures(nodes.service) == []


@pytest.mark.parametrize("fault", [pytest.param(one, id=one.name, marks=one.marks) for one in FAULTS])
def test_nothing_is_lost(
    nodes: Nodes, fault: Fault, tmp_path: Path, seen: list[Seen], request: pytest.FixtureRequest
) -> None:
    rate = request.config.getoption("--ledger-rate")
    most = request.config.getoption("--recovery-seconds")
    with fault.around(nodes):
        assert until(lambda: not failures(nodes.service), BEGIN_SECONDS), failures(nodes.service)
        begun = time.time()
        pair = Pair.start(nodes.service, tmp_path, rate, *GETS)
        try:
            time.sleep(BEFORE_SECONDS)
            end = fault.do(nodes) or time.monotonic()
            seconds = seconds_until_healthy(nodes.service, end, most)
            time.sleep(AFTER_SECONDS)
            summaries = pair.stop()
        finally:
            pair.kill()
        counts = pair.check()
    names = fault.name, f"{fault.name}, without keys"
    seen += [Seen(name, seconds, *one) for name, *one in zip(names, summaries, counts, strict=True)]
    report.write(seen)
    for summary in summaries:
        # Else nothing was proved. How many a machine takes is no promise of ours.
        assert summary["acknowledged"] > 50
        assert summary["get"]["succeeded"] > 0
        assert set(summary["post"]["errors"]) <= fault.post, summary["post"]
        assert set(summary["get"]["errors"]) <= fault.get, summary["get"]
        assert summary["given_up"] == 0
        assert summary["post"]["without_retry_after"] == summary["get"]["without_retry_after"] == 0
        if fault.in_time:
            assert summary["post"]["slowest_seconds"] < ANSWER_SECONDS
    silent(nodes, begun, *(summary[method]["errors"] for summary in summaries for method in ("post", "get")))


def silent(nodes: Nodes, begun: float, *errors: dict[str, int]) -> None:
    """Check that the logs name each error that was answered, and of none that nobody expected."""
    answered = sum(count for one in errors for kind, count in one.items() if kind in PROXY)
    assert len(answered_by_5xx(nodes.web, begun)) >= answered
    for unit in (COMMAND, CONSUMER, QUERY):
        lines = journal(nodes.web, unit, begun)
        unexpected = [line for line in lines if "Traceback" in line or "unexpected_error" in line]
        assert unexpected == [], unit
