"""One database that records are read from, and its health: it is whole, and answers in time."""

import asyncio

from timestamp_service.database import connections
from timestamp_service.database.connections import AsyncConnection
from timestamp_service.query import wholeness
from timestamp_service.query.lane import Lane
from timestamp_service.query.pages import Pages
from timestamp_service.query.reader import Reader
from timestamp_service.query.wholeness import Offsets
from timestamp_service.runtime.logs import Log, RateLimitedLog
from timestamp_service.settings import Database

_WATCH_SECONDS = 2.0
_LOG_SECONDS = 10.0


class Projection:
    """A reader and pages of one database, and a connection that looks after its health."""

    def __init__(self, database: Database, lookup_connections: int, log: Log, *, alone: bool) -> None:
        """Connect in the background. While it restarts, lookups wait for it only where it is `alone`."""
        self.name = connections.name(database)
        self.reader = Reader(database, lookup_connections, log, waits_for_restart=alone)
        self.pages = Pages(database, log)
        # As of the last look; None: never counted.
        self.offsets: Offsets | None = None
        # A lookup took long since the last look, or so long that nobody waits for it.
        self.late = False
        self.silent = False
        # How many messages others have that it has not, and whether it lacks them for too long.
        self.lacks = 0
        self.behind = False
        self._renewal: asyncio.Task[None] | None = None
        dsn = connections.dsn(database, "timestamp-query")
        limited = RateLimitedLog(log, _LOG_SECONDS)
        self._lane = Lane(dsn, "SELECT 1", self._watch, self._on_lost, limited)

    @property
    def watched(self) -> bool:
        """Whether it was whole and answered in time when it was last looked at."""
        return self._lane.connected

    @property
    def connected(self) -> bool:
        """Whether it may answer though the connection that looks after it was just lost, as by a restart."""
        return self._lane.missing == "database" and bool(self.reader.connected)

    @property
    def healthy(self) -> bool:
        """Whether it can answer all that it may be asked."""
        return bool(self.watched and not self.silent and self.reader.connected and self.pages.connected)

    async def close(self) -> None:
        """Close the connections."""
        await self._lane.close()
        if self._renewal is not None:
            await self._renewal
        await asyncio.gather(self.pages.close(), self.reader.close())

    async def _watch(self, connection: AsyncConnection) -> None:
        while True:
            self.offsets = await wholeness.check(connection)
            self.late = self.silent = False
            await asyncio.sleep(_WATCH_SECONDS)

    def _on_lost(self) -> None:
        """Let no connection that was made before go on, where the database answers and is not whole."""
        connected = self.reader.connected or self.pages.connected
        if self._lane.missing != "database" and connected and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        missing = self._lane.missing
        await asyncio.gather(self.reader.renew(missing), self.pages.renew(missing))
