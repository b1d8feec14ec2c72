"""Reading pages of records, on a connection of their own: a slow page holds up no lookup."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from psycopg2 import errors

from timestamp_service.database import connections
from timestamp_service.database.connections import AsyncConnection
from timestamp_service.database.records import Record
from timestamp_service.query.lane import CrowdedError, Lane, UnavailableError
from timestamp_service.runtime.logs import Log, RateLimitedLog
from timestamp_service.settings import Database

# From the request's arrival, however long it waits for its turn.
_PAGE_SECONDS = 2.0
# The server ends a query that is late; when that does not help, the connection is given up so much later.
_CANCEL_SECONDS = 1.0
# Pages are asked for in turn; with so many waiting, another one would be too late anyway.
_PAGES_MAX = 200
_STUCK_SECONDS = 15.0
_LOG_SECONDS = 10.0


class SlowError(Exception):
    """The page was not there in time."""


@dataclass(frozen=True, slots=True)
class _Page:
    """A query that waits for its turn, until when, and what it will give."""

    query: str
    parameters: tuple[Any, ...]
    deadline: float
    records: "asyncio.Future[list[Record]]"


class Pages:
    """Pages of records, one after the other."""

    def __init__(self, database: Database, log: Log) -> None:
        """Connect to `database` in the background."""
        self._loop = asyncio.get_running_loop()
        self._pages: deque[_Page] = deque()
        self._come = asyncio.Event()
        self._last_progress = self._loop.time()
        dsn = connections.dsn(database, "timestamp-query")
        limited = RateLimitedLog(log, _LOG_SECONDS)
        self._lane = Lane(dsn, "SELECT 1", self._answer, self._fail_all, limited)

    @property
    def waiting(self) -> int:
        """Pages that wait for their turn."""
        return len(self._pages)

    @property
    def connected(self) -> int:
        """Connections that work."""
        return int(self._lane.connected)

    async def select(self, query: str, parameters: tuple[Any, ...]) -> list[Record]:
        """Return the records that a query gives: its columns are those of `Record.from_row`.

        Raises UnavailableError, SlowError, and CrowdedError when too many wait for theirs.
        """
        if not self._lane.connected:
            raise UnavailableError
        if len(self._pages) >= _PAGES_MAX:
            raise CrowdedError
        deadline = self._loop.time() + _PAGE_SECONDS
        page = _Page(query, parameters, deadline, self._loop.create_future())
        self._pages.append(page)
        self._come.set()
        timer = self._loop.call_at(deadline, _fail, page, SlowError())
        try:
            return await page.records
        finally:
            timer.cancel()

    def progressing(self) -> bool:
        """Return whether queries end by when they are due."""
        return not self._pages or self._loop.time() - self._last_progress < _STUCK_SECONDS

    async def renew(self, missing: str) -> None:
        """Replace the connection, as `missing` is wrong with the database."""
        await self._lane.renew(missing)

    async def close(self) -> None:
        """Close the connection."""
        await self._lane.close()

    async def _answer(self, connection: AsyncConnection) -> None:
        """Answer pages until the connection fails."""
        self._last_progress = self._loop.time()
        while True:
            self._come.clear()
            while not self._pages:
                await self._come.wait()
                self._come.clear()
            page = self._pages.popleft()
            left = page.deadline - self._loop.time()
            if left > 0 and not page.records.done():
                await self._answer_page(connection, page, left)
            self._last_progress = self._loop.time()

    async def _answer_page(self, connection: AsyncConnection, page: _Page, seconds: float) -> None:
        try:
            limit = max(1, int(seconds * 1000))
            await connection.fetch("SET statement_timeout = %s", (limit,), _PAGE_SECONDS)
            rows = await connection.fetch(page.query, page.parameters, seconds + _CANCEL_SECONDS)
        except errors.QueryCanceled:
            # The connection is as good as before.
            _fail(page, SlowError())
        except BaseException:
            _fail(page, UnavailableError())
            raise
        else:
            if not page.records.done():
                page.records.set_result([Record.from_row(*row) for row in rows])

    def _fail_all(self) -> None:
        while self._pages:
            _fail(self._pages.popleft(), UnavailableError())


def _fail(page: _Page, error: Exception) -> None:
    if not page.records.done():
        page.records.set_exception(error)
        # Nobody may be left to learn of it.
        page.records.exception()
