"""Whether a database is whole: its table holds the rows that the consumer has counted as written.

Below EXACT_ROWS the rows are counted, so each one that is missing is noticed. A larger table is not read: its
size must suffice for the counted rows. That notices a table that was emptied (TRUNCATE), dropped, or replaced
by one with fewer rows, until it has grown as large again; and rows that were deleted, but only where VACUUM
could give their pages back, which it does at the table's end (and soon, where all were deleted). At any size
a database is noticed that was made anew and begins in the middle of the log. Nothing here notices rows that
were changed or added: the proof of a rebuild does.
"""

from collections.abc import Mapping

from timestamp_service.database.connections import AsyncConnection
from timestamp_service.database.schema import COUNTS, ROW_BYTES, TABLE

EXACT_ROWS = 100_000
# Far longer than such a table takes to be counted.
_CHECK_SECONDS = 2.0

_COUNTED = f"SELECT to_regclass('{COUNTS}') IS NOT NULL"
_WHOLE = f"""
SELECT begun AND CASE
    WHEN records < {EXACT_ROWS} THEN (SELECT count(*) FROM {TABLE}) >= records
    ELSE pg_relation_size('{TABLE}') >= records * {ROW_BYTES}
  END, next_offsets
FROM (
  SELECT
    coalesce(sum(records), 0) AS records,
    coalesce(bool_and(first_offset = 0), true) AS begun,
    coalesce(json_object_agg(partition, next_offset), '{{}}') AS next_offsets
  FROM {COUNTS}
) AS counted
"""  # noqa: S608 (the tables' names are our own)

# By partition, as text.
Offsets = Mapping[str, int]


class NotWholeError(Exception):
    """Rows are missing that were written once. Only a rebuild helps."""


async def check(connection: AsyncConnection) -> Offsets | None:
    """Return how far a database is projected; None where that was never counted: it passes as whole.

    Raises NotWholeError, psycopg2.Error and DeadlineError.
    """
    ((counted,),) = await connection.fetch(_COUNTED, None, _CHECK_SECONDS)
    if not counted:
        return None
    ((whole, next_offsets),) = await connection.fetch(_WHOLE, None, _CHECK_SECONDS)
    if not whole:
        raise NotWholeError
    offsets: Offsets = next_offsets
    return offsets
