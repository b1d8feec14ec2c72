"""The worker process of both APIs: gunicorn supervises it, uvicorn speaks HTTP."""

import asyncio
import gc
import logging
import os
import signal
import socket
from functools import partial
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from timestamp_service.runtime import logs, systemd
from timestamp_service.server import fast_path
from timestamp_service.server.protocol import LAST_SECONDS, Protocol
from timestamp_service.web.app import App

# So that uvicorn knows each connection that was accepted, when it asks all of them to end.
_ACCEPTED_SECONDS = 0.05
# New objects until the interpreter looks for cycles among them (by default 700).
_GARBAGE_OBJECTS = 50_000


class Worker(UvicornWorker):  # type: ignore[misc]
    """uvicorn's worker, which reports progress to gunicorn and systemd only while there is some."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        # Each request is logged by our own middleware.
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        # What still runs by then is beyond all its own deadlines.
        "timeout_graceful_shutdown": 20,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what gunicorn gives."""
        fast_path.require_uvicorn()
        super().__init__(*args, **kwargs)
        # uvicorn's worker gives it gunicorn's level, at which it logs each step of starting and stopping.
        logging.getLogger("uvicorn.error").setLevel(max(self.log.error_log.level, logging.WARNING))

    async def callback_notify(self) -> None:
        """Report progress, unless work is stuck: gunicorn replaces a worker that does not report."""
        if self.wsgi.backend.progressing():
            self.notify()
            systemd.from_environment(os.environ).progress()

    async def _serve(self) -> None:
        app: App = self.wsgi
        self.config.app = app
        try_fast_path = None
        if app.fast_path is not None:
            try_fast_path = partial(fast_path.try_handle, app.fast_path, app.request_log)
        self.config.http = partial(Protocol, request_log=app.request_log, try_fast_path=try_fast_path)
        # Requests leave no cycles behind, and a search for cycles costs.
        gc.freeze()
        gc.set_threshold(_GARBAGE_OBJECTS)
        server = _Server(self.config, app)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, self.handle_exit, signal.SIGQUIT, None)
        await server.serve(sockets=self.sockets)
        if not server.started:
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR)


class _Server(Server):
    def __init__(self, config: Any, app: App) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Others share the sockets, and take what comes from here on; what was accepted is ours.
        for server in self.servers:
            server.close()
        await asyncio.sleep(_ACCEPTED_SECONDS)
        # Requests that wait for something hold the shutdown up, but most get it in this time.
        patience = asyncio.get_running_loop().call_later(LAST_SECONDS, self._app.backend.stopping)
        # Its event loop has closed the sockets already.
        await super().shutdown()
        patience.cancel()


class GunicornLogger(Logger):  # type: ignore[misc]
    """Writes gunicorn's own lines as JSON, as all others."""

    def setup(self, cfg: Config) -> None:
        """Set up as gunicorn does, then send all lines through our own log."""
        super().setup(cfg)
        # The name of a process is the start of its module: timestamp_service.command.api:create_app().
        service = "-".join(cfg.default_proc_name.replace("_service", "").split(".")[:2])
        logs.take_over_libraries(logs.Log(service, self.error_log.level))
