import json
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.processes import until
from tests.integration.service import Running
from timestamp_service import instants

pytestmark = pytest.mark.integration

RECORD = "/api/v1/timestamp/"


def test_what_was_posted_can_be_read_at_once(running: Running) -> None:
    before = datetime.now(UTC)
    answer = running.command.ask("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    identifier = answer.json()["id"]
    assert answer.json() == {"id": identifier}
    assert uuid.UUID(identifier).version == 7
    assert answer.headers["location"] == f"/api/v1/timestamp/{identifier}"

    read = running.query.ask("GET", answer.headers["location"])

    assert read.status == 200
    assert read.headers["content-type"] == "application/json"
    record = read.json()
    created_at = record.pop("created_at")
    assert record == {
        "id": identifier,
        "command_id": identifier,
        "event_timestamp": "2009-09-28T19:03:12Z",
    }
    assert instants.normalise(created_at) == created_at
    # The broker's clock counts milliseconds.
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(created_at) <= datetime.now(UTC)


@pytest.mark.parametrize("path", ["/api/v1/timestamp", "/api/v1/timestamp/", "/app"])
def test_without_a_timestamp_it_is_now(running: Running, path: str) -> None:
    before = datetime.now(UTC) - timedelta(microseconds=1)
    answer = running.command.ask("POST", path)
    assert answer.status == 200
    record = running.get(answer.json()["id"]).json()
    assert before <= datetime.fromisoformat(record["event_timestamp"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("2009-09-28T19:03:12.123456789Z", "2009-09-28T19:03:12.123456789Z"),
        ("2009-09-28T19:03:12+02:00", "2009-09-28T17:03:12Z"),
        ("2009-09-28T19:03:12%2B02:00", "2009-09-28T17:03:12Z"),
        ("2009-09-28T19%3A03%3A12%2b02%3A00", "2009-09-28T17:03:12Z"),
        ("2009-09-28%2019:03:12.50z", "2009-09-28T19:03:12.5Z"),
        ("0001-01-01T00:00:00.000000001Z", "0001-01-01T00:00:00.000000001Z"),
        ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
        ("0000-12-31T23:00:00-01:00", "0001-01-01T00:00:00Z"),
    ],
)
def test_paths(running: Running, sent: str, answered: str) -> None:
    assert running.get(running.post(sent)).json()["event_timestamp"] == answered


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moment=st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001 (it gets its offset below)
    minutes=st.integers(-1439, 1439),
    nanoseconds=st.integers(0, 999_999_999),
    digits=st.integers(0, 9),
)
def test_any_instant_comes_back_to_the_nanosecond(
    running: Running, moment: datetime, minutes: int, nanoseconds: int, digits: int
) -> None:
    seconds = moment.replace(microsecond=0)
    fraction = f"{nanoseconds:09d}"[:digits]
    sign, rest = "-" if minutes < 0 else "+", abs(minutes)
    sent = f"{seconds.isoformat()}{'.' if digits else ''}{fraction}{sign}{rest // 60:02d}:{rest % 60:02d}"

    answered = running.get(running.post(quote(sent))).json()["event_timestamp"]

    utc = (seconds - timedelta(minutes=minutes)).isoformat()
    fraction = fraction.rstrip("0")
    assert answered == (f"{utc}.{fraction}Z" if fraction else f"{utc}Z")


def test_many_at_once(running: Running) -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    sent = [(start + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ") for number in range(300)]
    with ThreadPoolExecutor(20) as pool:
        identifiers = list(pool.map(running.post, sent))
        records = [answer.json() for answer in pool.map(running.get, identifiers)]
    assert len(set(identifiers)) == len(sent)
    assert [record["event_timestamp"] for record in records] == sent
    assert [record["id"] for record in records] == identifiers


def test_the_message_in_the_log(running: Running) -> None:
    correlation = str(uuid.uuid4())
    identifier = running.post("2009-09-28T19:03:12.5+02:00", {"correlationId": correlation})
    found = [
        message
        for message in running.world.read_topic(running.world.topic)
        if message.key() == identifier.encode()
    ]
    assert len(found) == 1
    assert json.loads(found[0].value()) == {
        "command_id": identifier,
        "event_timestamp": "2009-09-28T17:03:12.5Z",
    }
    assert found[0].headers() == [("correlationId", correlation.encode())]


def test_one_request_can_be_followed_through_all_logs(running: Running) -> None:
    headers = {
        "correlationId": str(uuid.uuid4()).upper(),
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    posted = running.command.ask("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z", headers)
    identifier = posted.json()["id"]
    read = running.get(identifier, headers)

    for answer in (posted, read):
        assert answer.headers["correlationid"] == headers["correlationId"]
        assert answer.headers["traceparent"] == headers["traceparent"]
    for service, event in (
        (running.command, "request"),
        (running.query, "request"),
        (running.consumer, "recorded"),
    ):
        (line,) = service.logged(event, "command_id", identifier)
        assert line["correlationId"] == headers["correlationId"]
        assert line["traceparent"] == headers["traceparent"]


def test_without_a_correlation_one_is_made(running: Running) -> None:
    first, second = (running.command.ask("POST", "/app").headers["correlationid"] for _ in range(2))
    assert first != second
    assert str(uuid.UUID(first)) == first


def test_head_answers_as_get_does_without_the_body(running: Running) -> None:
    identifier = running.post("2009-09-28T19:03:12Z")
    got = running.get(identifier)
    head = running.query.ask("HEAD", RECORD + identifier)
    assert head.status == 200
    assert head.body == b""
    assert head.headers["content-length"] == str(len(got.body))
    assert head.headers["content-type"] == got.headers["content-type"]


def test_an_id_may_be_in_upper_case(running: Running) -> None:
    identifier = running.post("2009-09-28T19:03:12Z")
    assert running.get(identifier.upper()).json()["id"] == identifier


def test_an_id_that_may_be_fresh_is_waited_for(running: Running) -> None:
    fresh = str(uuid.UUID(int=time.time_ns() // 1_000_000 << 80 | 7 << 76 | 2 << 62))
    started = time.monotonic()
    answer = running.get(fresh)
    waited = time.monotonic() - started
    assert answer.status == 404
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["cache-control"] == "no-store"
    assert 1.9 <= waited < 4


def test_a_record_that_comes_ends_the_wait(running: Running) -> None:
    """Its message is sent only after somebody waits for it."""
    fresh = str(uuid.UUID(int=time.time_ns() // 1_000_000 << 80 | 7 << 76 | 2 << 62 | 1))
    value = json.dumps({"command_id": fresh, "event_timestamp": "2009-09-28T19:03:12Z"}).encode()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(running.get, fresh)
        time.sleep(0.5)
        assert not waiting.done()
        running.world.produce([(fresh.encode(), value, [])])
        assert waiting.result(10).json()["event_timestamp"] == "2009-09-28T19:03:12Z"


@pytest.mark.parametrize(
    "identifier", ["00000000-0000-0000-0000-000000000000", "01890a5d-ac96-774b-bcce-b302099a8057"]
)
def test_an_id_of_old_is_not_waited_for(running: Running, identifier: str) -> None:
    started = time.monotonic()
    assert running.get(identifier).status == 404
    assert time.monotonic() - started < 1


def test_health_and_readiness(running: Running) -> None:
    for service in (running.command, running.query, running.consumer):
        health = service.ask("GET", "/health")
        assert (health.status, health.json()) == (200, {"status": "UP"})
        ready = service.ask("GET", "/ready")
        assert (ready.status, ready.json()) == (200, {"status": "READY"})
        assert service.ask("HEAD", "/health").status == 200
        # A task checks the dependencies every two seconds at least, and notifies systemd.
        until("systemd is notified", lambda: "READY=1\nSTATUS=Ready" in service.notifications(), 10)  # noqa: B023


MALFORMED_UUID = {"correlationId": "01890a5d-ac96-774b-bcce-b302099a805"}


@pytest.mark.parametrize(
    ("api", "method", "path", "headers", "status", "expected"),
    [
        ("command", "POST", RECORD + "yesterday", {}, 400, "Expected is RFC 3339 such as 2009-"),
        ("command", "POST", RECORD + "2009-09-28T19:03:12", {}, 400, "offset"),
        ("command", "POST", RECORD + "2009-09-31T19:03:12Z", {}, 400, "there is no day 2009-09-31"),
        ("command", "POST", RECORD + "%FF", {}, 400, "Expected is RFC 3339"),
        ("command", "POST", RECORD + "%00", {}, 400, "Expected is RFC 3339"),
        ("command", "POST", "/app", MALFORMED_UUID, 400, "correlationId is not a UUID"),
        ("command", "POST", "/app", {"Accept": "text/html"}, 406, "application/json"),
        ("command", "POST", "/app", {"Accept": "application/json;q=0"}, 406, "application/json"),
        ("command", "GET", "/app", {}, 405, "POST, OPTIONS"),
        ("command", "GET", RECORD + "x", {}, 405, "GET, HEAD, POST, OPTIONS"),
        ("command", "DELETE", RECORD + "x", {}, 405, "GET, HEAD, POST, OPTIONS"),
        ("command", "POST", "/health", {}, 405, "GET, HEAD, OPTIONS"),
        ("command", "GET", "/nowhere", {}, 404, "nothing at this path"),
        ("command", "POST", RECORD + "2009-09-28T19:03:12Z/x", {}, 404, "nothing at this path"),
        ("query", "GET", RECORD + "x", {}, 400, "it is not a UUID. Expected is one such as"),
        ("query", "GET", RECORD + "01890a5dac96774bbcceb302099a8057", {}, 400, "it is not a UUID"),
        (
            "query",
            "GET",
            RECORD + "00000000-0000-0000-0000-000000000000",
            MALFORMED_UUID,
            400,
            "correlationId",
        ),
        ("query", "GET", RECORD + "00000000-0000-0000-0000-000000000000", {}, 404, "no record of this id"),
        ("query", "GET", RECORD + "x", {"Accept": "text/html"}, 406, "application/json"),
        ("query", "POST", RECORD + "x", {}, 405, "GET, HEAD, POST, OPTIONS"),
        ("query", "GET", "/api/v1/timestamp/", {}, 405, "POST, OPTIONS"),
        ("query", "GET", "/nowhere", {}, 404, "nothing at this path"),
        ("consumer", "GET", "/nowhere", {}, 404, "nothing at this path"),
    ],
)
def test_problems(
    running: Running, api: str, method: str, path: str, headers: dict[str, str], status: int, expected: str
) -> None:
    service = {"command": running.command, "query": running.query, "consumer": running.consumer}[api]
    answer = service.ask(method, path, headers)

    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert expected in problem["detail"]
    assert problem["instance"] == path
    assert problem["correlationId"] == answer.headers["correlationid"]
    if status == 405:
        assert answer.headers["allow"] == expected
    assert [line["status"] for line in service.requests(problem["correlationId"])] == [status]


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"FOO / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
)
def test_what_is_no_http_gets_a_problem_too(running: Running, sent: bytes) -> None:
    for service in (running.command, running.query, running.consumer):
        with socket.create_connection(("127.0.0.1", service.port), timeout=5) as client:
            client.sendall(sent)
            response = HTTPResponse(client)
            response.begin()
            problem = json.loads(response.read())
        assert response.status == problem["status"] == 400
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["correlationId"] == problem["correlationId"]


@pytest.mark.parametrize("accept", ["*/*", "application/*", "text/html, application/json;q=0.1"])
def test_json_is_accepted(running: Running, accept: str) -> None:
    assert running.command.ask("POST", "/app", {"Accept": accept}).status == 200


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        (RECORD + "x", "GET, HEAD, POST, OPTIONS"),
        ("/app", "POST, OPTIONS"),
        ("/health", "GET, HEAD, OPTIONS"),
    ],
)
def test_options(running: Running, path: str, allow: str) -> None:
    for service in (running.command, running.query):
        answer = service.ask("OPTIONS", path)
        assert (answer.status, answer.headers["allow"]) == (200, allow)
        nowhere = service.ask("OPTIONS", "/nowhere")
        assert nowhere.status == 404
        assert "allow" not in nowhere.headers


def test_the_body_of_a_post_is_left_alone(running: Running) -> None:
    assert running.command.ask("POST", "/app", body=b"x" * 100_000).status == 200
