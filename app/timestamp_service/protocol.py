"""uvicorn's HTTP protocol, with a short way, and our form of answer to what is no HTTP at all."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from timestamp_service import correlation, problems, shortcut
from timestamp_service.http import App

# How long a kept connection is served at the end. Longer than nginx keeps one that is idle (role nginx): so
# nginx never sends a request on a connection that is being closed.
LAST_SECONDS = 4.0


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 on one connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*args, **kwargs)
        app = self.config.app
        self._ours = app if isinstance(app, App) else None
        self._ending = False

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

        def whole() -> None:
            HttpToolsProtocol._start_asgi_task(self, cycle, app)

        ours = self._ours
        if ours is not None and ours.short is not None:
            exchange = shortcut.exchange_of(ours.short.method, cycle, ours.tracing, whole)
            if exchange is not None and ours.short.take(exchange):
                return
        whole()

    def send_400_response(self, msg: str) -> None:
        """Answer a problem to what cannot be read, and close the connection."""
        identifier = correlation.new().identifier
        body = problems.render(400, msg, "/", identifier, {})
        self.logger.info("%s correlationId %s", msg, identifier)
        head = (
            f"content-type: {problems.MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\n"
            f"{correlation.HEADER}: {identifier}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[400] + head.encode("ascii") + body)
        self.transport.close()
