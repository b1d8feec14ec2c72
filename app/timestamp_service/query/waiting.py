"""Waiting for records to come: those who wait share one query a tick."""

import asyncio
from dataclasses import dataclass, field
from functools import partial

from timestamp_service.database.records import Record
from timestamp_service.query.lane import CrowdedError, UnavailableError
from timestamp_service.query.projections import Lookups
from timestamp_service.query.reader import resolve

# A young wait is looked at often, an older one less so.
_TICK_SECONDS = 0.005
_SLOW_TICK_SECONDS = 0.05
_YOUNG_SECONDS = 0.5


@dataclass(slots=True)
class _Awaited:
    """Who waits for one record, and since when (the loop's time, in seconds)."""

    since: float
    arrivals: set["asyncio.Future[Record | None]"] = field(default_factory=set)


class WaitingRoom:
    """Requests that wait for records, bounded in number."""

    def __init__(self, lookups: Lookups, places: int) -> None:
        """Look for records by `lookups`, for `places` requests at most."""
        self._lookups = lookups
        self._places = places
        self._loop = asyncio.get_running_loop()
        self._awaited: dict[str, _Awaited] = {}
        self._taken = 0
        self._closed = False
        self._ticker: asyncio.Task[None] | None = None

    async def get(self, identifier: str, seconds: float) -> Record | None:
        """Return the record of that id (in its canonical form), or None; wait up to `seconds` for it to come.

        Raises UnavailableError, and CrowdedError when too many wait.
        """
        record = await self._lookups.get(identifier)
        if record is not None or seconds <= 0 or self._closed:
            return record
        if self._taken >= self._places:
            raise CrowdedError
        awaited = self._awaited.setdefault(identifier, _Awaited(self._loop.time()))
        arrival: asyncio.Future[Record | None] = self._loop.create_future()
        awaited.arrivals.add(arrival)
        self._taken += 1
        timer = self._loop.call_later(seconds, resolve, arrival, None)
        if self._ticker is None or self._ticker.done():
            self._ticker = self._loop.create_task(self._tick())
        try:
            return await arrival
        finally:
            timer.cancel()
            self._taken -= 1
            awaited.arrivals.discard(arrival)
            if not awaited.arrivals and self._awaited.get(identifier) is awaited:
                del self._awaited[identifier]

    @property
    def taken(self) -> int:
        """Requests that wait."""
        return self._taken

    def end(self) -> None:
        """End all waits: they return None, now and from here on."""
        self._closed = True
        for awaited in self._awaited.values():
            for arrival in awaited.arrivals:
                resolve(arrival, None)

    async def close(self) -> None:
        """Look for nothing any more."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)

    async def _tick(self) -> None:
        """Look for all awaited records together, as long as there are any."""
        slow_due = 0.0
        while self._awaited:
            await asyncio.sleep(_TICK_SECONDS)
            now = self._loop.time()
            slow = now >= slow_due
            if slow:
                slow_due = now + _SLOW_TICK_SECONDS
            wanted = [
                identifier
                for identifier, awaited in self._awaited.items()
                if slow or now - awaited.since < _YOUNG_SECONDS
            ]
            try:
                lookups = [self._lookups.look_up(identifier) for identifier in wanted]
            except UnavailableError:
                # Whoever waits goes on waiting: the database may be back in time.
                continue
            # Each by itself: one that several projections are asked for may take longer.
            for identifier, lookup in zip(wanted, lookups, strict=True):
                lookup.add_done_callback(partial(self._arrive, identifier))
            if lookups:
                await asyncio.wait(lookups)

    def _arrive(self, identifier: str, lookup: "asyncio.Future[Record | None]") -> None:
        """Let those who wait for the record have it, if it was found."""
        awaited = self._awaited.get(identifier)
        if awaited is None or lookup.cancelled() or lookup.exception() is not None:
            return
        record = lookup.result()
        if record is not None:
            for arrival in awaited.arrivals:
                resolve(arrival, record)
