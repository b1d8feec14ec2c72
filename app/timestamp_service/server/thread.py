"""An HTTP server in a thread beside the work of a process: the consumer's health port."""

import asyncio
import os
import socket
import threading
from functools import partial

from uvicorn import Config, Server

from timestamp_service.server.protocol import Protocol
from timestamp_service.web.app import App

_FIRST_SYSTEMD_SOCKET = 3


class HealthServer:
    """Serves an application, which has health and readiness, from a thread of its own."""

    def __init__(self, port: int, app: App) -> None:
        """Listen on systemd's sockets, or on `port` of loopback. Raises OSError when that is taken."""
        self._sockets = systemd_sockets() or [_loopback(port)]
        config = Config(
            app,
            # It is called, and nothing else is asked of it.
            http=partial(Protocol, request_log=app.request_log),  # type: ignore[arg-type]
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
    """Return the sockets that systemd hands over (sd_listen_fds(3)), or none."""
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
