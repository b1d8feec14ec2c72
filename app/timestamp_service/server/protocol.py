"""uvicorn's HTTP protocol with a fast path, and with our form of answer to what is not HTTP at all."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from timestamp_service import correlation
from timestamp_service.server import fast_path
from timestamp_service.web import problems

# How long a kept connection is served at the end. Longer than nginx keeps one that is idle (role nginx): so
# nginx never sends a request on a connection that is being closed.
LAST_SECONDS = 4.0

# Answers a request, or returns False; the callable that it gets lets the application answer instead.
TryFastPath = Callable[[RequestResponseCycle, Callable[[], None]], bool]


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 on one connection."""

    def __init__(self, *args: Any, try_fast_path: TryFastPath | None = None, **kwargs: Any) -> None:
        """Take what uvicorn gives, and what answers plain requests."""
        super().__init__(*args, **kwargs)
        self._try_fast_path = try_fast_path
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

    def send_400_response(self, msg: str) -> None:
        """Answer a problem to what cannot be read, and close the connection."""
        of_request = correlation.new()
        self.logger.info("%s correlationId %s", msg, of_request.identifier)
        reply = problems.reply(problems.Problem(400, msg), "/", of_request.identifier)
        self.transport.write(fast_path.encode(reply, of_request, b"", keep_alive=False))
        self.transport.close()
