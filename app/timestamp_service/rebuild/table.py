"""The new table: created beside the old one, filled, proved, and swapped with it."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg2
from psycopg2 import errors, extensions

from timestamp_service.database import connections, counts, schema
from timestamp_service.database.rows import arrays, copy_statement, copy_text, insert_statement
from timestamp_service.database.schema import COUNTS, OWNER, TABLE
from timestamp_service.rebuild import checksum
from timestamp_service.rebuild.rows import NumberedRow
from timestamp_service.settings import Database

NEW = f"{TABLE}_rebuild"
OLD = f"{TABLE}_replaced"
APPLICATION = "timestamp-rebuild"

# The key of the advisory lock of a rebuild: any number, the same in all releases.
_REBUILD_LOCK = 7_358_214_902

# The server may notice only after 10 s that the process with the lock was killed.
_BUSY_SECONDS = 12.0

# A server that does not answer in this time counts as frozen; a proof reads whole tables.
_STATEMENT_SECONDS = 60.0
_PROOF_SECONDS = 3600.0

# How long to wait for the writers: longer than deadlock_timeout (1 s), after which autovacuum is cancelled.
_WRITERS_SECONDS = 5
# How long to wait for readers at a time: new readers wait meanwhile, and no GET must time out.
_READERS_MS = 500
_READERS_PAUSE_SECONDS = 0.5
# How long to retry that, while the writers wait.
_READERS_DEADLINE_SECONDS = 20.0

_IN_TRANSACTION = (extensions.TRANSACTION_STATUS_INTRANS, extensions.TRANSACTION_STATUS_INERROR)

_COPY = copy_statement(NEW)
_INSERT = insert_statement(NEW, returning=True)
_UNKNOWN = f"""
SELECT id::text FROM {TABLE} AS old WHERE NOT EXISTS (SELECT FROM {NEW} AS new WHERE new.id = old.id) LIMIT %s
"""  # noqa: S608
_MISSING = f"""
SELECT old.id::text FROM unnest(%s::uuid[]) AS old (id)
WHERE NOT EXISTS (SELECT FROM {NEW} AS new WHERE new.id = old.id)
"""  # noqa: S608
_MAKE = f"BEGIN; SET LOCAL ROLE {OWNER}; {schema.definition(NEW)}"
# The constraints and indexes of a table, whose names begin with that of the table.
_NAMES = """
SELECT 'CONSTRAINT', conname FROM pg_constraint WHERE conrelid = %(table)s::regclass
UNION ALL
SELECT 'INDEX', relname FROM pg_index JOIN pg_class ON oid = indexrelid
WHERE indrelid = %(table)s::regclass AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


class BusyError(Exception):
    """Another rebuild is running."""


class LockedError(Exception):
    """Writers or readers did not release the old table in time; the swap may be tried again."""


@dataclass(frozen=True, slots=True)
class Written:
    """How many rows were new, and the sum of their numbers."""

    rows: int
    total: int

    def __add__(self, other: "Written") -> "Written":
        """Return both together."""
        return Written(self.rows + other.rows, self.total + other.total)


class Table:
    """The new table, on one connection that is used by one thread at a time."""

    def __init__(self, database: Database) -> None:
        """Create the new table; remove what an earlier rebuild left. Raises psycopg2.Error, BusyError."""
        self._dsn = connections.dsn(database, APPLICATION)
        self._connection = connections.connect(self._dsn)
        # While it is sealed: the ids of the rows that were written since the last proof.
        self._unproved: list[str] | None = None
        try:
            self._take_lock()
            with self._cursor() as cursor:
                # After a crash the rebuild starts again; the commit of the swap writes all to the disk.
                cursor.execute("SET synchronous_commit = off")
            with self._cursor():
                present = schema.present(self._connection)
            if not present:
                with _bounded(self._connection, _PROOF_SECONDS):
                    schema.create(self._connection)
            self._remove(OLD)
            self._remove(NEW)
            with self._cursor() as cursor:
                # There is nothing to vacuum before the swap, and no vacuum must delay the swap.
                cursor.execute(f"{_MAKE}; ALTER TABLE {NEW} SET (autovacuum_enabled = false); COMMIT")
        except BaseException:
            self._connection.close()
            raise

    def write(self, rows: Sequence[NumberedRow]) -> Written:
        """Write the rows whose ids are not there yet. Raises psycopg2.Error."""
        if not rows:
            return Written(0, 0)
        with self._cursor() as cursor:
            # A COPY is quicker, but when it fails it ends the transaction of a sealed table too.
            if self._unproved is None:
                try:
                    cursor.copy_expert(_COPY, io.BytesIO(copy_text(rows)), size=1 << 20)
                except errors.UniqueViolation:
                    pass
                else:
                    return Written(len(rows), sum(row.number for row in rows))
            cursor.execute(_INSERT, arrays(rows))
            numbers = {row.identifier: row.number for row in rows}
            written = [identifier for (identifier,) in cursor.fetchall()]
            if self._unproved is not None:
                self._unproved += written
            return Written(len(written), sum(numbers[identifier] for identifier in written))

    @contextmanager
    def sealed(self) -> Iterator["SealedTable"]:
        """From here to the swap nobody else can write to the new table: what is proved stays proved.

        All is one transaction, also what `write` writes. Raises psycopg2.Error.
        """
        with self._cursor() as cursor:
            cursor.execute(
                f"BEGIN; SET LOCAL ROLE {OWNER}; SET LOCAL lock_timeout = '{_WRITERS_SECONDS}s';"
                " SET LOCAL synchronous_commit = on; SET LOCAL statement_timeout = 0;"
                " SET LOCAL idle_in_transaction_session_timeout = 0;"
                f" LOCK TABLE {NEW} IN SHARE ROW EXCLUSIVE MODE"
            )
        self._unproved = []
        try:
            yield SealedTable(self._connection, self._unproved)
        finally:
            self._unproved = None
            if self._connection.info.transaction_status in _IN_TRANSACTION:
                with self._cursor() as cursor:
                    cursor.execute("ROLLBACK")

    def remove_old(self) -> bool:
        """Remove the replaced table; return False if somebody is still reading it."""
        try:
            self._remove(OLD)
            with self._cursor() as cursor:
                cursor.execute(f"BEGIN; SET LOCAL ROLE {OWNER}; ANALYZE {TABLE}; COMMIT")
        except errors.LockNotAvailable:
            return False
        return True

    def close(self) -> None:
        """Remove the new table if it was not swapped, and close the connection."""
        with suppress(psycopg2.Error):
            if not self._connection.closed:
                self._remove(NEW)
        self._connection.close()

    def _take_lock(self) -> None:
        deadline = time.monotonic() + _BUSY_SECONDS
        with self._cursor() as cursor:
            while True:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (_REBUILD_LOCK,))
                row = cursor.fetchone()
                if row is not None and row[0]:
                    return
                if time.monotonic() > deadline:
                    raise BusyError
                time.sleep(_BUSY_SECONDS / 20)

    @contextmanager
    def _cursor(self) -> Iterator[extensions.cursor]:
        with _bounded(self._connection, _STATEMENT_SECONDS), self._connection.cursor() as cursor:
            yield cursor

    def _remove(self, table: str) -> None:
        with self._cursor() as cursor:
            try:
                cursor.execute(
                    f"BEGIN; SET LOCAL ROLE {OWNER}; SET LOCAL lock_timeout = '{_WRITERS_SECONDS}s';"
                    f" DROP TABLE IF EXISTS {table}; COMMIT"
                )
            except psycopg2.Error:
                if not self._connection.closed:
                    cursor.execute("ROLLBACK")
                raise


class SealedTable:
    """The new table while only we can write to it, and its swap with the old one."""

    def __init__(self, connection: extensions.connection, unproved: list[str]) -> None:
        """Use `connection`, whose transaction has the lock and the owner's rights."""
        self._connection = connection
        self._unproved = unproved

    def measure(self) -> Written:
        """Read the whole new table: the number of its rows, and the sum of their numbers."""
        return self._measure(checksum.query(NEW))

    def measure_rest(self) -> Written:
        """Read the rows that were written since the last time (or since it is sealed)."""
        try:
            return self._measure(f"{checksum.query(NEW)} WHERE id = ANY (%s::uuid[])", self._unproved)
        finally:
            self._unproved.clear()

    def unknown(self, most: int) -> list[str]:
        """Return ids (at most `most`) that are in the old table only, perhaps only so far."""
        return self._identifiers(_UNKNOWN, most)

    def missing(self, identifiers: Sequence[str]) -> list[str]:
        """Return those of `identifiers` that are not in the new table."""
        return self._identifiers(_MISSING, list(identifiers))

    @contextmanager
    def writers_held(self) -> Iterator[None]:
        """Block the writers of the old table, not its readers.

        When it ends by an exception, all that was written meanwhile is taken back. Raises LockedError when
        the writers do not release the table, and psycopg2.Error.
        """
        with self._cursor(_STATEMENT_SECONDS) as cursor:
            cursor.execute(
                f"SAVEPOINT writers; SET LOCAL lock_timeout = '{_WRITERS_SECONDS}s';"
                # Of a rebuild that is frozen the writers must not wait for ever.
                " SET LOCAL idle_in_transaction_session_timeout = '5min'"
            )
            try:
                # In the order in which the writers take them.
                cursor.execute(f"LOCK TABLE {TABLE}, {COUNTS} IN SHARE ROW EXCLUSIVE MODE")
            except errors.LockNotAvailable:
                cursor.execute("ROLLBACK TO SAVEPOINT writers")
                raise LockedError(f"a writer has held {TABLE} for {_WRITERS_SECONDS} s") from None
        try:
            yield
        except BaseException:
            self._unproved.clear()
            if not self._connection.closed:
                with self._cursor(_STATEMENT_SECONDS) as cursor:
                    cursor.execute("ROLLBACK TO SAVEPOINT writers")
            raise

    def count(self, rows: int, next_offsets: Mapping[int, int]) -> None:
        """Set the counts to those of the new table, which takes its place: they change with the swap."""
        with self._cursor(_STATEMENT_SECONDS) as cursor:
            cursor.execute(counts.SET, (rows, list(next_offsets), list(next_offsets.values())))

    def exchange(self, stopped: Callable[[], bool]) -> None:
        """Swap the tables; the writers then continue with the new one.

        Raises LockedError when the readers do not release the old table in time or before `stopped`.
        """
        deadline = time.monotonic() + _READERS_DEADLINE_SECONDS
        with self._cursor(_READERS_DEADLINE_SECONDS * 2) as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{_READERS_MS}ms'; SAVEPOINT readers")
            while True:
                try:
                    cursor.execute(f"LOCK TABLE {NEW}, {TABLE} IN ACCESS EXCLUSIVE MODE")
                    break
                except errors.LockNotAvailable:
                    cursor.execute("ROLLBACK TO SAVEPOINT readers")
                    if stopped() or time.monotonic() > deadline:
                        raise LockedError(
                            f"readers have held {TABLE} for {_READERS_DEADLINE_SECONDS:g} s"
                        ) from None
                    time.sleep(_READERS_PAUSE_SECONDS)
            for table, name in ((TABLE, OLD), (NEW, TABLE)):
                cursor.execute(_NAMES, {"table": table})
                for kind, part in cursor.fetchall():
                    cursor.execute(_rename(kind, table, part, name))
                cursor.execute(f"ALTER TABLE {table} RENAME TO {name}")
            cursor.execute(f"ALTER TABLE {TABLE} RESET (autovacuum_enabled)")
            cursor.execute("COMMIT")

    def _measure(self, query: str, *parameters: object) -> Written:
        with self._cursor(_PROOF_SECONDS) as cursor:
            cursor.execute(query, parameters)
            row = cursor.fetchone()
        if row is None:
            raise psycopg2.DataError("the proof has no row")
        return Written(int(row[0]), int(row[1]))

    def _identifiers(self, query: str, *parameters: object) -> list[str]:
        with self._cursor(_PROOF_SECONDS) as cursor:
            cursor.execute(query, parameters)
            return [identifier for (identifier,) in cursor.fetchall()]

    @contextmanager
    def _cursor(self, seconds: float) -> Iterator[extensions.cursor]:
        with _bounded(self._connection, seconds), self._connection.cursor() as cursor:
            yield cursor


def _rename(kind: str, table: str, part: str, name: str) -> str:
    renamed = name + part.removeprefix(table)
    if kind == "INDEX":
        return f'ALTER INDEX "{part}" RENAME TO "{renamed}"'
    return f'ALTER TABLE {table} RENAME CONSTRAINT "{part}" TO "{renamed}"'


@contextmanager
def _bounded(connection: extensions.connection, seconds: float) -> Iterator[None]:
    """Limit the wait for an answer to `seconds`; after that psycopg2.OperationalError is raised."""
    timer = threading.Timer(seconds, connections.sever, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
