"""Pages of records by their instants: what a request asks for, and the query that answers it.

A page begins right after the last record of the page before (keyset): its cost does not grow with its number.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from falcon import uri

from timestamp_service import identifiers, instants
from timestamp_service.database.records import COLUMNS, Record
from timestamp_service.database.schema import TABLE
from timestamp_service.web import problems

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
PARAMETERS = ("from", "to", "limit", "cursor")

_TIMES = "(event_timestamp, event_nanoseconds)"
_POSITION = "(event_timestamp, event_nanoseconds, id)"
_TIMES_VALUE = "(%s::timestamptz, %s::smallint)"
_SELECT = f"SELECT {COLUMNS} FROM {TABLE}"  # noqa: S608
# By the columns: their bare names would be those of the texts that are selected.
_ORDER = f"ORDER BY {TABLE}.event_timestamp, {TABLE}.event_nanoseconds, {TABLE}.id LIMIT %s"
# Of a projection (`Projections`). One that is not known counts as none.
_MARK = re.compile(r"[0-9]{1,3}")
# Where a form would have put the space between date and time.
_SEPARATOR = 10


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a record stands in the order: by instant, then by id; and the mark of who gave it."""

    instant: str
    identifier: str
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """At most `limit` records whose instants are in [start, end), of those after `after`."""

    start: str | None = None
    end: str | None = None
    limit: int = LIMIT_DEFAULT
    after: Cursor | None = None

    def query(self) -> tuple[str, tuple[Any, ...]]:
        """Return the SQL, and its parameters, of the page and of one record more: is there another page?"""
        conditions: list[str] = []
        values: list[Any] = []
        if self.start is not None:
            conditions.append(f"{_TIMES} >= {_TIMES_VALUE}")
            values += instants.to_columns(self.start)
        if self.end is not None:
            conditions.append(f"{_TIMES} < {_TIMES_VALUE}")
            values += instants.to_columns(self.end)
        if self.after is not None:
            conditions.append(f"{_POSITION} > (%s::timestamptz, %s::smallint, %s::uuid)")
            values += [*instants.to_columns(self.after.instant), self.after.identifier]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"{_SELECT}{where} {_ORDER}", (*values, self.limit + 1)

    def page(self, records: Sequence[Record], mark: str | None = None) -> bytes:
        """Return the page as the API answers it, of what `query` gave; `mark` is that of who gave it."""
        items, more = records[: self.limit], len(records) > self.limit
        following = "null"
        if more:
            last = Cursor(items[-1].event_timestamp, items[-1].identifier, mark)
            following = f'"{encode_cursor(last)}"'
        return b'{"items":[%s],"next":%s}' % (
            b",".join([record.to_json() for record in items]),
            following.encode(),
        )


def encode_cursor(cursor: Cursor) -> str:
    """Return the opaque text of `cursor`."""
    parts = [cursor.instant, cursor.identifier, *([] if cursor.mark is None else [cursor.mark])]
    return base64.urlsafe_b64encode(" ".join(parts).encode()).rstrip(b"=").decode()


def parse(query_string: str) -> Range:
    """Return the range that a URL's query asks for; an empty value counts as none. Raises a 400 problem."""
    values: dict[str, str] = {}
    for part in query_string.split("&"):
        name, _, value = part.partition("=")
        name, value = uri.decode(name, unquote_plus=False), uri.decode(value, unquote_plus=False)
        if not part:
            continue
        if name not in PARAMETERS:
            raise problems.Problem(
                400, f"There is no such parameter. Expected are only {', '.join(PARAMETERS)}."
            )
        if name in values:
            raise problems.Problem(400, f"The parameter {name} is there more than once. Expected is one.")
        values[name] = value
    start, end = (_instant(name, values.get(name)) for name in ("from", "to"))
    if start is not None and end is not None and _order(start) > _order(end):
        raise problems.Problem(400, f"The range is not accepted: from ({start}) is after to ({end}).")
    return Range(
        start=start,
        end=end,
        limit=_limit(values.get("limit")),
        after=_cursor(values.get("cursor")),
    )


def _instant(name: str, text: str | None) -> str | None:
    if not text:
        return None
    # A bare + is the sign of an offset, as in a path: not the space that a form would make of it.
    if text[_SEPARATOR : _SEPARATOR + 1] == "+":
        text = f"{text[:_SEPARATOR]} {text[_SEPARATOR + 1 :]}"
    try:
        return instants.normalise(text)
    except instants.InstantError as error:
        raise problems.Problem(
            400,
            f"The parameter {name} is not accepted: {error}. "
            f"Expected is RFC 3339 such as {instants.EXAMPLE}.",
        ) from None


def _order(instant: str) -> tuple[str, str]:
    """Return what orders canonical instants as they come: the fraction is a text of its own."""
    seconds, _, fraction = instant.removesuffix("Z").partition(".")
    return seconds, fraction


def _limit(text: str | None) -> int:
    if not text:
        return LIMIT_DEFAULT
    if text.isascii() and text.isdecimal():
        digits = text.lstrip("0")
        if digits and len(digits) <= len(str(LIMIT_MAX)) and int(digits) <= LIMIT_MAX:
            return int(digits)
    raise problems.Problem(400, f"The parameter limit is not accepted. Expected is 1 to {LIMIT_MAX}.")


def _cursor(text: str | None) -> Cursor | None:
    if not text:
        return None
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        text = base64.b64decode(padded, b"-_", validate=True).decode("ascii")
        instant, identifier, *marks = text.split(" ")
        if marks and _MARK.fullmatch(" ".join(marks)) is None:
            raise ValueError("the mark is no number")
        return Cursor(instants.normalise(instant), identifiers.normalise(identifier), *marks)
    except (ValueError, binascii.Error):
        raise problems.Problem(
            400, "The parameter cursor is not accepted. Expected is the value next of the page before."
        ) from None
