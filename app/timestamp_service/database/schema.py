"""The table of records and that of their counts, and how they are created when they are absent."""

from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names its class in lower case)

TABLE = "timestamp_records"
# How many rows must be in it, and how far the log is projected (`counts`).
COUNTS = "timestamp_counts"
# The partition of the rows that were there before they were counted, or that a rebuild has counted.
BEFORE = -1
OWNER = "timestamp_owner"

# 24 of the row's header, 40 of its aligned columns, and 4 in the page's list of rows.
ROW_BYTES = 68

# The key of the advisory lock under which the table is created: any number, the same in all releases.
_MIGRATION_LOCK = 7_358_214_901

_PRESENT = f"SELECT to_regclass('{TABLE}') IS NOT NULL AND to_regclass('{COUNTS}') IS NOT NULL"


def definition(table: str) -> str:
    """Return the statements that create a table of records named `table`, with its index and rights."""
    return f"""
CREATE TABLE IF NOT EXISTS {table} (
  id uuid PRIMARY KEY,
  -- A row of these columns takes at least ROW_BYTES.
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


# The rows of a database that nobody has counted yet are counted once.
_COUNT = f"""
DO $$ BEGIN
  IF to_regclass('{COUNTS}') IS NULL THEN
    CREATE TABLE {COUNTS} (
      partition integer PRIMARY KEY,
      -- Of the first message that was written: more than 0 where those before it were never written here.
      first_offset bigint NOT NULL,
      next_offset bigint NOT NULL,
      -- Those of a batch stand at one of its partitions: it is their sum that must be in the table.
      records bigint NOT NULL
    );
    GRANT SELECT, INSERT, UPDATE (next_offset, records) ON {COUNTS} TO timestamp_consumer;
    GRANT SELECT ON {COUNTS} TO timestamp_query;
    IF to_regclass('{TABLE}') IS NOT NULL THEN
      INSERT INTO {COUNTS} SELECT {BEFORE}, 0, 0, count(*) FROM {TABLE};
    END IF;
  END IF;
END $$;
"""  # noqa: S608 (the tables' names are our own)

_CREATE = f"""
BEGIN;
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = 0;
SET LOCAL ROLE {OWNER};
SELECT pg_advisory_xact_lock({_MIGRATION_LOCK});
{_COUNT}
{definition(TABLE)}
COMMIT;
"""


def present(connection: Connection) -> bool:
    """Return whether both tables exist. Raises psycopg2.Error."""
    with connection.cursor() as cursor:
        cursor.execute(_PRESENT)
        row = cursor.fetchone()
        return row is not None and bool(row[0])


def create(connection: Connection) -> None:
    """Create the tables that do not exist; this reads all rows where they were never counted.

    Several may do so at once. `connection` must be in autocommit mode, and its role a member of the owner.
    Raises psycopg2.Error.
    """
    with connection.cursor() as cursor:
        # As one simple query: after an error the caller closes the connection, which rolls it back.
        cursor.execute(_CREATE)
