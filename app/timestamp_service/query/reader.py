"""Reading records: lookups that come while a query is on its way become the next query, together."""

import asyncio
from typing import Any

from timestamp_service.database import connections
from timestamp_service.database.connections import AsyncConnection
from timestamp_service.database.records import COLUMNS, Record
from timestamp_service.database.schema import TABLE
from timestamp_service.query.lane import Lane, UnavailableError
from timestamp_service.runtime.logs import Log, RateLimitedLog
from timestamp_service.settings import Query

_QUERY_SECONDS = 2.0
# The most ids of one query.
_BATCH_MAX = 500
# Lookups are held for so long at most while a query is on its way; then another connection asks. A query of
# many ids costs us and the database little more than a query of one.
_HOLD_SECONDS = 0.005
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


class Reader:
    """A few connections in the running event loop."""

    def __init__(self, config: Query, log: Log) -> None:
        """Connect as `config` says, in the background."""
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, asyncio.Future[Record | None]] = {}
        self._pending_since = 0.0
        self._looking_up = 0
        self._hold_handle: asyncio.Handle | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._last_progress = self._loop.time()
        dsn = connections.dsn(config.database, "timestamp-query")
        limited = RateLimitedLog(log, _LOG_SECONDS)
        self._lanes = [
            Lane(dsn, _PREPARE, self._answer, self._fail_pending, limited) for _ in range(config.connections)
        ]

    @property
    def connected(self) -> int:
        """Connections that work."""
        return sum(lane.connected for lane in self._lanes)

    @property
    def pending(self) -> int:
        """Lookups that wait for a connection."""
        return len(self._pending)

    async def get(self, identifier: str) -> Record | None:
        """Return the record of that id (in its canonical form), or None. Raises UnavailableError."""
        # Shielded: several may share the future, and one who goes away must not take it along.
        return await asyncio.shield(self.look_up(identifier))

    async def check(self) -> str | None:
        """Name the database, or its table, when it does not answer."""
        try:
            await self.get(_NOBODY)
        except UnavailableError:
            return next((lane.missing for lane in self._lanes if lane.missing != "database"), "database")
        return None

    def progressing(self) -> bool:
        """Return whether queries end by when they are due."""
        return not self._pending or self._loop.time() - self._last_progress < _STUCK_SECONDS

    async def close(self) -> None:
        """Close the connections."""
        if self._hold_handle is not None:
            self._hold_handle.cancel()
        await asyncio.gather(*(lane.close() for lane in self._lanes))

    def look_up(self, identifier: str) -> "asyncio.Future[Record | None]":
        """Return a future of the record, or None, that others may share. Raises UnavailableError."""
        lookup = self._pending.get(identifier)
        if lookup is not None:
            return lookup
        if not (self._lanes[0].connected or self.connected):
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

    async def _answer(self, connection: AsyncConnection) -> None:
        """Answer batches until the connection fails."""
        while True:
            if not self._due():
                wanted: asyncio.Future[None] = self._loop.create_future()
                self._idle.append(wanted)
                try:
                    await wanted
                finally:
                    if wanted in self._idle:
                        self._idle.remove(wanted)
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

    def _take_batch(self) -> dict[str, "asyncio.Future[Record | None]"]:
        if len(self._pending) <= _BATCH_MAX:
            batch, self._pending = self._pending, {}
            return batch
        batch = {identifier: self._pending[identifier] for identifier in list(self._pending)[:_BATCH_MAX]}
        for identifier in batch:
            del self._pending[identifier]
        return batch

    def _fail_pending(self) -> None:
        if self.connected:
            return
        batch, self._pending = self._pending, {}
        for lookup in batch.values():
            _fail(lookup)


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
