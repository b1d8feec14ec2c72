import base64

import pytest

from timestamp_service.database.records import Record
from timestamp_service.query import ranges
from timestamp_service.query.ranges import Cursor, Range
from timestamp_service.web.problems import Problem

INSTANT = "2009-09-28T19:03:12.123456789Z"
IDENTIFIER = "01890a5d-ac96-774b-bcce-b302099a8057"
CURSOR = Cursor(INSTANT, IDENTIFIER)
MARKED = Cursor(INSTANT, IDENTIFIER, "12")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", Range()),
        ("from=&to=&limit=&cursor=", Range()),
        ("&&", Range()),
        ("from=2009-09-28T19:03:12Z", Range(start="2009-09-28T19:03:12Z")),
        ("to=2009-09-28T19%3A03%3A12%2B02%3A00", Range(end="2009-09-28T17:03:12Z")),
        ("to=2009-09-28T19:03:12+02:00", Range(end="2009-09-28T17:03:12Z")),
        # As a form sends the space.
        ("to=2009-09-28+19:03:12+02:00", Range(end="2009-09-28T17:03:12Z")),
        ("to=2009-09-28%2019:03:12z", Range(end="2009-09-28T19:03:12Z")),
        ("limit=1", Range(limit=1)),
        ("limit=1000", Range(limit=1000)),
        ("limit=0005", Range(limit=5)),
        ("limit=00005", Range(limit=5)),
        ("limit=" + "0" * 5000 + "1000", Range(limit=1000)),
        # It has no records.
        (
            "from=2009-09-28T19:03:12Z&to=2009-09-28T21:03:12%2B02:00",
            Range("2009-09-28T19:03:12Z", "2009-09-28T19:03:12Z"),
        ),
        (
            "from=2009-09-28T19:03:12.45Z&to=2009-09-28T19:03:12.5Z",
            Range("2009-09-28T19:03:12.45Z", "2009-09-28T19:03:12.5Z"),
        ),
        (f"cursor={ranges.encode_cursor(CURSOR)}", Range(after=CURSOR)),
        # With the mark of a projection.
        (f"cursor={ranges.encode_cursor(MARKED)}", Range(after=MARKED)),
    ],
)
def test_parse(query: str, expected: Range) -> None:
    assert ranges.parse(query) == expected


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("from=yesterday", "parameter from"),
        ("to=2009-09-28T19:03:12", "parameter to"),
        ("limit=0", "1 to 1000"),
        ("limit=0000", "1 to 1000"),
        ("limit=01001", "1 to 1000"),
        ("from=2009-09-28T19:03:13Z&to=2009-09-28T19:03:12Z", "is after"),
        ("from=2009-09-28T19:03:12.5Z&to=2009-09-28T19:03:12.45Z", "is after"),
        ("from=2009-09-28T19:03:12.1Z&to=2009-09-28T19:03:12Z", "is after"),
        ("from=2009-09-28T19:03:12Z&to=2009-09-28T19:03:12%2B00:01", "is after"),
        ("limit=1001", "1 to 1000"),
        ("limit=-1", "1 to 1000"),
        ("limit=1.0", "1 to 1000"),
        ("limit=²", "1 to 1000"),
        ("limit=" + "9" * 5000, "1 to 1000"),
        ("limit=1&limit=2", "more than once"),
        ("form=2009-09-28T19:03:12Z", "only from, to, limit, cursor"),
        ("cursor=x", "next of the page before"),
        ("cursor=é", "next of the page before"),
        ("cursor=" + base64.urlsafe_b64encode(b"x y").decode(), "next of the page before"),
        ("cursor=" + base64.urlsafe_b64encode(f"{INSTANT} {INSTANT} x".encode()).decode(), "page before"),
        *(
            (
                "cursor=" + base64.urlsafe_b64encode(f"{INSTANT} {IDENTIFIER}{mark}".encode()).decode(),
                "page before",
            )
            for mark in (" ", " x", " 1 2", " 1234", "  1")
        ),
        (f"cursor={ranges.encode_cursor(CURSOR)}!", "next of the page before"),
    ],
)
def test_what_is_refused(query: str, reason: str) -> None:
    with pytest.raises(Problem) as raised:
        ranges.parse(query)
    assert raised.value.status_code == 400
    assert reason in (raised.value.description or "")


def test_every_condition_is_in_the_query() -> None:
    query, values = Range(INSTANT, "2010-01-01T00:00:00Z", 7, CURSOR).query()
    assert query.count("%s") == len(values)
    assert values == (
        *("2009-09-28T19:03:12.123456Z", 789),
        *("2010-01-01T00:00:00Z", 0),
        *("2009-09-28T19:03:12.123456Z", 789, IDENTIFIER),
        8,
    )


def test_a_page() -> None:
    records = [Record(f"{number:08d}-0000-7000-8000-000000000000", INSTANT, INSTANT) for number in range(3)]
    assert Range(limit=3).page(records).endswith(b',"next":null}')
    assert (
        Range(limit=2)
        .page(records)
        .endswith(f'"next":"{ranges.encode_cursor(Cursor(INSTANT, records[1].identifier))}"}}'.encode())
    )
    marked = Cursor(INSTANT, records[1].identifier, "1")
    assert ranges.encode_cursor(marked).encode() in Range(limit=2).page(records, "1")
    assert Range().page([]) == b'{"items":[],"next":null}'
