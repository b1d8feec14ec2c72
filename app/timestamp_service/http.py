"""What both APIs, and the consumer's health port, have in common over HTTP."""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

import falcon
import falcon.asgi

from timestamp_service import correlation, identifiers, problems, routes
from timestamp_service.correlation import Correlation
from timestamp_service.logs import Log
from timestamp_service.notify import Notifier

JSON = "application/json"

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

    def stopping(self) -> None:
        """Let requests that wait go on: no new ones come."""

    async def stop(self) -> None:
        """Finish what is in flight, and close."""


class App(falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]):
    """A Falcon application that knows the work behind it."""

    work: Work


class Lifespan:
    """Middleware: starts and stops the work with the event loop, and tells systemd once it is ready."""

    def __init__(self, work: Work, log: Log, notifier: Notifier) -> None:
        """Look after `work`."""
        self._work = work
        self._log = log
        self._notifier = notifier
        self._readiness: asyncio.Task[None] | None = None

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Start the work. Requests are served at once, ready or not."""
        await self._work.start()
        self._readiness = asyncio.create_task(self._become_ready())

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Stop the work."""
        if self._readiness is not None:
            self._readiness.cancel()
        await self._work.stop()
        self._log.info("stopped")

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


def correlation_of(request: falcon.asgi.Request) -> Correlation:
    """Return the correlation that the middleware gave to `request`."""
    found: Correlation = request.context.correlation
    return found


class Tracing:
    """Middleware: gives each request its correlation, and logs the request once it is answered."""

    def __init__(self, log: Log) -> None:
        """Log by `log`."""
        self._log = log

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
        quiet = request.path in _QUIET and request.method in routes.READ
        write = self._log.debug if quiet else self._log.info
        write(
            "request",
            correlationId=found.identifier,
            traceparent=found.traceparent,
            command_id=context.get("command_id"),
            method=request.method,
            path=request.path,
            status=response.status_code,
            seconds=round(time.perf_counter() - context.started, 6),
        )


# They are asked all the time by machines.
_QUIET = frozenset((routes.HEALTH, routes.READY))


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


def require_json_accepted(request: falcon.asgi.Request) -> None:
    """Raise a 406 problem where the client does not take JSON."""
    accept = request.get_header("Accept")
    if accept is None or accept in ("*/*", JSON):
        return
    if not request.client_accepts(JSON):
        raise problems.Problem(406, f"The answer is {JSON}, which the header Accept does not allow.")


def make_app(work: Work, resources: Mapping[str, object], log: Log, notifier: Notifier) -> App:
    """Return an application around `work`: `resources` by path, health, readiness, and problems."""
    app = App(middleware=[Tracing(log), Lifespan(work, log, notifier)])
    app.work = work
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
    resources = {**resources, routes.HEALTH: Health(), routes.READY: Ready(work.check)}
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
