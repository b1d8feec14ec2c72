"""The new table: made beside the old one, filled, proved, and put in its place."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg2
from psycopg2 import errors, extensions

from timestamp_service.database import connections, schema
from timestamp_service.database.rows import arrays, copy_statement, copy_text, insert_statement
from timestamp_service.database.schema import OWNER, TABLE
from timestamp_service.rebuild import checksum
from timestamp_service.rebuild.rows import Row
from timestamp_service.settings import Database

NEW = f"{TABLE}_rebuild"
OLD = f"{TABLE}_replaced"
APPLICATION = "timestamp-rebuild"

# Any number, the same in all releases: who holds it rebuilds.
_REBUILD_LOCK = 7_358_214_902

# The server may notice only after 10 s that a process was killed which had the lock.
_BUSY_SECONDS = 12.0

# A frozen server is left after this long; a proof reads whole tables.
_STATEMENT_SECONDS = 60.0
_PROOF_SECONDS = 3600.0

# Waiting for the writers to finish. Above deadlock_timeout (1 s), after which an autovacuum gives way.
_WRITERS_SECONDS = 5
# Waiting for readers, behind which other readers wait: a GET must not be late for that.
_READERS_MS = 500
_READERS_PAUSE_SECONDS = 0.5
# How long the readers may keep us from swapping, while the writers wait.
_READERS_DEADLINE_SECONDS = 20.0

_COPY = copy_statement(NEW)
_INSERT = insert_statement(NEW, returning=True)
_UNKNOWN = f"""
SELECT id::text FROM {TABLE} AS old WHERE NOT EXISTS (SELECT FROM {NEW} AS new WHERE new.id = old.id) LIMIT 10
"""  # noqa: S608
_MAKE = f"BEGIN; SET LOCAL ROLE {OWNER}; {schema.definition(NEW)}"
# The names of what belongs to a table begin with its own.
_NAMES = """
SELECT 'CONSTRAINT', conname FROM pg_constraint WHERE conrelid = %(table)s::regclass
UNION ALL
SELECT 'INDEX', relname FROM pg_index JOIN pg_class ON oid = indexrelid
WHERE indrelid = %(table)s::regclass AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


class BusyError(Exception):
    """Another rebuild is going on."""


class LockedError(Exception):
    """Writers or readers of the old table did not let go of it in time; it may be tried again."""


@dataclass(frozen=True, slots=True)
class Written:
    """How many rows were not there before, and what their numbers add up to."""

    rows: int
    total: int


class Table:
    """The new table, by one connection that is used by one thread at a time."""

    def __init__(self, database: Database) -> None:
        """Make an empty new table; remove what an earlier rebuild left. Raises psycopg2.Error, BusyError."""
        self._dsn = connections.dsn(database, APPLICATION)
        self._connection = connections.connect(self._dsn)
        try:
            self._be_the_only_one()
            with self._asking() as cursor:
                # Whatever a crash takes of it is made again; the swap commits it all to the disk.
                cursor.execute("SET synchronous_commit = off")
            with self._asking():
                schema.make_when_absent(self._connection)
            self._remove(OLD)
            self._remove(NEW)
            with self._asking() as cursor:
                # Nothing in it is ever vacuumed before it is in place, and no vacuum shall hold up the swap.
                cursor.execute(f"{_MAKE}; ALTER TABLE {NEW} SET (autovacuum_enabled = false); COMMIT")
        except BaseException:
            self._connection.close()
            raise

    def write(self, rows: Sequence[Row]) -> Written:
        """Write the rows whose ids are not there yet. Raises psycopg2.Error."""
        if not rows:
            return Written(0, 0)
        with self._asking() as cursor:
            try:
                cursor.copy_expert(_COPY, io.BytesIO(copy_text(rows)), size=1 << 20)
            except errors.UniqueViolation:
                pass
            else:
                return Written(len(rows), sum(row.number for row in rows))
            cursor.execute(_INSERT, arrays(rows))
            numbers = {row.identifier: row.number for row in rows}
            written = [numbers[identifier] for (identifier,) in cursor.fetchall()]
            return Written(len(written), sum(written))

    @contextmanager
    def writers_held(self) -> Iterator["Swap"]:
        """Hold the writers of the old table, while readers go on; give what may be done then.

        Raises LockedError when the writers do not let go, and psycopg2.Error.
        """
        gate = connections.connect(self._dsn)
        try:
            with _bounded(gate, _STATEMENT_SECONDS), gate.cursor() as cursor:
                cursor.execute(
                    f"BEGIN; SET LOCAL ROLE {OWNER}; SET LOCAL lock_timeout = '{_WRITERS_SECONDS}s';"
                    " SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '5min'"
                )
                try:
                    cursor.execute(f"LOCK TABLE {TABLE} IN SHARE ROW EXCLUSIVE MODE")
                except errors.LockNotAvailable:
                    raise LockedError(f"a writer has held {TABLE} for {_WRITERS_SECONDS} s") from None
            yield Swap(gate)
        finally:
            # What is not committed is rolled back with it.
            gate.close()

    def remove_old(self) -> bool:
        """Remove the table that was replaced; tell whether nobody was still reading it."""
        try:
            self._remove(OLD)
            with self._asking() as cursor:
                cursor.execute(f"BEGIN; SET LOCAL ROLE {OWNER}; ANALYZE {TABLE}; COMMIT")
        except errors.LockNotAvailable:
            return False
        return True

    def close(self) -> None:
        """Remove the new table where it was not put in place, and close the connection."""
        with suppress(psycopg2.Error):
            if not self._connection.closed:
                self._remove(NEW)
        self._connection.close()

    def _be_the_only_one(self) -> None:
        deadline = time.monotonic() + _BUSY_SECONDS
        with self._asking() as cursor:
            while True:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (_REBUILD_LOCK,))
                row = cursor.fetchone()
                if row is not None and row[0]:
                    return
                if time.monotonic() > deadline:
                    raise BusyError
                time.sleep(_BUSY_SECONDS / 20)

    @contextmanager
    def _asking(self) -> Iterator[extensions.cursor]:
        with _bounded(self._connection, _STATEMENT_SECONDS), self._connection.cursor() as cursor:
            yield cursor

    def _remove(self, table: str) -> None:
        with self._asking() as cursor:
            try:
                cursor.execute(
                    f"BEGIN; SET LOCAL ROLE {OWNER}; SET LOCAL lock_timeout = '{_WRITERS_SECONDS}s';"
                    f" DROP TABLE IF EXISTS {table}; COMMIT"
                )
            except psycopg2.Error:
                if not self._connection.closed:
                    cursor.execute("ROLLBACK")
                raise


class Swap:
    """What may be done while no writer of the old table goes on."""

    def __init__(self, gate: extensions.connection) -> None:
        """Use `gate`, whose transaction holds the lock, as the owner."""
        self._gate = gate

    def measure(self) -> Written:
        """Read the whole new table: its rows, and what their numbers add up to."""
        with _bounded(self._gate, _PROOF_SECONDS), self._gate.cursor() as cursor:
            cursor.execute(checksum.query(NEW))
            row = cursor.fetchone()
        if row is None:
            raise psycopg2.DataError("the proof has no row")
        return Written(int(row[0]), int(row[1]))

    def unknown(self) -> list[str]:
        """Return ids (at most ten) that the old table has and the new one has not."""
        with _bounded(self._gate, _PROOF_SECONDS), self._gate.cursor() as cursor:
            cursor.execute(_UNKNOWN)
            return [identifier for (identifier,) in cursor.fetchall()]

    def exchange(self, stopped: Callable[[], bool]) -> None:
        """Put the new table in the place of the old one, and let the writers go on with it.

        Raises LockedError when readers do not let go, or `stopped` says so.
        """
        deadline = time.monotonic() + _READERS_DEADLINE_SECONDS
        with _bounded(self._gate, _READERS_DEADLINE_SECONDS * 2), self._gate.cursor() as cursor:
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
                for kind, found in cursor.fetchall():
                    cursor.execute(_rename(kind, table, found, name))
                cursor.execute(f"ALTER TABLE {table} RENAME TO {name}")
            cursor.execute(f"ALTER TABLE {TABLE} RESET (autovacuum_enabled)")
            cursor.execute("COMMIT")


def _rename(kind: str, table: str, found: str, name: str) -> str:
    renamed = name + found.removeprefix(table)
    if kind == "INDEX":
        return f'ALTER INDEX "{found}" RENAME TO "{renamed}"'
    return f'ALTER TABLE {table} RENAME CONSTRAINT "{found}" TO "{renamed}"'


@contextmanager
def _bounded(connection: extensions.connection, seconds: float) -> Iterator[None]:
    """End the wait for a server that does not answer within `seconds`: psycopg2.OperationalError."""
    timer = threading.Timer(seconds, connections.sever, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
