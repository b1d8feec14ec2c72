"""One timestamp goes the whole way: nginx, command API, Kafka, consumer, PostgreSQL, query API, nginx."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
import uuid

import pytest
from conftest import Client

GROUP = "web"


def test_posted_timestamp_is_read_back(request_https: Client) -> None:
    posted = request_https("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z")
    assert posted.status == 200
    record_id = posted.json()["id"]
    assert posted.headers["Location"] == f"/api/v1/timestamp/{record_id}"
    read = request_https("GET", f"/api/v1/timestamp/{record_id}")
    assert read.status == 200
    record = read.json()
    assert record["id"] == record["command_id"] == record_id
    assert record["event_timestamp"] == "2009-09-28T19:03:12Z"
    assert set(record) == {"id", "command_id", "event_timestamp", "created_at"}


@pytest.mark.parametrize("path", ["/app", "/api/v1/timestamp", "/api/v1/timestamp/"])
def test_current_time_is_recorded(request_https: Client, path: str) -> None:
    posted = request_https("POST", path)
    assert posted.status == 200
    read = request_https("GET", posted.headers["Location"])
    assert read.status == 200
    assert read.json()["event_timestamp"][:10] == read.json()["created_at"][:10]


def test_correlation_id_is_answered(request_https: Client) -> None:
    sent = str(uuid.uuid4())
    answer = request_https("POST", "/app", {"correlationId": sent})
    assert answer.headers.get_all("correlationId") == [sent]
    made = request_https("POST", "/app").headers["correlationId"]
    assert uuid.UUID(made).version is not None


def test_malformed_correlation_id_is_refused(request_https: Client) -> None:
    answer = request_https("POST", "/app", {"correlationId": "not-a-uuid"})
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_client_without_the_ca_refuses(web_address: str) -> None:
    # The system's own authorities do not know the private CA.
    with pytest.raises(urllib.error.URLError) as refused:
        urllib.request.urlopen(
            f"https://{web_address}/health", context=ssl.create_default_context(), timeout=10
        )
    assert isinstance(refused.value.reason, ssl.SSLCertVerificationError)
