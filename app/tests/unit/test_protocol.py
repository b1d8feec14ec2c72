import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from timestamp_service.runtime.logs import Log
from timestamp_service.server import fast_path
from timestamp_service.server.protocol import Protocol
from timestamp_service.web.request_log import RequestLog

_KEEP_ALIVE_SECONDS = 0.4
_REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


async def _answer(_scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@contextlib.asynccontextmanager
async def _connected(
    lines: list[bytes] | None = None,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give a connection to a server that logs to `lines`."""
    lines = [] if lines is None else lines
    config = Config(_answer, lifespan="off", log_config=None)
    config.load()
    config.timeout_keep_alive = _KEEP_ALIVE_SECONDS  # type: ignore[assignment]
    state, loop = ServerState(), asyncio.get_running_loop()
    log = RequestLog(Log("s", logging.INFO, lines.append))
    server = await loop.create_server(
        lambda: Protocol(config=config, server_state=state, app_state={}, request_log=log), "127.0.0.1", 0
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()


async def _seconds_kept(*sent: tuple[bytes, float]) -> float:
    """Send each text and wait for so long after it; return the seconds from then to the server's closing."""
    async with _connected() as (reader, writer):
        for text, pause in sent:
            writer.write(text)
            await asyncio.sleep(pause)
        started = time.monotonic()
        answers = await asyncio.wait_for(reader.read(), 10)
        assert answers.count(b"HTTP/1.1 204") == b"".join(text for text, _ in sent).count(b"\r\n\r\n")
        return time.monotonic() - started


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([(_REQUEST, 0.0)], id="one request"),
        pytest.param(
            [(_REQUEST, 0.3), (_REQUEST, 0.3), (_REQUEST, 0.0)], id="another before the time is over"
        ),
        pytest.param(
            [(_REQUEST, 0.3), (_REQUEST[:9], 0.3), (_REQUEST[9:], 0.0)], id="one that comes in parts"
        ),
        pytest.param([(_REQUEST * 3, 0.0)], id="several at once"),
    ],
)
def test_an_idle_connection_is_closed_in_time(sent: list[tuple[bytes, float]]) -> None:
    kept = asyncio.run(_seconds_kept(*sent))
    assert _KEEP_ALIVE_SECONDS * 0.9 <= kept < 3 * _KEEP_ALIVE_SECONDS


_ID = "0b9a9a34-3a4d-4f0e-9d5e-0d6f7f2f8a11"
_PATH = b"/api/v1/timestamp/2009-09-28T19:03:12Z"


@pytest.mark.parametrize(
    ("parts", "method", "instance", "identified"),
    [
        ([b"POST %s HTTP/1.1\r\nHost: x\r\ncorrelationId: %s\r\nX: a\x01b\r\n\r\n"], "POST", None, True),
        ([b"POST %s HTTP/1.1\r\nHost: x\r\nX: a\x7fb\r\ncorrelationId: %s\r\n\r\n"], "POST", None, True),
        ([b"POST %s HTTP/1.1\r\nHost: x\r\ncorrelationId: %s\r\n", b"X: a\0b\r\n\r\n"], "POST", None, True),
        ([b"POST %s\xc3\xa4 HTTP/1.1\r\nHost: x\r\ncorrelationId: %s\r\n\r\n"], "POST", b"%C3%A4", True),
        ([b"GET %s?x=\xff HTTP/1.1\r\nHost: x\r\nCORRELATIONID:%s\r\n\r\n"], "GET", None, True),
        ([b"POST %s b HTTP/1.1\r\nHost: x\r\ncorrelationId: %s\r\n\r\n"], "POST", b"%20b", True),
        ([b"POST %s HTTP/1.1\r\nHost: x\r\nX: a\x01b\r\ncorrelationId: x%s\r\n\r\n"], "POST", None, False),
        ([b"PURGEALL %s HTTP/1.1\r\nHost: x\r\ncorrelationId: %s\r\n\r\n"], "other", None, True),
        # Of several at once, what the parser has read.
        ([_REQUEST + b"POST %s HTTP/1.1\r\nX: a\x01b\r\ncorrelationId: %s\r\n\r\n"], "POST", None, False),
    ],
)
def test_what_cannot_be_read_is_answered_and_logged_all_the_same(
    parts: list[bytes], method: str | None, instance: bytes | None, identified: bool
) -> None:
    lines: list[bytes] = []
    sent = [part.replace(b"%s", _PATH, 1).replace(b"%s", _ID.encode()) for part in parts]

    async def ask() -> bytes:
        async with _connected(lines) as (reader, writer):
            for part in sent:
                writer.write(part)
                await asyncio.sleep(0.05)
            return await asyncio.wait_for(reader.read(), 10)

    head, _, body = asyncio.run(ask()).rpartition(b"\r\n\r\n")
    problem = json.loads(body)
    logged = [line for line in map(json.loads, lines) if line["status"] == 400]
    assert b"HTTP/1.1 400 Bad Request" in head
    assert b"\r\nconnection: close\r\n" in head
    assert len(logged) == 1
    assert logged[0]["correlationId"] == problem["correlationId"]
    assert f"correlationid: {problem['correlationId']}".encode() in head
    assert (problem["correlationId"] == _ID) == identified
    assert "Expected is HTTP/1.1" in problem["detail"]
    if method is not None:
        assert logged[0]["method"] == method
        assert problem["instance"] == logged[0]["path"] == (_PATH + (instance or b"")).decode()


def test_uvicorn_has_what_is_used_of_it() -> None:
    fast_path.require_uvicorn()


def test_another_uvicorn_is_refused() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.scope = self.transport = self.flow = self.on_response = self.disconnected = None
            self.response_started = self.response_complete = self.default_headers = None

    class Changed:
        _start_asgi_task = data_received = send_400_response = timeout_keep_alive_handler = None

    with pytest.raises(RuntimeError, match=r"has no keep_alive, on_response_complete$"):
        fast_path.require_uvicorn(Cycle, Changed)
