"""What both APIs, and the consumer's health port, have in common over HTTP."""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

import falcon
import falcon.asgi

from timestamp_service import correlation, identifiers
from timestamp_service.correlation import Correlation
from timestamp_service.runtime import metrics
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.metrics import Tally
from timestamp_service.runtime.systemd import Notifier
from timestamp_service.server.fast_path import Short
from timestamp_service.web import problems, routes

JSON = "application/json"

_REFRESH_SECONDS = 30.0
# Names what does not answer, or None when all does.
Check = Callable[[], Awaitable[str | None]]


class Work(Protocol):
    """What a process does behind its resources, from the start of its event loop to the end."""

    async def start(self) -> None:
        """Make connections and threads; waits for nothing that may be down."""

    async def check(self) -> str | None:
        """Name the dependency that does not answer, or None."""

    def progressing(self) -> bool:
        """Tell whether no work is stuck beyond its deadlines."""

    def measure(self) -> None:
        """Bring the gauges up to date."""

    def stopping(self) -> None:
        """Let requests that wait go on: no new ones come."""

    async def stop(self) -> None:
        """Finish what is in flight, and close."""


class App(falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]):
    """A Falcon application that knows the work behind it, and the short way of its plain requests."""

    work: Work
    tracing: "Tracing"
    short: Short | None = None


class Lifespan:
    """Middleware: starts and stops the work with the event loop, and tells systemd once it is ready."""

    def __init__(
        self, work: Work, log: Log, notifier: Notifier, refresh_seconds: float = _REFRESH_SECONDS
    ) -> None:
        """Look after `work`."""
        self._work = work
        self._refresh_seconds = refresh_seconds
        self._log = log
        self._notifier = notifier
        self._tasks: list[asyncio.Task[None]] = []

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Start the work. Requests are served at once, ready or not."""
        self._log.join_lines()
        await self._work.start()
        self._tasks = [asyncio.create_task(task) for task in (self._become_ready(), self._measure())]

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Stop the work."""
        for task in self._tasks:
            task.cancel()
        await self._work.stop()
        self._work.measure()
        metrics.flush()
        self._log.info("stopped")
        self._log.separate_lines()

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(_MEASURE_SECONDS)
            self._work.measure()
            metrics.flush()

    async def _become_ready(self) -> None:
        delay, told = 0.1, None
        while True:
            missing = await self._work.check()
            if missing is None:
                break
            if missing != told:
                told = missing
                self._log.warning("not_ready", waits_for=missing)
                self._notifier.status(f"Waits for the {missing}")
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 2)
        self._log.info("ready")
        self._notifier.ready()
        # What the work knows of its dependencies, such as who leads which partition, is kept fresh.
        while True:
            await asyncio.sleep(self._refresh_seconds)
            await self._work.check()


def correlation_of(request: falcon.asgi.Request) -> Correlation:
    """Return the correlation that the middleware gave to `request`."""
    found: Correlation = request.context.correlation
    return found


class Tracing:
    """Middleware: gives each request its correlation, and logs the request once it is answered."""

    def __init__(self, log: Log) -> None:
        """Log by `log`."""
        self._log = log
        self._tallies: dict[tuple[str, str | None, int], Tally] = {}

    async def process_request(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Take the correlation from the headers, or make one."""
        request.context.started = time.perf_counter()
        try:
            request.context.correlation = correlation.from_request(
                request.get_header(correlation.HEADER), request.get_header(correlation.TRACE_HEADER)
            )
        except correlation.CorrelationError as error:
            request.context.correlation = correlation.new()
            raise problems.Problem(
                400, f"{error}. Expected is one such as {identifiers.EXAMPLE}, or none."
            ) from None

    async def process_response(
        self,
        request: falcon.asgi.Request,
        response: falcon.asgi.Response,
        resource: object,
        req_succeeded: bool,
    ) -> None:
        """Answer the correlation, and log the request."""
        context = request.context
        found: Correlation = context.correlation
        response.set_header(correlation.HEADER, found.identifier)
        if found.traceparent is not None:
            response.set_header(correlation.TRACE_HEADER, found.traceparent)
        if request.method == "OPTIONS" or response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            methods = routes.allowed(request.path)
            if methods:
                response.set_header("Allow", ", ".join(methods))
        self.answered(
            found,
            context.get("command_id"),
            request.method,
            request.uri_template,
            request.path,
            response.status_code,
            context.started,
        )

    def answered(
        self,
        found: Correlation,
        command_id: str | None,
        method: str,
        route: str | None,
        path: str,
        status: int,
        started: float,
    ) -> None:
        """Count and log a request that came at `started` (of the performance counter)."""
        seconds = time.perf_counter() - started
        labels = method, route, status
        (self._tallies.get(labels) or self._tally(*labels)).observe(seconds)
        if path in _QUIET and method in routes.READ and self._log.level > logging.DEBUG:
            return
        trace = "" if found.traceparent is None else f'"traceparent":"{found.traceparent}",'
        command = "" if command_id is None else f'"command_id":"{command_id}",'
        members = (
            f'"correlationId":"{found.identifier}",{trace}{command}"method":"{method}",'
            f'"path":{_quoted(path)},"status":{status},"seconds":{seconds:.6f}'
        )
        self._log.each("request", (members,))

    def _tally(self, method: str, route: str | None, status: int) -> Tally:
        found = self._tallies[method, route, status] = Tally(
            # Anybody can send any path.
            metrics.REQUESTS.labels(method, route or "none", status)
        )
        return found


# As json.dumps does, of one text.
_quoted = json.encoder.encode_basestring_ascii
# They are asked all the time by machines.
_QUIET = frozenset((routes.HEALTH, routes.READY, routes.METRICS))
# The other workers' figures are as old as this at most when one is asked.
_MEASURE_SECONDS = 1.0


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
        """Bring the gauges of this process up to date by `measure`."""
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
        """Answer it."""
        require_accepted(request, self._media_type)
        response.content_type = self._media_type
        response.set_headers(self._headers)
        response.data = self._content

    on_head = on_get


def require_json_accepted(request: falcon.asgi.Request) -> None:
    """Raise a 406 problem where the client does not take JSON."""
    require_accepted(request, JSON)


def require_accepted(request: falcon.asgi.Request, media_type: str) -> None:
    """Raise a 406 problem where the client does not take `media_type`."""
    accept = request.get_header("Accept")
    if accept is None or accept in ("*/*", media_type):
        return
    if not request.client_accepts(media_type):
        raise problems.Problem(406, f"The answer is {media_type}, which the header Accept does not allow.")


def make_app(work: Work, resources: Mapping[str, object], log: Log, notifier: Notifier) -> App:
    """Return an application around `work`: `resources` by path, health, readiness, and problems."""
    tracing = Tracing(log)
    app = App(middleware=[tracing, Lifespan(work, log, notifier)])
    app.work = work
    app.tracing = tracing
    app.set_error_serializer(_serialise)

    async def fail(
        request: falcon.asgi.Request, response: falcon.asgi.Response, error: Exception, params: dict[str, Any]
    ) -> None:
        log.error(
            "unexpected_error",
            correlationId=correlation_of(request).identifier,
            method=request.method,
            path=request.path,
            exception="".join(traceback.format_exception(error)),
        )
        raise problems.Problem(500, "Something went wrong here; the log has it under the correlationId.")

    app.add_error_handler(Exception, fail)
    resources = {
        **resources,
        routes.HEALTH: Health(),
        routes.READY: Ready(work.check),
        routes.METRICS: Metrics(work.measure),
    }
    for route in routes.ROUTES:
        # A path of the other API is known here too: it is a 405, no 404.
        app.add_route(route.path, resources.get(route.path, _Elsewhere()))
    return app


class _Elsewhere:
    """A path that another process answers."""


def _serialise(request: falcon.asgi.Request, response: falcon.asgi.Response, error: falcon.HTTPError) -> None:
    detail = error.description
    members: dict[str, Any] = {}
    if isinstance(error, problems.Problem):
        members = error.members
    elif error.status_code == HTTPStatus.NOT_FOUND:
        detail = "There is nothing at this path. Try POST /api/v1/timestamp/2009-09-28T19:03:12Z."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"This path has the methods {', '.join(routes.allowed(request.path))}."
    response.content_type = problems.MEDIA_TYPE
    response.data = problems.render(
        error.status_code, detail, _instance(request), correlation_of(request).identifier, members
    )


def _instance(request: falcon.asgi.Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.path.encode()
    return raw.decode("ascii", "replace")
