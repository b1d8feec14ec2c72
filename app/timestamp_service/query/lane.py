"""A connection to the database that is replaced whenever it fails, for one user at a time."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg2
from psycopg2 import errors

from timestamp_service.database.connections import AsyncConnection, DeadlineError
from timestamp_service.database.errors import reason
from timestamp_service.database.schema import TABLE
from timestamp_service.runtime.logs import RateLimitedLog

_PREPARE_SECONDS = 2.0
_BACKOFF_SECONDS = (0.1, 0.5)


class UnavailableError(Exception):
    """The database does not answer, or has no table yet."""


class CrowdedError(Exception):
    """As many as may wait are waiting already."""


class Lane:
    """Keeps one connection in the running event loop, from its making until `close`."""

    def __init__(
        self,
        dsn: str,
        prepare: str,
        use: Callable[[AsyncConnection], Awaitable[None]],
        lost: Callable[[], None],
        log: RateLimitedLog,
    ) -> None:
        """Connect in the background, run `prepare`, and hand the connection to `use` until that raises.

        `lost` is called whenever there is none.
        """
        self._dsn = dsn
        self._prepare = prepare
        self._use = use
        self._lost = lost
        self._log = log
        self.connected = False
        # What does not answer, while it does not.
        self.missing = "database"
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        backoff = _BACKOFF_SECONDS[0]
        while True:
            try:
                connection = await AsyncConnection.open(self._dsn)
                try:
                    await connection.fetch(self._prepare, None, _PREPARE_SECONDS)
                    backoff = _BACKOFF_SECONDS[0]
                    self.connected = True
                    await self._use(connection)
                finally:
                    self.connected = False
                    connection.close()
            except errors.UndefinedTable:
                # The consumer creates it. Readiness names it.
                self.missing = f"database table {TABLE}"
            except (psycopg2.Error, DeadlineError, OSError) as error:
                self.missing = "database"
                description = reason(error)
                self._log.warning("database_connection_lost", description, error=description)
            self._lost()
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _BACKOFF_SECONDS[1])
