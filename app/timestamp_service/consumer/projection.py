"""Writing rows to PostgreSQL: in batches, and the same row only once."""

import io
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from psycopg2 import errors, extensions

from timestamp_service.consumer.batch import Row
from timestamp_service.database import connections, schema
from timestamp_service.database.rows import arrays, copy_statement, copy_text, insert_statement
from timestamp_service.database.schema import TABLE
from timestamp_service.runtime.logs import Log
from timestamp_service.settings import Database

# Far beyond what the largest batch takes; then the server is taken for frozen.
_WRITE_SECONDS = 30.0
# From here on COPY pays.
_COPY_ROWS = 200
# After a batch that held rows of old, the next ones do too: the log is being read again.
_INSERTS_AFTER_DUPLICATE = 20

_COPY = copy_statement(TABLE)
_INSERT = insert_statement(TABLE)

Answer = TypeVar("Answer")


class Projection:
    """The table, by a connection that is made anew when it fails. Used by one thread, watched by another."""

    def __init__(self, database: Database, log: Log) -> None:
        """Connect when there is something to write."""
        self._dsn = connections.dsn(database, "timestamp-consumer")
        self._log = log
        self._connection: extensions.connection | None = None
        self._deadline: float | None = None
        self._inserts_left = 0

    def prepare(self) -> None:
        """Make the table when it is absent, and see that the server answers. Raises psycopg2.Error."""
        self._answered(lambda connection: connection.cursor().execute("SELECT 1"))

    def write(self, rows: Sequence[Row]) -> int:
        """Write the rows that are not there yet, all or none; return how many. Raises psycopg2.Error."""
        if not rows:
            return 0
        return self._answered(lambda connection: self._write(connection, rows))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def overdue_seconds(self) -> float:
        """Tell (another thread) for how long an answer has been overdue; negative or 0: it is not."""
        deadline = self._deadline
        return 0.0 if deadline is None else time.monotonic() - deadline

    def sever(self) -> None:
        """End (from another thread) the wait for a server that does not answer: it raises there."""
        connection = self._connection
        if connection is not None:
            connections.sever(connection)

    def _answered(self, ask: Callable[[extensions.connection], Answer]) -> Answer:
        """Ask on a connection that is whole, with a deadline; throw it away when the asking fails."""
        try:
            # A connect ends by its own timeout.
            connection = self._connection or self._connect()
            self._deadline = time.monotonic() + _WRITE_SECONDS
            return ask(connection)
        except BaseException:
            self.close()
            raise
        finally:
            self._deadline = None

    def _connect(self) -> extensions.connection:
        connection = self._connection = connections.connect(self._dsn)
        self._deadline = time.monotonic() + _WRITE_SECONDS
        if schema.make_when_absent(connection):
            self._log.info("table_made", table=TABLE)
        return connection

    def _write(self, connection: extensions.connection, rows: Sequence[Row]) -> int:
        with connection.cursor() as cursor:
            if len(rows) >= _COPY_ROWS and self._inserts_left <= 0:
                try:
                    # As a whole: after each part this thread would have to wait for the interpreter's lock.
                    text = copy_text(rows)
                    cursor.copy_expert(_COPY, io.BytesIO(text), size=len(text))
                except errors.UniqueViolation:
                    self._inserts_left = _INSERTS_AFTER_DUPLICATE
                else:
                    return len(rows)
            self._inserts_left -= 1
            cursor.execute(_INSERT, arrays(rows))
            return cursor.rowcount
