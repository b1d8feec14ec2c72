"""The Falcon application around a backend, as both APIs and the consumer's health port have it."""

import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import falcon
import falcon.asgi

from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier
from timestamp_service.traces.tracer import Tracer
from timestamp_service.web import problems, routes
from timestamp_service.web.lifespan import Backend, Lifespan
from timestamp_service.web.probes import Health, Metrics, Ready
from timestamp_service.web.reply import FastPath
from timestamp_service.web.request_log import CorrelationMiddleware, RequestLog, correlation_of


class App(falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]):
    """A Falcon application that knows its backend, its request log and its fast path."""

    backend: Backend
    request_log: RequestLog
    fast_path: FastPath | None = None


def make_app(
    backend: Backend,
    resources: Mapping[str, object],
    log: Log,
    notifier: Notifier,
    tracer: Tracer | None = None,
) -> App:
    """Return an application around `backend`: `resources` by path, the probes, and problems."""
    request_log = RequestLog(log, tracer)
    lifespan = Lifespan(backend, log, notifier, tracer)
    app = App(middleware=[CorrelationMiddleware(request_log), _Allow(), lifespan])
    app.backend = backend
    app.request_log = request_log
    app.set_error_serializer(_answer_problem)

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
        routes.READY: Ready(backend.check),
        routes.METRICS: Metrics(backend.measure),
    }
    for route in routes.ROUTES:
        # A path of the other API is known here too: it is a 405, not a 404.
        app.add_route(route.path, resources.get(route.path, _Elsewhere()))
    return app


class _Elsewhere:
    """A path that another process answers."""


class _Allow:
    """Middleware: `Allow` has the methods of both APIs, where Falcon knows those of one."""

    async def process_response(
        self,
        request: falcon.asgi.Request,
        response: falcon.asgi.Response,
        resource: object,
        req_succeeded: bool,
    ) -> None:
        if request.method == "OPTIONS" or response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            methods = routes.allowed(request.path)
            if methods:
                response.set_header("Allow", ", ".join(methods))


def _answer_problem(
    request: falcon.asgi.Request, response: falcon.asgi.Response, error: falcon.HTTPError
) -> None:
    problem = problems.of(error, request.path)
    identifier = correlation_of(request).identifier
    problems.reply(problem, problems.instance_of(request.scope), identifier).fill(response)
