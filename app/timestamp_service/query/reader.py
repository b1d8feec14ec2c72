"""Reading records: lookups that come while a query is on its way become the next query, together."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import errors

from timestamp_service.database import connections
from timestamp_service.database.connections import AsyncConnection, DeadlineError
from timestamp_service.database.errors import reason
from timestamp_service.database.records import COLUMNS, Record
from timestamp_service.database.schema import TABLE
from timestamp_service.runtime import metrics
from timestamp_service.runtime.logs import Log, RateLimitedLog
from timestamp_service.settings import Query

_QUERY_SECONDS = 2.0
# The most ids of one query.
_BATCH_MAX = 500
# Lookups are held for so long at most while a query is on its way; then another connection asks. A query of
# many ids costs us and the database little more than a query of one.
_HOLD_SECONDS = 0.005
_BACKOFF_SECONDS = (0.1, 2.0)
# Pages are asked for in turn; with so many waiting, another one would be too late anyway.
_PAGES_MAX = 200
# A query is due by its deadline; when none has ended for this long, we are stuck.
_STUCK_SECONDS = 15.0

_PREPARE = f"""
PREPARE lookup (uuid[]) AS
SELECT {COLUMNS} FROM {TABLE} WHERE id = ANY ($1)
"""  # noqa: S608 (the table's name is our own)
_EXECUTE = "EXECUTE lookup (%s::uuid[])"

# A warning of an outage is repeated at this rate.
_LOG_SECONDS = 10.0

_NOBODY = "00000000-0000-0000-0000-000000000000"


class UnavailableError(Exception):
    """The database does not answer, or has no table yet."""


class CrowdedError(Exception):
    """As many as may wait are waiting already."""


@dataclass(frozen=True, slots=True)
class _Page:
    """A query that waits for its turn, and what it will give."""

    query: str
    parameters: tuple[Any, ...]
    records: "asyncio.Future[list[Record]]"


class Reader:
    """A few connections in the running event loop."""

    def __init__(self, config: Query, log: Log) -> None:
        """Connect as `config` says, in the background."""
        self._loop = asyncio.get_running_loop()
        self._repeated = RateLimitedLog(log, _LOG_SECONDS)
        # What does not answer, while it does not.
        self._missing = "database"
        self._dsn = connections.dsn(config.database, "timestamp-query")
        self._pending: dict[str, asyncio.Future[Record | None]] = {}
        self._pending_since = 0.0
        self._looking_up = 0
        self._hold_handle: asyncio.Handle | None = None
        self._pages: deque[_Page] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._connected = 0
        self._last_progress = self._loop.time()
        self._lanes = [self._loop.create_task(self._lane()) for _ in range(config.connections)]

    async def get(self, identifier: str) -> Record | None:
        """Return the record of that id (in its canonical form), or None. Raises UnavailableError."""
        # Shielded: several may share the future, and one who goes away must not take it along.
        return await asyncio.shield(self.look_up(identifier))

    async def select(self, query: str, parameters: tuple[Any, ...]) -> list[Record]:
        """Return the records that a query gives: its columns are those of `Record.from_row`.

        Raises UnavailableError, and CrowdedError when too many wait for theirs.
        """
        if not self._connected:
            raise UnavailableError
        if len(self._pages) >= _PAGES_MAX:
            raise CrowdedError
        page = _Page(query, parameters, self._loop.create_future())
        page.records.add_done_callback(_ignore_failure)
        self._pages.append(page)
        self._wake()
        return await page.records

    async def check(self) -> str | None:
        """Name the database, or its table, when it does not answer."""
        try:
            await self.get(_NOBODY)
        except UnavailableError:
            return self._missing
        return None

    def progressing(self) -> bool:
        """Return whether queries end by when they are due."""
        return not (self._pending or self._pages) or self._loop.time() - self._last_progress < _STUCK_SECONDS

    def measure(self) -> None:
        """Update the gauges."""
        metrics.CONNECTIONS.set(self._connected)
        metrics.LOOKUPS.set(len(self._pending) + len(self._pages))

    async def close(self) -> None:
        """Close the connections."""
        if self._hold_handle is not None:
            self._hold_handle.cancel()
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)

    def look_up(self, identifier: str) -> "asyncio.Future[Record | None]":
        """Return a future of the record, or None, that others may share. Raises UnavailableError."""
        lookup = self._pending.get(identifier)
        if lookup is not None:
            return lookup
        if not self._connected:
            raise UnavailableError
        if not self._pending:
            self._pending_since = self._loop.time()
        lookup = self._pending[identifier] = self._loop.create_future()
        # Nobody may be left to learn of its failure.
        lookup.add_done_callback(_ignore_failure)
        if not self._looking_up:
            self._wake()
        elif self._hold_handle is None:
            self._hold_handle = self._loop.call_later(_HOLD_SECONDS, self._release)
        return lookup

    def _due(self) -> bool:
        """Return whether lookups wait that no query on its way holds up any more."""
        if not self._pending:
            return False
        return not self._looking_up or self._loop.time() - self._pending_since >= _HOLD_SECONDS

    def _release(self) -> None:
        """Let another connection ask for what is held for too long."""
        self._hold_handle = None
        if self._due():
            self._wake()
        elif self._pending:
            self._hold_handle = self._loop.call_later(_HOLD_SECONDS, self._release)

    def _wake(self) -> None:
        if self._idle:
            _finish(self._idle.pop())

    async def _lane(self) -> None:
        """Keep one connection, and answer what is pending by it."""
        backoff = _BACKOFF_SECONDS[0]
        while True:
            try:
                connection = await AsyncConnection.open(self._dsn)
                try:
                    await connection.fetch(_PREPARE, None, _QUERY_SECONDS)
                    backoff = _BACKOFF_SECONDS[0]
                    self._connected += 1
                    try:
                        await self._answer(connection)
                    finally:
                        self._connected -= 1
                finally:
                    connection.close()
            except errors.UndefinedTable:
                # The consumer creates it. Readiness names it.
                self._missing = f"database table {TABLE}"
            except (psycopg2.Error, DeadlineError, OSError) as error:
                self._missing = "database"
                description = reason(error)
                self._repeated.warning("database_connection_lost", description, error=description)
            if not self._connected:
                self._fail_pending()
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _BACKOFF_SECONDS[1])

    async def _answer(self, connection: AsyncConnection) -> None:
        """Answer batches until the connection fails."""
        while True:
            if not self._pages and not self._due():
                wanted: asyncio.Future[None] = self._loop.create_future()
                self._idle.append(wanted)
                try:
                    await wanted
                finally:
                    if wanted in self._idle:
                        self._idle.remove(wanted)
                continue
            if self._pages:
                await self._answer_page(connection, self._pages.popleft())
            if not self._due():
                continue
            batch = self._take_batch()
            self._looking_up += 1
            try:
                rows = await connection.fetch(_EXECUTE, (list(batch),), _QUERY_SECONDS)
            except BaseException:
                for lookup in batch.values():
                    _fail(lookup)
                # What is held while this connection was busy takes another one.
                self._wake()
                raise
            finally:
                self._looking_up -= 1
            self._last_progress = self._loop.time()
            records = {row[0]: Record.from_row(*row) for row in rows}
            for identifier, lookup in batch.items():
                resolve(lookup, records.get(identifier))

    async def _answer_page(self, connection: AsyncConnection, page: "_Page") -> None:
        try:
            rows = await connection.fetch(page.query, page.parameters, _QUERY_SECONDS)
        except BaseException:
            _fail(page.records)
            raise
        self._last_progress = self._loop.time()
        if not page.records.done():
            page.records.set_result([Record.from_row(*row) for row in rows])

    def _take_batch(self) -> dict[str, "asyncio.Future[Record | None]"]:
        if len(self._pending) <= _BATCH_MAX:
            batch, self._pending = self._pending, {}
            return batch
        batch = {identifier: self._pending[identifier] for identifier in list(self._pending)[:_BATCH_MAX]}
        for identifier in batch:
            del self._pending[identifier]
        return batch

    def _fail_pending(self) -> None:
        batch, self._pending = self._pending, {}
        for lookup in batch.values():
            _fail(lookup)
        while self._pages:
            _fail(self._pages.popleft().records)


def resolve(future: "asyncio.Future[Record | None]", record: Record | None) -> None:
    """End `future`, which may have ended already, with `record`."""
    if not future.done():
        future.set_result(record)


def _fail(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(UnavailableError())


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ignore_failure(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()
