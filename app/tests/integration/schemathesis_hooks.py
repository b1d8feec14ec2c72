"""What schemathesis cannot know from JSON Schema: which texts our formats stand for."""

import json
from datetime import datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

from timestamp_service import instants
from timestamp_service.query import ranges
from timestamp_service.query.ranges import Cursor


def _timestamp(moment: datetime, fraction: str, separator: str, offset: int | None) -> str:
    clock = moment.replace(microsecond=0).isoformat(separator)
    sign, minutes = ("-" if (offset or 0) < 0 else "+"), abs(offset or 0)
    zone = "Z" if offset is None else f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    return f"{clock}{'.' if fraction else ''}{fraction}{zone}"


# "date-time" as we take it: without leap seconds, and within the years 0001 to 9999 in UTC.
timestamps = st.builds(
    _timestamp,
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 (it gets its offset)
    st.text("0123456789", max_size=9),
    st.sampled_from("Tt "),
    st.none() | st.integers(-1439, 1439),
)

schemathesis.openapi.format("date-time", timestamps)
schemathesis.openapi.format(
    "cursor",
    st.builds(
        lambda moment, identifier: ranges.encode_cursor(Cursor(f"{moment.isoformat()}Z", str(identifier))),
        st.datetimes(datetime(1, 1, 1)),  # noqa: DTZ001 (UTC is meant)
        st.uuids(),
    ),
)
schemathesis.openapi.format(
    "timestamp-lines",
    st.lists(timestamps, min_size=1).map(lambda texts: "".join(f"{json.dumps(text)}\n" for text in texts)),
)


@schemathesis.serializer("application/x-ndjson")
def lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Send what is no text as JSON in a line."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else f"{json.dumps(value)}\n").encode()


@schemathesis.hook
def map_query(_context: schemathesis.HookContext, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """Let a range begin before it ends, which JSON Schema has no word for."""
    if query and isinstance(query.get("from"), str) and isinstance(query.get("to"), str):
        try:
            start, end = (instants.normalise(query[name]) for name in ("from", "to"))
        except instants.InstantError:
            return query
        if start > end:
            return {**query, "from": query["to"], "to": query["from"]}
    return query
