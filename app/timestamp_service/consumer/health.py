"""The consumer's port: health and readiness, served by a thread beside the loop."""

import asyncio
import os
import socket
import threading

from uvicorn import Config, Server

from timestamp_service.consumer.state import State
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier
from timestamp_service.server.protocol import Protocol
from timestamp_service.web import app as http

_FIRST_SYSTEMD_SOCKET = 3


class Watching:
    """The work behind the port: looking at the state."""

    def __init__(self, state: State) -> None:
        """Look at `state`."""
        self._state = state

    async def start(self) -> None:
        """Do nothing: the loop has its own thread."""

    async def check(self) -> str | None:
        """Name the dependency that does not answer."""
        return self._state.missing()

    def progressing(self) -> bool:
        """Leave progress to the loop."""
        return True

    def measure(self) -> None:
        """Tell how far the loop is behind."""
        self._state.measure()

    def stopping(self) -> None:
        """Do nothing: no request waits."""

    async def stop(self) -> None:
        """Do nothing: the loop has its own thread."""


class HealthServer:
    """Serves health and readiness from a thread of its own."""

    def __init__(self, port: int, state: State, log: Log, notifier: Notifier) -> None:
        """Listen on systemd's sockets, or on `port` of loopback. Raises OSError when that is taken."""
        self._sockets = systemd_sockets() or [_loopback(port)]
        config = Config(
            http.make_app(Watching(state), {}, log, notifier),
            http=Protocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        self._server = Server(config)
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._server.should_exit = True
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.run(self._server.serve(self._sockets))


def systemd_sockets() -> list[socket.socket]:
    """Return the sockets that systemd hands over (sd_listen_fds(3)); none where it does not."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [
        socket.socket(fileno=descriptor)
        for descriptor in range(_FIRST_SYSTEMD_SOCKET, _FIRST_SYSTEMD_SOCKET + count)
    ]


def _loopback(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener
