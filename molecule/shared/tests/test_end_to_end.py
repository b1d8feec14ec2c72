"""One timestamp goes end to end: nginx, command API, Kafka, consumer, PostgreSQL, query API, nginx."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
import uuid

import pytest
from conftest import Client, logged_requests
from testinfra.host import Host

GROUP = "web"
# A node of a slow computer may take more than the 2 s that a GET waits by itself.
WAIT = {"Prefer": "wait=30"}


def test_posted_timestamp_is_read_back(request_https: Client) -> None:
    posted = request_https("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z")
    assert posted.status == 200
    record_id = posted.json()["id"]
    assert posted.headers["Location"] == f"/api/v1/timestamp/{record_id}"
    read = request_https("GET", f"/api/v1/timestamp/{record_id}", WAIT)
    assert read.status == 200
    record = read.json()
    assert record["id"] == record["command_id"] == record_id
    assert record["event_timestamp"] == "2009-09-28T19:03:12Z"
    assert set(record) == {"id", "command_id", "event_timestamp", "created_at"}


@pytest.mark.parametrize("path", ["/app", "/api/v1/timestamp", "/api/v1/timestamp/"])
def test_current_time_is_recorded(request_https: Client, path: str) -> None:
    posted = request_https("POST", path)
    assert posted.status == 200
    read = request_https("GET", posted.headers["Location"], WAIT)
    assert read.status == 200
    assert read.json()["event_timestamp"][:10] == read.json()["created_at"][:10]


def test_correlation_id_is_answered(request_https: Client) -> None:
    sent = str(uuid.uuid4())
    answer = request_https("POST", "/app", {"correlationId": sent})
    assert answer.headers.get_all("correlationId") == [sent]
    made = request_https("POST", "/app").headers["correlationId"]
    assert uuid.UUID(made).version is not None


def test_one_request_can_be_followed_through_all_logs(node: Host, request_https: Client) -> None:
    headers = {
        "correlationId": str(uuid.uuid4()),
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    posted = request_https("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z", headers)
    record_id = posted.json()["id"]
    read = request_https("GET", f"/api/v1/timestamp/{record_id}", {**headers, **WAIT})
    assert read.status == 200
    for answer in (posted, read):
        assert answer.headers["traceparent"] == headers["traceparent"]

    journal = node.check_output(
        f"journalctl --sync; journalctl --output=cat --since=-1min --grep={headers['correlationId']}"
    )
    # The command itself stands there too, as sudo logs it.
    lines = [json.loads(line) for line in journal.splitlines() if line.startswith("{")]
    lines += logged_requests(node, headers["correlationId"], count=2)
    events = sorted((line["service"], line["event"], line.get("command_id")) for line in lines)
    assert events == [
        ("nginx", "request", None),
        ("nginx", "request", None),
        ("timestamp-command", "request", record_id),
        ("timestamp-consumer", "recorded", record_id),
        ("timestamp-query", "request", record_id),
    ]
    for line in lines:
        assert line["correlationId"] == headers["correlationId"]
        assert line.get("traceparent", headers["traceparent"]) == headers["traceparent"]


def test_many_are_recorded_and_found(request_https: Client) -> None:
    sent = [f"1851-0{month}-01T00:00:00.00000000{month}Z" for month in range(1, 10)]
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
    posted = request_https("POST", "/api/v1/timestamps", headers, body=json.dumps(sent).encode())
    assert posted.status == 200
    ids = posted.json()["ids"]
    again = request_https("POST", "/api/v1/timestamps", headers, body=json.dumps(sent).encode())
    assert again.json()["ids"] == ids
    # With a key of its own each is in any partition.
    for identifier in ids:
        assert request_https("GET", f"/api/v1/timestamp/{identifier}", WAIT).status == 200
    items: list[dict[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        path = f"/api/v1/timestamps?from={sent[0]}&to=1852-01-01T00:00:00Z&limit=4&cursor={cursor}"
        page = request_https("GET", path).json()
        items += page["items"]
        cursor = page["next"]
    # Others may be there of earlier runs.
    instants = [item["event_timestamp"] for item in items]
    assert instants == sorted(instants)
    assert [item["id"] for item in items if item["id"] in ids] == ids


def test_a_record_is_not_sent_again_to_who_has_it(request_https: Client) -> None:
    location = request_https("POST", "/app").headers["Location"]
    tag = request_https("GET", location, WAIT).headers["ETag"]
    again = request_https("GET", location, {"If-None-Match": tag})
    assert (again.status, again.body) == (304, b"")


def test_malformed_correlation_id_is_refused(request_https: Client) -> None:
    answer = request_https("POST", "/app", {"correlationId": "not-a-uuid"})
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_client_without_the_ca_refuses(web_address: str) -> None:
    # The system's own authorities do not know the private CA.
    system = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), system)
    with pytest.raises(urllib.error.URLError) as refused:
        opener.open(f"https://{web_address}/health", timeout=10)
    assert isinstance(refused.value.reason, ssl.SSLCertVerificationError)
