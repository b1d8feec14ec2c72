"""The fast path answers as the framework path does, and leaves to it what is not plain."""

import json
import re
import socket

import pytest

from tests.integration.service import Answer, Running, Service

pytestmark = pytest.mark.integration

CORRELATION = "0b9a9a34-3a4d-4f0e-9d5e-0d6f7f2f8a11"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# A header that the fast path does not know.
FRAMEWORK = {"X-Framework": "1"}


def names(answer: Answer) -> set[str]:
    return set(answer.headers)


@pytest.mark.parametrize(
    "headers",
    [{}, {"correlationId": CORRELATION}, {"correlationId": CORRELATION, "traceparent": TRACE}],
)
@pytest.mark.parametrize(
    "text", ["2009-09-28T19:03:12Z", "2009-09-28t19:03:12.5%2B02:00", "2009-09-28T19:03:12+02:00"]
)
def test_both_paths_answer_a_post_alike(running: Running, text: str, headers: dict[str, str]) -> None:
    path = f"/api/v1/timestamp/{text}"
    fast = running.command.ask("POST", path, headers)
    framework = running.command.ask("POST", path, {**headers, **FRAMEWORK})
    assert fast.status == framework.status == 200
    assert names(fast) == names(framework)
    for answer in (fast, framework):
        assert answer.headers["location"] == f"/api/v1/timestamp/{answer.json()['id']}"
        assert answer.headers["content-type"] == "application/json"
        for name, value in headers.items():
            assert answer.headers[name.lower()] == value
    first, second = (
        running.get(answer.json()["id"], {"Prefer": "wait=10"}).json() for answer in (fast, framework)
    )
    assert first["event_timestamp"] == second["event_timestamp"]


@pytest.mark.parametrize("headers", [{}, {"correlationId": CORRELATION, "traceparent": TRACE}])
def test_both_paths_answer_a_get_alike(running: Running, headers: dict[str, str]) -> None:
    identifier = running.post("2009-09-28T19:03:12.123456789Z")
    running.get(identifier, {"Prefer": "wait=10"})
    fast = running.get(identifier, headers)
    framework = running.get(identifier, {**headers, **FRAMEWORK})
    assert fast.status == framework.status == 200
    assert fast.body == framework.body
    ignored = {"correlationid", "date"} if not headers else {"date"}
    assert {name: fast.headers[name] for name in names(fast) - ignored} == {
        name: framework.headers[name] for name in names(framework) - ignored
    }


@pytest.mark.parametrize("service", ["command", "query"])
@pytest.mark.parametrize(
    ("text", "headers"),
    [("not-one", {}), ("2009-09-28T19:03:12Z", {"correlationId": "x"}), ("a/b", {}), ("%2F", {})],
)
def test_both_paths_refuse_alike(running: Running, service: str, text: str, headers: dict[str, str]) -> None:
    asked: Service = getattr(running, service)
    method = "POST" if service == "command" else "GET"
    path = f"/api/v1/timestamp/{text}"
    fast, framework = (asked.ask(method, path, {**headers, **more}) for more in ({}, FRAMEWORK))
    assert fast.status == framework.status
    assert names(fast) == names(framework)
    assert {**fast.json(), "correlationId": 0} == {**framework.json(), "correlationId": 0}


def test_requests_that_follow_at_once_are_answered_in_turn(running: Running) -> None:
    paths = [f"/api/v1/timestamp/2009-09-28T19:03:{second:02}Z" for second in range(20)]
    requests = "".join(
        f"POST {path} HTTP/1.1\r\nHost: x\r\ncorrelationId: {CORRELATION[:-2]}{number:02}\r\n"
        f"{'X-Framework: 1' + chr(13) + chr(10) if number % 3 == 0 else ''}"
        f"{'Connection: close' + chr(13) + chr(10) if number == 19 else ''}\r\n"
        for number, path in enumerate(paths)
    )
    with socket.create_connection(("127.0.0.1", running.command.port), timeout=30) as connection:
        connection.sendall(requests.encode())
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    identifiers = [
        line.split(b": ")[1].decode()
        for line in received.split(b"\r\n")
        if line.lower().startswith(b"correlationid: ")
    ]
    assert identifiers == [f"{CORRELATION[:-2]}{number:02}" for number in range(20)]
    assert received.count(b"HTTP/1.1 200 OK") == 20


def fast_answers(service: Service) -> int:
    """Return how many requests `service` has answered on the fast path."""
    text = service.ask("GET", "/metrics").body.decode()
    (value,) = re.findall(r"^timestamp_http_fast_path_requests_total ([0-9.]+)$", text, re.MULTILINE)
    return int(float(value))


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({}, 1),
        ({"correlationId": CORRELATION, "Accept": "application/json", "User-Agent": "x", "Via": "1.1 y"}, 1),
        (FRAMEWORK, 0),
        ({"Accept": "application/json, */*"}, 0),
        ({"Idempotency-Key": "a"}, 0),
        ({"If-None-Match": '"a"'}, 0),
        ({"Prefer": "wait=1"}, 0),
    ],
)
def test_plain_requests_take_the_fast_path_and_no_others(
    running: Running, headers: dict[str, str], taken: int
) -> None:
    identifier = running.post("2009-09-28T19:03:12Z")
    running.get(identifier, {"Prefer": "wait=10"})
    for service, method, text in (
        (running.command, "POST", "2009-09-28T19:03:12Z"),
        (running.query, "GET", identifier),
    ):
        before = fast_answers(service)
        assert service.ask(method, f"/api/v1/timestamp/{text}", headers).status == 200
        assert fast_answers(service) == before + taken


def test_a_request_is_logged_and_counted_on_the_fast_path(running: Running) -> None:
    identifier = "0b9a9a34-3a4d-4f0e-9d5e-0d6f7f2f8a99"
    answer = running.command.ask(
        "POST", "/api/v1/timestamp/2009-09-28T19:03:12Z", {"correlationId": identifier}
    )
    lines = running.command.requests(identifier)
    assert [(line["command_id"], line["status"], line["method"]) for line in lines] == [
        (json.loads(answer.body)["id"], 200, "POST")
    ]
    assert b'route="/api/v1/timestamp/{text}"' in running.command.ask("GET", "/metrics").body
