"""One lookup in several projections: the first record that is found counts, and only all can deny it."""

import asyncio
from collections.abc import Iterable
from functools import partial

from timestamp_service.database.records import Record
from timestamp_service.query.lane import UnavailableError
from timestamp_service.query.projection import Projection
from timestamp_service.query.reader import fail, resolve

# After so long without an answer the next one is asked too. The first one may still answer first.
_HEDGE_SECONDS = 0.25
# After so much longer, and with nobody left to ask, those that are silent do not count.
_PATIENCE_SECONDS = 0.75


class Search:
    """A lookup, asked of one projection after the other as long as none has the record."""

    __slots__ = ("_absent", "_asked", "_identifier", "_left", "_loop", "_timer", "answer")

    def __init__(self, identifier: str, projections: Iterable[Projection]) -> None:
        """Look for the record of that id in `projections`, in their order."""
        self._loop = asyncio.get_running_loop()
        self._identifier = identifier
        self._left = iter(projections)
        # Who was asked and has not answered.
        self._asked: list[Projection] = []
        # Whether one has answered that it has no such record.
        self._absent = False
        self._timer: asyncio.Handle | None = None
        # The record, or None, or UnavailableError.
        self.answer: asyncio.Future[Record | None] = self._loop.create_future()
        self._ask_next()

    def _ask_next(self) -> None:
        """Ask the next projection; end where there is none left and none is waited for."""
        self._cancel_timer()
        for projection in self._left:
            try:
                lookup = projection.reader.look_up(self._identifier)
            except UnavailableError:
                continue
            self._asked.append(projection)
            self._timer = self._loop.call_later(_HEDGE_SECONDS, self._hedge)
            lookup.add_done_callback(partial(self._on_answer, projection))
            return
        if self._asked:
            self._timer = self._loop.call_later(_PATIENCE_SECONDS, self._give_up)
        elif self._absent:
            resolve(self.answer, None)
        else:
            fail(self.answer)

    def _on_answer(self, projection: Projection, lookup: "asyncio.Future[Record | None]") -> None:
        self._asked.remove(projection)
        if self.answer.done():
            return
        if lookup.cancelled() or lookup.exception() is not None:
            self._ask_next()
            return
        record = lookup.result()
        if record is None:
            self._absent = True
            self._ask_next()
            return
        self._cancel_timer()
        resolve(self.answer, record)

    def _hedge(self) -> None:
        if self.answer.done():
            return
        for projection in self._asked:
            projection.late = True
        self._ask_next()

    def _give_up(self) -> None:
        for projection in self._asked:
            projection.silent = True
        if self._absent:
            resolve(self.answer, None)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
