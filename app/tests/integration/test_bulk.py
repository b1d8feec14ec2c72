"""Recording many instants with one request."""

import json
import socket
import uuid
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse

import pytest

from tests.integration.processes import until
from tests.integration.service import Answer, Running, World
from timestamp_service.command.publisher import BULK_MAX

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
