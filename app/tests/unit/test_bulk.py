import asyncio
import json

import falcon.asgi
import falcon.testing
import pytest

from timestamp_service.command import bulk
from timestamp_service.command.bulk import Instant
from timestamp_service.command.publisher import BULK_MAX
from timestamp_service.web.problems import Problem
from timestamp_service.web.reply import JSON

SENT = "2009-09-28T19:03:12.50+02:00"
CANONICAL = "2009-09-28T17:03:12.5Z"


def read(body: bytes, content_type: str | None = JSON, **headers: str) -> list[Instant]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        sent["Content-Type"] = content_type
    emitter = falcon.testing.ASGIRequestEventEmitter(body, chunk_size=100_000)
    request = falcon.asgi.Request(falcon.testing.create_scope(method="POST", headers=sent), emitter)
    return asyncio.run(bulk.read(request))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps([SENT, CANONICAL]).encode()),
        ("Application/JSON ; charset=utf-8", json.dumps([SENT, CANONICAL], indent=2).encode()),
        ("application/x-ndjson", f'"{SENT}"\n"{CANONICAL}"'.encode()),
        ("application/x-ndjson", f' "{SENT}" \r\n"{CANONICAL}"\r\n'.encode()),
    ],
)
def test_bodies(content_type: str, body: bytes) -> None:
    assert read(body, content_type) == [Instant(SENT, CANONICAL), Instant(CANONICAL, CANONICAL)]


@pytest.mark.parametrize(("content_type", "body"), [(JSON, b"[]"), (bulk.LINES, b"")])
def test_none_at_all(content_type: str, body: bytes) -> None:
    assert read(body, content_type) == []


def test_as_many_as_may_be() -> None:
    assert len(read(json.dumps([CANONICAL] * BULK_MAX).encode())) == BULK_MAX


def test_as_large_as_it_may_be() -> None:
    body = json.dumps([SENT]).encode()
    assert len(read(body + b" " * (bulk.BODY_MAX_BYTES - len(body)))) == 1


@pytest.mark.parametrize(
    ("status", "body", "content_type", "headers"),
    [
        (400, b"", JSON, {}),
        (400, b"[", JSON, {}),
        (400, b"\xff", JSON, {}),
        (400, b"[" * 100_000, JSON, {}),
        (413, b" " * (bulk.BODY_MAX_BYTES + 1), JSON, {}),
        (413, b"[]", JSON, {"Content_Length": str(bulk.BODY_MAX_BYTES + 1)}),
        (413, json.dumps([CANONICAL] * (BULK_MAX + 1)).encode(), JSON, {}),
        (413, b"\n" * (BULK_MAX + 2), bulk.LINES, {}),
        (415, b"[]", None, {}),
        (415, b"[]", "text/plain", {}),
        (415, b"[]", JSON, {"Content_Encoding": "gzip"}),
        (422, b"{}", JSON, {}),
        (422, b'"x"', JSON, {}),
        (422, b"null", JSON, {}),
    ],
)
def test_what_is_refused(status: int, body: bytes, content_type: str | None, headers: dict[str, str]) -> None:
    with pytest.raises(Problem) as raised:
        read(body, content_type, **headers)
    assert raised.value.status_code == status


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, f'["{SENT}", "x", 7, null, "{SENT}", "2009-09-31T00:00:00Z"]'.encode()),
        (bulk.LINES, f'"{SENT}"\n"x"\n7\n\n"{SENT}"\n"2009-09-31T00:00:00Z"\n'.encode()),
    ],
)
def test_every_bad_index_is_named(content_type: str, body: bytes) -> None:
    with pytest.raises(Problem) as raised:
        read(body, content_type)
    assert raised.value.status_code == 422
    errors = raised.value.members["errors"]
    assert [error["index"] for error in errors] == [1, 2, 3, 5]
    assert errors[3]["detail"] == "there is no day 2009-09-31"
    assert "4 of 6" in (raised.value.description or "")
