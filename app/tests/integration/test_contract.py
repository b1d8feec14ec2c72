"""Idempotency keys, waiting by preference, and caching."""

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.service import Running, World

pytestmark = pytest.mark.integration

RECORD = "/api/v1/timestamp/"
INSTANT = "2009-09-28T19:03:12.5Z"
NOBODY = "00000000-0000-0000-0000-000000000000"


def fresh_id() -> str:
    """Make a UUIDv7 that no record has."""
    return str(uuid.UUID(int=time.time_ns() // 1_000_000 << 80 | 7 << 76 | 2 << 62))


def test_a_retry_gives_the_same_id_and_one_row(running: Running) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    with ThreadPoolExecutor(5) as pool:
        identifiers = set(pool.map(lambda _: running.post(INSTANT, headers), range(20)))
    assert len(identifiers) == 1
    identifier = identifiers.pop()
    assert uuid.UUID(identifier).version == 5
    assert running.get(identifier).json()["event_timestamp"] == INSTANT
    sent = [
        message
        for message in running.world.read_topic(running.world.topic)
        if message.key() == identifier.encode()
    ]
    assert len(sent) == 20
    # They meet the first one there.
    assert len({message.partition() for message in sent}) == 1


def test_the_id_is_that_of_the_test_vectors(running: Running) -> None:
    headers = {"Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}
    expected = "9d0fdec7-d05b-5cd7-be28-95f0ecc3d9db"
    for path in ("2009-09-28%2019:03:12.5+02:00", "2009-09-28%2019%3A03:12.5%2B02:00"):
        assert running.post(path, headers) == expected
    assert running.get(expected).json()["event_timestamp"] == "2009-09-28T17:03:12.5Z"


def test_another_timestamp_is_another_record(running: Running) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first, second = (running.post(text, headers) for text in (INSTANT, "2009-09-28T19:03:13Z"))
    assert first != second
    assert running.get(first).json()["event_timestamp"] == INSTANT
    assert running.get(second).json()["event_timestamp"] == "2009-09-28T19:03:13Z"


def test_the_first_now_of_a_key_counts(running: Running) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first = running.post(None, headers)
    record = running.get(first).json()
    assert running.post(None, headers) == first
    time.sleep(0.5)
    assert running.get(first).json() == record


@pytest.mark.parametrize("key", ["", "a b", "a" * 256])
def test_bad_keys(running: Running, key: str) -> None:
    answer = running.command.ask("POST", "/app", {"Idempotency-Key": key})
    assert answer.status == 400
    assert "Idempotency-Key" in answer.json()["detail"]


def test_a_record_may_be_kept_for_ever(running: Running) -> None:
    identifier = running.post(INSTANT)
    first = running.get(identifier)
    assert first.headers["cache-control"] == "private, max-age=31536000, immutable"
    tag = first.headers["etag"]
    for method in ("GET", "HEAD"):
        for sent in (tag, f"W/{tag}", "*", f'"x", {tag}'):
            again = running.query.ask(method, RECORD + identifier, {"If-None-Match": sent})
            assert (again.status, again.body) == (304, b"")
            assert again.headers["etag"] == tag
            assert again.headers["cache-control"] == first.headers["cache-control"]
            assert "content-type" not in again.headers
    assert running.get(identifier, {"If-None-Match": '"x"'}).body == first.body
    # A client that only guesses a tag does not learn whether there is a record.
    assert running.get(NOBODY, {"If-None-Match": f'"{NOBODY}"'}).status == 404


@pytest.mark.parametrize(
    ("identifier", "preference", "seconds"),
    [(None, "wait=0", 0.0), (None, "wait=1", 1.0), (NOBODY, "wait=1", 1.0), (NOBODY, "wait=0", 0.0)],
)
def test_the_preferred_wait(
    running: Running, identifier: str | None, preference: str, seconds: float
) -> None:
    started = time.monotonic()
    answer = running.get(identifier or fresh_id(), {"Prefer": preference})
    waited = time.monotonic() - started
    assert answer.status == 404
    assert answer.headers["preference-applied"] == preference
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["retry-after"] == "1"
    assert seconds <= waited < seconds + 0.9


def test_a_record_that_comes_ends_the_preferred_wait(running: Running) -> None:
    # Of a version that is not waited for by default.
    identifier = str(uuid.uuid4())
    value = json.dumps({"command_id": identifier, "event_timestamp": INSTANT}).encode()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(running.get, identifier, {"Prefer": "wait=99"})
        time.sleep(0.5)
        assert not waiting.done()
        running.world.produce([(identifier.encode(), value, [])])
        answer = waiting.result(10)
    assert answer.json()["event_timestamp"] == INSTANT
    assert answer.headers["preference-applied"] == "wait=30"


def test_a_bad_preference(running: Running) -> None:
    answer = running.get(NOBODY, {"Prefer": "wait=soon"})
    assert answer.status == 400
    assert "wait=10" in answer.json()["detail"]


def test_those_who_wait_are_bounded_in_number(world: World) -> None:
    world.start_consumer().wait_until_ready()
    query = world.start_query(QUERY_WAITING_MAX="2")
    query.wait_until_ready()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(query.ask, "GET", RECORD + NOBODY, {"Prefer": "wait=30"}) for _ in range(2)]
        time.sleep(1)
        assert not any(answer.done() for answer in waiting)
        answer = query.ask("GET", RECORD + NOBODY, {"Prefer": "wait=20"})
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        started = time.monotonic()
        assert query.ask("GET", RECORD + fresh_id()).status == 404
        assert time.monotonic() - started < 1
        # SIGTERM ends the waits.
        assert query.process.terminate() == 0
        assert time.monotonic() - started < 10
        assert [answer.result(1).status for answer in waiting] == [404, 404]
