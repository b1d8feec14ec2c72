"""Reading records: lookups that come while a query is on its way become the next query, together."""

import asyncio
from functools import partial
from typing import Any

import psycopg2

from timestamp_service.database import connections
from timestamp_service.database.connections import AsyncConnection, DeadlineError
from timestamp_service.database.records import COLUMNS, Record
from timestamp_service.database.schema import TABLE
from timestamp_service.query.lane import Lane, UnavailableError
from timestamp_service.runtime.logs import Log, RateLimitedLog
from timestamp_service.settings import Database

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

# A database that restarts is back within a few seconds: for so long after the last connection was lost,
# lookups wait for the next one. Later they fail at once.
_RESTART_SECONDS = 5.0

# A warning of an outage is repeated at this rate.
_LOG_SECONDS = 10.0

# The id of no record.
NOBODY = "00000000-0000-0000-0000-000000000000"


class Reader:
    """A few connections in the running event loop."""

    def __init__(
        self, database: Database, lookup_connections: int, log: Log, *, waits_for_restart: bool = True
    ) -> None:
        """Connect to `database` in the background, by so many connections."""
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, asyncio.Future[Record | None]] = {}
        self._pending_since = 0.0
        self._looking_up = 0
        self._hold_handle: asyncio.Handle | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._last_progress = self._loop.time()
        # When the last connection was lost; None: there is one.
        self._lost_at: float | None = float("-inf")
        self._restart_handle: asyncio.Handle | None = None
        self._restart_seconds = _RESTART_SECONDS if waits_for_restart else 0.0
        # Whether an answer was overdue since a connection was made.
        self._late = False
        # How often lookups lost their connection, by id: each connection may have been cut, and no more.
        self._tries: dict[str, int] = {}
        dsn = connections.dsn(database, "timestamp-query")
        limited = RateLimitedLog(log, _LOG_SECONDS)
        self._lanes = [
            Lane(dsn, _PREPARE, self._answer, self._on_lost, limited) for _ in range(lookup_connections)
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
        """Name the database, or its table, when it does not answer; without waiting for a restart."""
        try:
            if self.connected:
                await self.get(NOBODY)
                return None
        except UnavailableError:
            pass
        return self.missing

    @property
    def missing(self) -> str:
        """What does not answer, or what is wrong with it, while there is no connection."""
        return next((lane.missing for lane in self._lanes if lane.missing != "database"), "database")

    def progressing(self) -> bool:
        """Return whether queries end by when they are due; without a connection none can."""
        idle = not (self._pending and self.connected)
        return idle or self._loop.time() - self._last_progress < _STUCK_SECONDS

    async def renew(self, missing: str) -> None:
        """Replace the connections, as `missing` is wrong with the database."""
        await asyncio.gather(*(lane.renew(missing) for lane in self._lanes))

    async def close(self) -> None:
        """Close the connections."""
        for handle in (self._hold_handle, self._restart_handle):
            if handle is not None:
                handle.cancel()
        await asyncio.gather(*(lane.close() for lane in self._lanes))

    def look_up(self, identifier: str) -> "asyncio.Future[Record | None]":
        """Return a future of the record, or None, that others may share. Raises UnavailableError."""
        lookup = self._pending.get(identifier)
        if lookup is not None:
            return lookup
        if not (self._lanes[0].connected or self.connected or self._restarting()):
            raise UnavailableError
        if not self._pending:
            self._pending_since = self._loop.time()
        lookup = self._pending[identifier] = self._loop.create_future()
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
        self._lost_at = None
        self._late = False
        self._last_progress = self._loop.time()
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
            except BaseException as error:
                self._give_back(batch, error)
                # What is held while this connection was busy takes another one.
                self._wake()
                raise
            finally:
                self._looking_up -= 1
            self._last_progress = self._loop.time()
            if self._tries:
                for identifier in batch:
                    self._tries.pop(identifier, None)
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

    def _give_back(self, batch: dict[str, "asyncio.Future[Record | None]"], error: BaseException) -> None:
        """Let lookups whose connection was lost wait for another one; let all others fail."""
        self._late |= isinstance(error, DeadlineError)
        for identifier, lookup in batch.items():
            tries = self._tries.pop(identifier, 0)
            if isinstance(error, psycopg2.Error) and tries < len(self._lanes):
                self._tries[identifier] = tries + 1
                other = self._pending.setdefault(identifier, lookup)
                if other is not lookup:
                    other.add_done_callback(partial(_follow, lookup))
            else:
                fail(lookup)

    def _restarting(self) -> bool:
        return self._lost_at is not None and self._loop.time() - self._lost_at < self._restart_seconds

    def _on_lost(self) -> None:
        if self.connected:
            return
        if self._lost_at is None:
            # One that keeps the connection and does not answer is frozen, and does not restart; nor does one
            # that says what is wrong with it.
            restarts = not self._late and self.missing == "database"
            self._lost_at = self._loop.time() if restarts else float("-inf")
            self._restart_handle = self._loop.call_later(self._restart_seconds, self._on_lost)
        if not self._restarting():
            batch, self._pending = self._pending, {}
            self._tries.clear()
            for lookup in batch.values():
                fail(lookup)


def resolve(future: "asyncio.Future[Record | None]", record: Record | None) -> None:
    """End `future`, which may have ended already, with `record`."""
    if not future.done():
        future.set_result(record)


def fail(future: "asyncio.Future[Any]") -> None:
    """End `future`, which may have ended already, with UnavailableError."""
    if not future.done():
        future.set_exception(UnavailableError())
        # Nobody may be left to learn of it: asyncio must not log that either.
        future.exception()


def _follow(future: "asyncio.Future[Record | None]", other: "asyncio.Future[Record | None]") -> None:
    """End `future` as another lookup of the same id has ended."""
    if other.cancelled() or other.exception() is not None:
        fail(future)
    else:
        resolve(future, other.result())


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
