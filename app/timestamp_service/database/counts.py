"""What the consumer counts as written, in the transaction that writes it: so many rows must be in the table.

A row for each partition, so that consumers do not wait for each other. Records that the table has already are
not counted again. A database that is new begins with the first message of each partition: where it did not,
what came before is missing, though the consumer is not behind.
"""

from collections.abc import Sequence

from timestamp_service.database.rows import insert_statement
from timestamp_service.database.schema import BEFORE, COUNTS, TABLE

# Of one partition in a batch: its number, the first offset, and the offset to go on from.
Span = tuple[int, int, int]


def _numbered(statement: str) -> str:
    """Return `statement` with the parameters of PREPARE."""
    return statement % tuple(f"${number}" for number in range(1, statement.count("%s") + 1))


def _add(written: str) -> str:
    # All in the same order, so that no two wait for each other.
    return f"""
INSERT INTO {COUNTS} AS counted (partition, first_offset, next_offset, records)
SELECT partition,
  CASE WHEN EXISTS (SELECT FROM {COUNTS} WHERE partition = {BEFORE}) THEN 0 ELSE first_offset END,
  next_offset, CASE place WHEN 1 THEN {written} ELSE 0 END
FROM unnest(%s::integer[], %s::bigint[], %s::bigint[])
  WITH ORDINALITY AS span (partition, first_offset, next_offset, place)
ORDER BY place
ON CONFLICT (partition) DO UPDATE SET
  next_offset = greatest(counted.next_offset, excluded.next_offset),
  records = counted.records + excluded.records
"""  # noqa: S608 (the table's name is our own)


_ADD = _add("%s::bigint")
_WRITE = f"""
WITH written AS ({insert_statement(TABLE, returning=True)})
{_add("(SELECT count(*) FROM written)")}
RETURNING (SELECT count(*) FROM written)
"""  # noqa: S608

# Most batches are small: to plan these statements would take as long as to run them.
PREPARE = f"""
PREPARE count_records (bigint, integer[], bigint[], bigint[]) AS {_numbered(_ADD)};
PREPARE write_records (uuid[], timestamptz[], smallint[], timestamptz[], integer[], bigint[], bigint[]) AS
{_numbered(_WRITE)};
"""
# Counts records that are written: how many, and `arrays` of the spans.
COUNT = "EXECUTE count_records (%s, %s, %s, %s)"
# Writes the records that are not there yet, and counts them: `rows.arrays`, and `arrays` of the spans. Each
# row of the result says how many there were.
WRITE = "EXECUTE write_records (%s, %s, %s, %s, %s, %s, %s)"

# Sets the counts to those of a table that was made from the log: how many rows it has, and the partitions and
# their next offsets.
SET = f"""
DELETE FROM {COUNTS};
INSERT INTO {COUNTS} VALUES ({BEFORE}, 0, 0, %s);
INSERT INTO {COUNTS} SELECT partition, 0, next_offset, 0
FROM unnest(%s::integer[], %s::bigint[]) AS span (partition, next_offset);
"""  # noqa: S608


def arrays(spans: Sequence[Span]) -> tuple[list[int], list[int], list[int]]:
    """Return the columns of spans, in the order of their partitions, as parameters of the statements."""
    return [span[0] for span in spans], [span[1] for span in spans], [span[2] for span in spans]
