"""Writing records to PostgreSQL: in batches, each record only once; what is written is counted with it."""

import io
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from psycopg2 import errors, extensions

from timestamp_service.consumer.batch import TracedRecord
from timestamp_service.database import connections, counts, schema
from timestamp_service.database.counts import Span
from timestamp_service.database.rows import arrays, copy_statement, copy_text
from timestamp_service.database.schema import TABLE
from timestamp_service.runtime.logs import Log
from timestamp_service.settings import Database

# Far longer than the largest batch takes: after that the server counts as frozen.
_WRITE_SECONDS = 30.0
# To count the rows of a database that was never counted.
_MIGRATE_SECONDS = 600.0
# COPY is faster than INSERT from this number of rows on.
_COPY_ROWS = 200
# A batch with rows that exist already is followed by more of them: the log is being read again.
_INSERTS_AFTER_DUPLICATE = 20

_COPY = copy_statement(TABLE)

Answer = TypeVar("Answer")


class Projection:
    """The table, by a connection that is replaced when it fails. Used by one thread, watched by another."""

    def __init__(self, database: Database, log: Log) -> None:
        """Connect later, when there is something to write."""
        self._dsn = connections.dsn(database, "timestamp-consumer")
        self._log = log
        self._connection: extensions.connection | None = None
        self._deadline: float | None = None
        self._inserts_left = 0

    def prepare(self) -> None:
        """Create the table if it is absent, and check that the server answers. Raises psycopg2.Error."""
        self._answered(lambda connection: connection.cursor().execute("SELECT 1"))

    def write(self, records: Sequence[TracedRecord], spans: Sequence[Span]) -> int:
        """Write the records of `spans` that are not there yet, all or none; return how many.

        They are counted as written, and the spans as read. Raises psycopg2.Error.
        """
        return self._answered(lambda connection: self._write(connection, records, spans))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def overdue_seconds(self) -> float:
        """Return for how long an answer has been overdue; 0 or less: it is not. For another thread."""
        deadline = self._deadline
        return 0.0 if deadline is None else time.monotonic() - deadline

    def sever(self) -> None:
        """Make a call that waits for the server raise in its own thread. For another thread."""
        connection = self._connection
        if connection is not None:
            connections.sever(connection)

    def _answered(self, ask: Callable[[extensions.connection], Answer]) -> Answer:
        """Call `ask` with an open connection and a deadline; close the connection when it fails."""
        try:
            # Connecting has a timeout of its own.
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
        if not schema.present(connection):
            self._deadline = time.monotonic() + _MIGRATE_SECONDS
            schema.create(connection)
            self._log.info("table_made", table=TABLE)
        with connection.cursor() as cursor:
            cursor.execute(counts.PREPARE)
        return connection

    def _write(
        self, connection: extensions.connection, records: Sequence[TracedRecord], spans: Sequence[Span]
    ) -> int:
        read = counts.arrays(spans)
        with connection.cursor() as cursor:
            if len(records) >= _COPY_ROWS and self._inserts_left <= 0:
                try:
                    # In one piece: after each one this thread would have to wait for the interpreter's lock.
                    text = copy_text(records)
                    cursor.execute("BEGIN")
                    cursor.copy_expert(_COPY, io.BytesIO(text), size=len(text))
                    cursor.execute(f"{counts.COUNT}; COMMIT", (len(records), *read))
                except errors.UniqueViolation:
                    cursor.execute("ROLLBACK")
                    self._inserts_left = _INSERTS_AFTER_DUPLICATE
                else:
                    return len(records)
            self._inserts_left -= 1
            cursor.execute(counts.WRITE, (*arrays(records), *read))
            row = cursor.fetchone()
            return 0 if row is None else int(row[0])
