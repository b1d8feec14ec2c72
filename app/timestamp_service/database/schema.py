"""The table of records, and how it is made when it is absent."""

from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names its class in lower case)

TABLE = "timestamp_records"
OWNER = "timestamp_owner"

# Any number, the same in all releases: who holds it makes the table, others wait.
_MIGRATION_LOCK = 7_358_214_901

_PRESENT = f"SELECT to_regclass('{TABLE}') IS NOT NULL"


def definition(table: str) -> str:
    """Return the statements that make a table of records named `table`, with its indexes and rights."""
    return f"""
CREATE TABLE IF NOT EXISTS {table} (
  id uuid PRIMARY KEY,
  event_timestamp timestamptz NOT NULL,
  -- What timestamptz cannot hold.
  event_nanoseconds smallint NOT NULL DEFAULT 0 CHECK (event_nanoseconds BETWEEN 0 AND 999),
  -- When the broker appended the message: a rebuild gives the same.
  created_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS {table}_by_instant ON {table} (event_timestamp, event_nanoseconds, id);
GRANT INSERT, SELECT (id) ON {table} TO timestamp_consumer;
GRANT SELECT ON {table} TO timestamp_query;
"""


_CREATE = f"""
BEGIN;
SET LOCAL lock_timeout = '10s';
SET LOCAL ROLE {OWNER};
SELECT pg_advisory_xact_lock({_MIGRATION_LOCK});
{definition(TABLE)}
COMMIT;
"""


def make_when_absent(connection: Connection) -> bool:
    """Make the table unless it is there; tell whether it was made. Several may do so at once.

    `connection` is in autocommit mode, as a member of the owner. Raises psycopg2.Error.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PRESENT)
        row = cursor.fetchone()
        if row is not None and row[0]:
            return False
        # One simple query: its BEGIN is rolled back with it when the connection is thrown away.
        cursor.execute(_CREATE)
        return True
