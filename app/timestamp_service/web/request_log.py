"""What is recorded of each request: its correlation, its metrics, its log line."""

import json
import logging
import time
import traceback
from collections.abc import Callable

import falcon.asgi

from timestamp_service import correlation, identifiers
from timestamp_service.correlation import Correlation
from timestamp_service.runtime import metrics
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.metrics import HistogramBuffer
from timestamp_service.traces.tracer import Tracer
from timestamp_service.web import headers, problems, routes
from timestamp_service.web.reply import set_headers

# As json.dumps does, of one text.
_quoted = json.encoder.encode_basestring_ascii
# Machines ask for them all the time.
_QUIET = frozenset((routes.HEALTH, routes.READY, routes.METRICS))


def correlation_of(request: falcon.asgi.Request) -> Correlation:
    """Return the correlation that the middleware gave to `request`."""
    of_request: Correlation = request.context.correlation
    return of_request


def _not_sampled(of_request: Correlation) -> Correlation:
    return of_request


class RequestLog:
    """Counts, logs and traces requests, whichever path answered them."""

    def __init__(self, log: Log, tracer: Tracer | None = None) -> None:
        """Log by `log`, and trace by `tracer` where there is one."""
        self._log = log
        self._tracer = tracer
        # Decides whether a request that has come is traced; returns the correlation that says so.
        self.sample: Callable[[Correlation], Correlation] = _not_sampled if tracer is None else tracer.begin
        self._durations: dict[tuple[str, str | None, int], HistogramBuffer] = {}

    def record(
        self,
        of_request: Correlation,
        command_id: str | None,
        method: str,
        route: str | None,
        path: str,
        status: int,
        started: float,
    ) -> None:
        """Count, log and trace a request that came at `started` (of the performance counter, in seconds)."""
        seconds = time.perf_counter() - started
        labels = method, route, status
        (self._durations.get(labels) or self._duration(*labels)).observe(seconds)
        if path in _QUIET and method in routes.READ:
            if self._log.level > logging.DEBUG:
                return
        elif self._tracer is not None:
            self._tracer.end(of_request, command_id, method, route, path, status, seconds)
        trace = "" if of_request.traceparent is None else f'"traceparent":"{of_request.traceparent}",'
        command = "" if command_id is None else f'"command_id":"{command_id}",'
        members = (
            f'"correlationId":"{of_request.identifier}",{trace}{command}"method":"{method}",'
            f'"path":{_quoted(path)},"status":{status},"seconds":{seconds:.6f}'
        )
        self._log.each("request", (members,))

    def failed(self, of_request: Correlation, error: Exception) -> None:
        """Log that a request could not be answered."""
        self._log.error(
            "unexpected_error",
            correlationId=of_request.identifier,
            exception="".join(traceback.format_exception(error)),
        )

    def _duration(self, method: str, route: str | None, status: int) -> HistogramBuffer:
        buffer = self._durations[method, route, status] = HistogramBuffer(
            # Anybody can send any path: those without a route have one label.
            metrics.REQUESTS.labels(method, route or "none", status)
        )
        return buffer


class CorrelationMiddleware:
    """Middleware: gives each request its correlation, answers it, and records the request."""

    def __init__(self, request_log: RequestLog) -> None:
        """Record answered requests in `request_log`."""
        self._request_log = request_log

    async def process_request(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Read the correlation from the headers, or create one."""
        context = request.context
        context.started = time.perf_counter()
        context.correlation = correlation.new()
        try:
            # Step by step: a problem has the client's id wherever that could be read.
            identifier = headers.single(request, correlation.HEADER)
            if identifier is not None:
                context.correlation = correlation.from_request(identifier, None)
            trace = headers.single(request, correlation.TRACE_HEADER)
            if trace is not None:
                context.correlation = correlation.from_request(context.correlation.identifier, trace)
            context.correlation = self._request_log.sample(context.correlation)
        except correlation.CorrelationError as error:
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
        """Answer the correlation, and record the request."""
        context = request.context
        of_request: Correlation = context.correlation
        set_headers(response, of_request.reply_headers())
        self._request_log.record(
            of_request,
            context.get("command_id"),
            request.method,
            request.uri_template,
            request.path,
            response.status_code,
            context.started,
        )
