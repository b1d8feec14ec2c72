"""Resources that every process has: health, readiness, metrics; and what never changes while it lives."""

from collections.abc import Awaitable, Callable, Mapping

import falcon.asgi

from timestamp_service.runtime import metrics
from timestamp_service.web import headers, problems
from timestamp_service.web.reply import JSON

# Returns the name of what does not answer, or None when everything does.
Check = Callable[[], Awaitable[str | None]]


class Health:
    """`GET /health`: the process can serve. No dependency is touched."""

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer UP."""
        require_json_accepted(request)
        response.content_type = JSON
        response.data = b'{"status":"UP"}'

    on_head = on_get


class Ready:
    """`GET /ready`: the dependencies answer too."""

    def __init__(self, check: Check) -> None:
        """Ask `check`."""
        self._check = check

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer READY, or 503 naming what does not answer."""
        require_json_accepted(request)
        missing = await self._check()
        if missing is not None:
            raise problems.unavailable(missing)
        response.content_type = JSON
        response.data = b'{"status":"READY"}'

    on_head = on_get


class Metrics:
    """`GET /metrics`: figures for Prometheus, of all workers."""

    def __init__(self, measure: Callable[[], None]) -> None:
        """Update the gauges of this process by `measure`."""
        self._measure = measure

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer all figures."""
        require_accepted(request, "text/plain")
        self._measure()
        metrics.flush()
        response.content_type = metrics.MEDIA_TYPE
        response.data = metrics.render()

    on_head = on_get


class Fixed:
    """`GET` of what stays the same as long as the process lives."""

    def __init__(self, content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer `content`."""
        self._content = content
        self._media_type = media_type
        # A new release may answer something else.
        self._headers = {"Cache-Control": "no-cache", **(headers or {})}

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer the content."""
        require_accepted(request, self._media_type)
        response.content_type = self._media_type
        response.set_headers(self._headers)
        response.data = self._content

    on_head = on_get


def require_json_accepted(request: falcon.asgi.Request) -> None:
    """Raise a 406 problem where the client does not accept JSON."""
    require_accepted(request, JSON)


def require_accepted(request: falcon.asgi.Request, media_type: str) -> None:
    """Raise a 406 problem where the client does not accept `media_type`."""
    if not headers.accepts(headers.lines(request, "accept"), media_type):
        raise problems.Problem(406, f"The answer is {media_type}, which the header Accept does not allow.")
