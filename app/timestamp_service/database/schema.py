"""The table of records, and how it is created when it is absent."""

from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names its class in lower case)

TABLE = "timestamp_records"
OWNER = "timestamp_owner"

# The key of the advisory lock under which the table is created: any number, the same in all releases.
_MIGRATION_LOCK = 7_358_214_901

_PRESENT = f"SELECT to_regclass('{TABLE}') IS NOT NULL"


def definition(table: str) -> str:
    """Return the statements that create a table of records named `table`, with its index and rights."""
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


def create_if_absent(connection: Connection) -> bool:
    """Create the table unless it exists; return whether it was created. Several may do so at once.

    `connection` must be in autocommit mode, and its role a member of the owner. Raises psycopg2.Error.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PRESENT)
        row = cursor.fetchone()
        if row is not None and row[0]:
            return False
        # As one simple query: after an error the caller closes the connection, which rolls it back.
        cursor.execute(_CREATE)
        return True
