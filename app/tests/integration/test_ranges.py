"""Reading records by their instants, page by page."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.integration.service import Running
from tests.integration.test_bulk import PATH, bulk, instants_from
from timestamp_service.query.ranges import Cursor, Range

pytestmark = pytest.mark.integration


def pages(running: Running, **parameters: str) -> list[dict[str, Any]]:
    """Read all pages of a range."""
    items: list[dict[str, Any]] = []
    following: str | None = ""
    while following is not None:
        answer = running.query.ask("GET", f"{PATH}?{urlencode({**parameters, 'cursor': following})}")
        assert answer.status == 200, answer
        page = answer.json()
        assert len(page["items"]) == int(parameters.get("limit", 100)) or page["next"] is None
        items += page["items"]
        following = page["next"]
    return items


def test_a_range(running: Running) -> None:
    start = datetime(1850, 1, 1, tzinfo=UTC)
    sent = instants_from(start, 25)
    identifiers = bulk(running, json.dumps(sent[::-1]).encode()).json()["ids"][::-1]
    # That of the last message: they are in one partition.
    running.get(identifiers[0], {"Prefer": "wait=10"})
    by_instant = dict(zip(sent, identifiers, strict=True))

    for limit in ("1", "7", "24", "25", "26", "1000"):
        items = pages(running, **{"from": sent[0], "to": "1850-01-01T00:00:25Z", "limit": limit})
        assert [item["event_timestamp"] for item in items] == sent
        assert {item["event_timestamp"]: item["id"] for item in items} == by_instant
    # Half-open.
    items = pages(running, **{"from": sent[3], "to": sent[5]})
    assert [item["event_timestamp"] for item in items] == sent[3:5]
    assert items[0] == running.get(items[0]["id"]).json()
    # Either side may be open, and an offset is understood however its + is sent.
    assert [item["event_timestamp"] for item in pages(running, to=sent[2])][-2:] == sent[:2]
    for plus in ("+", "%2B"):
        answer = running.query.ask("GET", f"{PATH}?from=1850-01-01T02:00:24{plus}02:00&limit=1")
        assert answer.json()["items"][0]["event_timestamp"] == sent[24]
    assert pages(running, **{"from": sent[5], "to": sent[5]}) == []
    refused = running.query.ask("GET", f"{PATH}?from={sent[5]}&to={sent[3]}")
    assert refused.status == 400
    assert "is after to" in refused.json()["detail"]


def test_a_range_is_in_order_to_the_nanosecond_and_then_by_id(running: Running) -> None:
    nanoseconds = [f"1849-01-01T00:00:00.{number:09d}Z" for number in (1, 2, 999, 1000, 1001, 123_456_789)]
    sent = [text for text in nanoseconds for _ in range(3)]
    identifiers = bulk(running, json.dumps(sent[::-1]).encode()).json()["ids"]
    # The last: they are in one partition.
    running.get(identifiers[-1], {"Prefer": "wait=10"})

    items = pages(running, **{"from": sent[0], "to": "1849-01-02T00:00:00Z", "limit": "2"})

    places = [(item["event_timestamp"].rstrip("Z").ljust(29, "0"), item["id"]) for item in items]
    assert places == sorted(places)
    assert sorted(identifier for _, identifier in places) == sorted(identifiers)
    between = pages(running, **{"from": nanoseconds[1], "to": nanoseconds[4]})
    assert len(between) == 9
    assert {item["event_timestamp"] for item in between} == {
        "1849-01-01T00:00:00.000000002Z",
        "1849-01-01T00:00:00.000000999Z",
        "1849-01-01T00:00:00.000001Z",
    }


@pytest.mark.parametrize(
    "query", ["from=x", "limit=0", "limit=1001", "cursor=x", "form=x", "limit=1&limit=2"]
)
def test_ranges_that_are_refused(running: Running, query: str) -> None:
    answer = running.query.ask("GET", f"{PATH}?{query}")
    assert answer.status == 400
    assert answer.json()["instance"] == PATH


def test_pages_are_not_kept(running: Running) -> None:
    answer = running.query.ask("GET", f"{PATH}?limit=1")
    assert answer.headers["cache-control"] == "no-store"
    head = running.query.ask("HEAD", f"{PATH}?limit=1")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(answer.body)))


def test_a_page_costs_the_same_wherever_it_is(running: Running) -> None:
    start = "1850-01-01T00:00:00Z"
    place = Cursor("1850-01-01T00:00:05Z", "00000000-0000-0000-0000-000000000000")
    query, values = Range(start, "1851-01-01T00:00:00Z", 10, place).query()
    plan = running.world.postgres.run(
        running.world.database, f"SET enable_seqscan = off; EXPLAIN {query}", values
    )
    text = "\n".join(row[0] for row in plan)
    assert "timestamp_records_by_instant" in text
    assert "Sort" not in text
    assert "Filter" not in text
