"""uvicorn's HTTP protocol, with a short way, and our form of answer to what is no HTTP at all."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from timestamp_service import correlation, problems, shortcut
from timestamp_service.http import App


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 on one connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*args, **kwargs)
        app = self.config.app
        self._ours = app if isinstance(app, App) else None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
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
