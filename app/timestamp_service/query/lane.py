"""A connection to the database that is replaced whenever it fails, for one user at a time."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg2
from psycopg2 import errors

from timestamp_service.database.connections import AsyncConnection, DeadlineError
from timestamp_service.database.errors import reason
from timestamp_service.database.schema import TABLE
from timestamp_service.query import wholeness
from timestamp_service.query.wholeness import NotWholeError
from timestamp_service.runtime.logs import RateLimitedLog

_PREPARE_SECONDS = 2.0
_BACKOFF_SECONDS = (0.1, 0.5)
# A rebuild takes longer.
_NOT_WHOLE_SECONDS = 2.0


NOT_WHOLE = "database is not whole: rebuild it"


class UnavailableError(Exception):
    """The database does not answer, has no table yet, or is not whole."""


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

        The database must be whole. `lost` is called whenever there is none.
        """
        self._dsn = dsn
        self._prepare = prepare
        self._use = use
        self._lost = lost
        self._log = log
        self.connected = False
        # What does not answer, or what is wrong with it, while there is no connection.
        self.missing = "database"
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def renew(self, missing: str) -> None:
        """Replace the connection, whatever it is used for: `missing` is wrong with the database."""
        await self.close()
        self.missing = missing
        self._lost()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        backoff = _BACKOFF_SECONDS[0]
        while True:
            try:
                connection = await AsyncConnection.open(self._dsn)
                try:
                    await connection.fetch(self._prepare, None, _PREPARE_SECONDS)
                    await wholeness.check(connection)
                    backoff = _BACKOFF_SECONDS[0]
                    self.connected = True
                    await self._use(connection)
                finally:
                    self.connected = False
                    connection.close()
            except errors.UndefinedTable:
                # The consumer creates it. Readiness names it.
                self.missing = f"database table {TABLE}"
            except NotWholeError:
                self.missing = NOT_WHOLE
                backoff = _NOT_WHOLE_SECONDS
                self._log.warning("database_not_whole", NOT_WHOLE)
            except (psycopg2.Error, DeadlineError, OSError) as error:
                self.missing = "database"
                description = reason(error)
                self._log.warning("database_connection_lost", description, error=description)
            self._lost()
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _BACKOFF_SECONDS[1])
