"""Records around planned work, and holds it to what its clients saw."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import report
from disturbed import failures, until
from ledgers import Pair, recording
from nodes import Nodes
from report import Seen

from cli.inventory import read_service

RATE = 200.0
AROUND_SECONDS = 3.0
HEALTHY_SECONDS = 120.0
NONE: frozenset[str] = frozenset()


class Recorded:
    """The ledgers of one piece of work."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.seconds = 0.0

    def errors(self, method: str) -> dict[str, int]:
        """Return how often each kind of error was seen by a method, of both ledgers."""
        found: dict[str, int] = {}
        for summary in self.pair.summaries:
            for kind, count in summary[method]["errors"].items():
                found[kind] = found.get(kind, 0) + count
        return found

    def check(self, *, post: frozenset[str] = NONE, get: frozenset[str] = NONE) -> None:
        """Check that the clients saw no other errors than these."""
        assert set(self.errors("post")) <= post, self.errors("post")
        assert set(self.errors("get")) <= get, self.errors("get")


@contextmanager
def recorded(
    nodes: Nodes, name: str, folder: Path, seen: list[Seen], healthy: bool = True, rate: float = RATE
) -> Iterator[Recorded]:
    """Record and read while some work is done; nothing that was acknowledged may be lost by it.

    `healthy`: all is well before it. `rate`: records a second, of both ledgers together.
    """
    assert not healthy or until(lambda: not failures(nodes.service), HEALTHY_SECONDS), failures(nodes.service)
    folder.mkdir(exist_ok=True)
    with recording(nodes.service, folder, rate, AROUND_SECONDS) as pair:
        held = Recorded(pair)
        begun = time.monotonic()
        yield held
        held.seconds = time.monotonic() - begun
        # Its units may have other names by now.
        after = read_service(nodes.inventory)
        assert until(lambda: not failures(after), HEALTHY_SECONDS), failures(after)
    counts = pair.check()
    names = name, f"{name}, without keys"
    seen += [Seen(one, held.seconds, *rest) for one, *rest in zip(names, pair.summaries, counts, strict=True)]
    report.write(seen, report.PLANNED)
    for summary in pair.summaries:
        assert summary["acknowledged"] > rate * AROUND_SECONDS / 4
        assert summary["get"]["succeeded"] > 0
        assert summary["post"]["without_retry_after"] == summary["get"]["without_retry_after"] == 0
