import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from timestamp_service.server.protocol import Protocol

_KEEP_ALIVE_SECONDS = 0.4
_REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


async def _answer(_scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def _seconds_kept(*sent: tuple[bytes, float]) -> float:
    """Send each text and wait for so long after it; return the seconds from then to the server's closing."""
    config = Config(_answer, lifespan="off", log_config=None)
    config.load()
    config.timeout_keep_alive = _KEEP_ALIVE_SECONDS  # type: ignore[assignment]
    state, loop = ServerState(), asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for text, pause in sent:
            writer.write(text)
            await asyncio.sleep(pause)
        started = loop.time()
        answers = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answers.count(b"HTTP/1.1 204") == b"".join(text for text, _ in sent).count(b"\r\n\r\n")
        return loop.time() - started


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
