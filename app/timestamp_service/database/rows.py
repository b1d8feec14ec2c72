"""Writing many records to a table with one statement: COPY, or an INSERT of arrays."""

from collections.abc import Sequence
from typing import Protocol

from timestamp_service import instants

_COLUMNS = "(id, event_timestamp, event_nanoseconds, created_at)"


class _Record(Protocol):
    """What becomes a row. All are canonical texts, in which nothing needs quoting or escaping."""

    @property
    def identifier(self) -> str:
        """The record's id."""

    @property
    def event_timestamp(self) -> str:
        """The recorded instant."""

    @property
    def created_at(self) -> str:
        """When the broker appended the message."""


def copy_statement(table: str) -> str:
    """Return the COPY of `copy_text`. It fails when one of the ids is already in the table."""
    return f"COPY {table} {_COLUMNS} FROM STDIN"


def insert_statement(table: str, *, returning: bool = False) -> str:
    """Return the INSERT of `arrays`, which skips the ids that are already in the table.

    With `returning` its result is the ids that it has inserted.
    """
    return f"""
INSERT INTO {table} {_COLUMNS}
SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::smallint[], %s::timestamptz[])
ON CONFLICT (id) DO NOTHING{" RETURNING id::text" if returning else ""}
"""  # noqa: S608 (the table's name is our own)


def copy_text(records: Sequence[_Record]) -> bytes:
    """Return the rows of `records` in COPY's text format."""
    lines = []
    for record in records:
        timestamp, nanoseconds = instants.to_columns(record.event_timestamp)
        lines.append(f"{record.identifier}\t{timestamp}\t{nanoseconds}\t{record.created_at}\n")
    return "".join(lines).encode("ascii")


def arrays(records: Sequence[_Record]) -> tuple[str, str, str, str]:
    """Return the parameters of `insert_statement`: the columns as texts of PostgreSQL's arrays."""
    columns = [instants.to_columns(record.event_timestamp) for record in records]
    return (
        f"{{{','.join([record.identifier for record in records])}}}",
        f"{{{','.join([timestamp for timestamp, _ in columns])}}}",
        f"{{{','.join([str(nanoseconds) for _, nanoseconds in columns])}}}",
        f"{{{','.join([record.created_at for record in records])}}}",
    )
