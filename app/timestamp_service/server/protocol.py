"""uvicorn's HTTP protocol with a fast path, and with our form of answer to what is not HTTP at all."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from timestamp_service.server import fast_path, unreadable
from timestamp_service.web import problems
from timestamp_service.web.request_log import RequestLog

# How long a kept connection is served at the end. Longer than nginx keeps one that is idle (role nginx): so
# nginx never sends a request on a connection that is being closed.
LAST_SECONDS = 4.0

# Answers a request, or returns False; the callable that it gets lets the application answer instead.
TryFastPath = Callable[[RequestResponseCycle, Callable[[], None]], bool]


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 on one connection."""

    def __init__(
        self, *args: Any, request_log: RequestLog, try_fast_path: TryFastPath | None = None, **kwargs: Any
    ) -> None:
        """Take what uvicorn gives, and what answers plain requests."""
        super().__init__(*args, **kwargs)
        self._request_log = request_log
        self._try_fast_path = try_fast_path
        self._received = b""
        self._ending = False
        self._answered_at = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def shutdown(self) -> None:
        """Answer what still comes here, as the last on this connection; close it when nothing does."""
        self._ending = True
        if self.cycle is None or self.cycle.response_complete:
            patience = min(LAST_SECONDS, (self.config.timeout_graceful_shutdown or LAST_SECONDS) / 2)
            self.loop.call_later(patience, super().shutdown)
        else:
            super().shutdown()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._ending:
            cycle.keep_alive = False

        def use_framework() -> None:
            HttpToolsProtocol._start_asgi_task(self, cycle, app)

        if self._try_fast_path is None or not self._try_fast_path(cycle, use_framework):
            use_framework()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request as uvicorn does, but with one timer instead of one for each request."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._answered_at = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_when_idle)

    def _close_when_idle(self) -> None:
        # A message that has begun has a scope, and a cycle once its headers are there.
        idle = self.cycle.response_complete and self.cycle.scope is self.scope
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if idle and left <= 0:
            self.timeout_keep_alive_handler()
            return
        wait = left if idle else self.timeout_keep_alive
        self._idle_timer = self.loop.call_later(wait, self._close_when_idle)

    def data_received(self, data: bytes) -> None:
        """Read `data`, and keep it at hand for the answer to what cannot be read."""
        self._received = data
        # By name: `super()` costs as much as all else here.
        HttpToolsProtocol.data_received(self, data)
        self._received = b""

    def send_400_response(self, msg: str) -> None:
        """Answer a problem to what cannot be read, and close the connection."""
        begun = self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)
        method = self.parser.get_method() if begun and self.url else b""
        rest = unreadable.read(
            self._received, method, self.url if begun else b"", self.headers if begun else []
        )
        detail = f"{msg} {unreadable.EXPECTED}"
        reply = problems.reply(problems.Problem(400, detail), rest.instance, rest.correlation.identifier)
        self._request_log.record(
            rest.correlation, None, rest.method, None, rest.instance, reply.status, time.perf_counter()
        )
        self.transport.write(fast_path.encode(reply, rest.correlation, b"", False))
        self.transport.close()
