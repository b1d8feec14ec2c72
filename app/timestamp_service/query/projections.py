"""The databases that records are read from, nearest first: which of them is asked.

The nearest that is healthy, unless it is behind: it lacks what another one had BEHIND_SECONDS ago. Where it
does not answer, the next one is asked; and all are, before a record counts as absent.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from timestamp_service.database.records import Record
from timestamp_service.database.schema import BEFORE
from timestamp_service.query.lane import UnavailableError
from timestamp_service.query.projection import Projection
from timestamp_service.query.reader import NOBODY
from timestamp_service.query.search import Search
from timestamp_service.query.wholeness import Offsets

BEHIND_SECONDS = 10.0
_COMPARE_SECONDS = 1.0
# After so long without a page the next one is asked for it too.
_HEDGE_SECONDS = 0.25


class Lookups(Protocol):
    """What answers lookups: one reader, or several projections."""

    def look_up(self, identifier: str) -> "asyncio.Future[Record | None]":
        """Return a future of the record, or None. Raises UnavailableError."""

    async def get(self, identifier: str) -> Record | None:
        """Return the record of that id (in its canonical form), or None. Raises UnavailableError."""


class Projections:
    """All of them, and the comparison of how far they are."""

    def __init__(self, projections: Sequence[Projection]) -> None:
        """Choose among `projections`, of which there is at least one."""
        self.all = projections
        # One alone is asked itself, which costs nothing more.
        self.lookups: Lookups = self if len(projections) > 1 else projections[0].reader
        # In cursors: the place in an order that is the same for all who have the same projections.
        self._marks = {name: str(mark) for mark, name in enumerate(sorted(one.name for one in projections))}
        # The offsets that some projection had, by when, the oldest first.
        self._reached: deque[tuple[float, Mapping[str, int]]] = deque()
        self._task = asyncio.get_running_loop().create_task(self._keep_comparing())

    def look_up(self, identifier: str) -> "asyncio.Future[Record | None]":
        """Return a future of the record, or None, or UnavailableError. Raises it where none is healthy."""
        candidates = self._candidates()
        if not candidates:
            raise UnavailableError
        return Search(identifier, candidates).answer

    async def get(self, identifier: str) -> Record | None:
        """Return the record of that id (in its canonical form), or None. Raises UnavailableError."""
        return await self.look_up(identifier)

    async def select(
        self, query: str, parameters: tuple[Any, ...], mark: str | None
    ) -> tuple[list[Record], str | None]:
        """Return the records that a query gives, and the mark of who gave them: one alone has none.

        That of `mark` is asked first, if it is healthy. Raises as `Pages.select`.
        """
        if len(self.all) == 1:
            return await self.all[0].pages.select(query, parameters), None
        left = deque(self._of_pages(mark))
        asked: dict[asyncio.Task[list[Record]], Projection] = {}
        error: BaseException = UnavailableError()
        try:
            while left or asked:
                if left:
                    projection = left.popleft()
                    asked[asyncio.ensure_future(projection.pages.select(query, parameters))] = projection
                timeout = _HEDGE_SECONDS if left else None
                done, _ = await asyncio.wait(asked, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    projection = asked.pop(task)
                    failure = task.exception()
                    if failure is None:
                        return task.result(), self._marks[projection.name]
                    error = failure
            raise error
        finally:
            for task in asked:
                task.cancel()

    async def check(self) -> str | None:
        """Name what does not answer where no projection does."""
        if len(self.all) == 1:
            return await self.all[0].reader.check()
        try:
            await self.get(NOBODY)
        except UnavailableError:
            missing = [one.reader.missing for one in self.all]
            return next((name for name in missing if name != "database"), "database")
        return None

    def progressing(self) -> bool:
        """Return whether queries end by when they are due."""
        return all(one.reader.progressing() and one.pages.progressing() for one in self.all)

    async def close(self) -> None:
        """Close all connections."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(projection.close() for projection in self.all))

    def _healthy(self) -> list[Projection]:
        """Return those that answer and are whole; those that may be only where there are no others."""
        watched = [one for one in self.all if one.watched]
        answering = [one for one in watched if not one.silent]
        return answering or watched or [one for one in self.all if one.connected]

    def _candidates(self) -> list[Projection]:
        """Return whom to ask, in this order. Sorting keeps the nearest first among equals."""
        return sorted(self._healthy(), key=lambda one: (one.late, one.behind))

    def _of_pages(self, mark: str | None) -> list[Projection]:
        """Return whom to ask for a page. What is not there yet is missing in it: so none that is behind."""
        candidates = self._candidates()
        candidates = [one for one in candidates if not one.behind] or candidates
        return sorted(candidates, key=lambda one: self._marks[one.name] != mark)

    async def _keep_comparing(self) -> None:
        while True:
            self.compare(asyncio.get_running_loop().time())
            await asyncio.sleep(_COMPARE_SECONDS)

    def compare(self, now: float) -> None:
        """Find out who is behind, `now` (in seconds)."""
        best: dict[str, int] = {}
        for projection in self.all:
            if projection.watched and projection.offsets is not None:
                for partition, offset in projection.offsets.items():
                    best[partition] = max(offset, best.get(partition, 0))
        self._reached.append((now, best))
        while len(self._reached) > 1 and now - self._reached[1][0] >= BEHIND_SECONDS:
            self._reached.popleft()
        for projection in self.all:
            projection.lacks = lacking(projection.offsets, best)
            projection.behind = lacking(projection.offsets, self._reached[0][1]) > 0


def lacking(offsets: Offsets | None, others: Offsets) -> int:
    """Return how many messages `others` have that `offsets` has not, as far as that was counted."""
    if offsets is None:
        return 0
    # How far a database was that had rows before they were counted is not known before the next message.
    counted_from_the_start = str(BEFORE) not in offsets
    return sum(
        max(0, other - offsets.get(partition, 0))
        for partition, other in others.items()
        if partition in offsets or counted_from_the_start
    )
