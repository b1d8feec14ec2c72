"""Many records with one request: bulk and ranges."""

import json
import socket
import uuid
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.integration.processes import until
from tests.integration.service import Answer, Running, World
from timestamp_service.command.publisher import BULK_MAX
from timestamp_service.query.ranges import Cursor, Range

pytestmark = pytest.mark.integration

PATH = "/api/v1/timestamps"
JSON = "application/json"
LINES = "application/x-ndjson"


def instants_from(start: datetime, count: int) -> list[str]:
    """Make `count` instants, a second apart."""
    return [(start + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ") for number in range(count)]


def bulk(running: Running, body: bytes, content_type: str = JSON, **headers: str) -> Answer:
    sent = {
        "Content-Type": content_type,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return running.command.ask("POST", PATH, sent, body)


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


@pytest.mark.parametrize("content_type", [JSON, LINES])
def test_all_are_recorded_in_order(running: Running, content_type: str) -> None:
    sent = instants_from(datetime(2020, 1, 1, tzinfo=UTC), 250)
    body = json.dumps(sent) if content_type == JSON else "".join(f"{json.dumps(text)}\n" for text in sent)
    correlation = str(uuid.uuid4())

    answer = bulk(running, body.encode(), content_type, correlationId=correlation)

    assert answer.status == 200
    assert answer.headers["content-type"] == JSON
    identifiers = answer.json()["ids"]
    assert len(set(identifiers)) == len(sent)
    for identifier, text in [*zip(identifiers, sent, strict=True)][::50]:
        assert running.get(identifier).json()["event_timestamp"] == text
    until(
        "all are recorded",
        lambda: (
            {
                line["command_id"]
                for line in running.consumer.events("recorded")
                if line["correlationId"] == correlation
            }
            == set(identifiers)
        ),
    )


def test_as_many_as_may_be_are_safe_to_repeat(running: Running) -> None:
    key = str(uuid.uuid4())
    body = json.dumps(["1999-12-31T23:59:59.999999999Z"] * BULK_MAX).encode()
    first = bulk(running, body, Idempotency_Key=key)
    assert first.status == 200
    assert len(set(first.json()["ids"])) == BULK_MAX
    assert bulk(running, body, Idempotency_Key=key).body == first.body
    # Each at its index: what is sent in another order is something else.
    other = bulk(running, json.dumps(["2000-01-01T00:00:00Z"]).encode(), Idempotency_Key=key)
    assert other.json()["ids"][0] not in first.json()["ids"]
    assert running.get(first.json()["ids"][-1], {"Prefer": "wait=10"}).status == 200
    count = running.world.postgres.run(
        running.world.database,
        "SELECT count(*) FROM timestamp_records WHERE event_timestamp = '1999-12-31T23:59:59.999999Z'",
    )
    assert count == [(BULK_MAX,)]


def test_one_bad_instant_and_nothing_is_recorded(running: Running) -> None:
    before = len(running.world.read_topic(running.world.topic))
    answer = bulk(running, b'["2009-09-28T19:03:12Z", "x", 7, "2009-09-28T19:03:12Z"]')
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["index"] for error in answer.json()["errors"]] == [1, 2]
    assert len(running.world.read_topic(running.world.topic)) == before


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [(400, b"[", JSON), (413, b" " * 1_100_000, JSON), (415, b"[]", "text/plain"), (422, b"{}", JSON)],
)
def test_bodies_that_are_refused(running: Running, status: int, body: bytes, content_type: str) -> None:
    answer = bulk(running, body, content_type)
    assert (answer.status, answer.json()["status"]) == (status, status)


def test_a_body_without_a_length_is_bounded_too(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.command.port), timeout=10) as client:
        client.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        try:
            for _ in range(40):
                client.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        response = HTTPResponse(client)
        response.begin()
        assert response.status == 413
        assert json.loads(response.read())["status"] == 413


def test_too_much_in_flight(world: World) -> None:
    command = world.start_command(KAFKA_IN_FLIGHT_MAX="1")
    command.wait_until_ready()
    # A bulk is one request, however much is in it.
    body = json.dumps(["2009-09-28T19:03:12Z"] * BULK_MAX).encode()
    assert command.ask("POST", PATH, {"Content-Type": JSON}, body).status == 200


def test_a_bulk_while_kafka_is_away(bare_world: World) -> None:
    command = bare_world.start_command()
    command.wait_until_serving()
    answer = command.ask("POST", PATH, {"Content-Type": JSON}, b'["2009-09-28T19:03:12Z"]')
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"


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
