"""A short way for what nearly all requests are.

The way through ASGI and the framework costs a plain request more than its work does. So one with nothing
out of the ordinary (no query, no body, no header that changes the answer) is answered from within the HTTP
protocol, without a task of its own. Any other, and any that is refused, goes the whole way, and a test
compares the answers of both.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from timestamp_service import correlation
from timestamp_service.correlation import Correlation, CorrelationError
from timestamp_service.web import problems
from timestamp_service.web.problems import Problem

if TYPE_CHECKING:
    from timestamp_service.web.app import Tracing

_START = "/api/v1/timestamp/"
# What changes neither what is done nor what is answered.
_NO_MATTER = frozenset(
    (
        b"accept-encoding",
        b"accept-language",
        b"connection",
        b"forwarded",
        b"host",
        b"user-agent",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-real-ip",
    )
)
_PLAIN = {b"accept": (b"*/*", b"application/json"), b"content-length": (b"0",)}
_CORRELATION = correlation.HEADER.lower().encode()
_TRACE = correlation.TRACE_HEADER.encode()


class Exchange:
    """A plain request about one timestamp or record, and its answer."""

    __slots__ = ("_cycle", "_started", "_tracing", "_whole", "command_id", "correlation", "text")

    def __init__(
        self,
        cycle: RequestResponseCycle,
        text: str,
        found: Correlation,
        tracing: "Tracing",
        whole: Callable[[], None],
    ) -> None:
        """Hold the request of `cycle`: `text` ends its path; `whole` takes it the whole way."""
        self._cycle = cycle
        self._started = time.perf_counter()
        self._tracing = tracing
        self._whole = whole
        self.text = text
        self.correlation = found
        self.command_id: str | None = None

    def go_the_whole_way(self) -> None:
        """Let the application answer, from the start."""
        self._whole()

    def answer(self, headers: str, body: bytes) -> None:
        """Answer 200; each of `headers` ends with CR LF."""
        self._answer(200, headers, body)

    def fail(self, problem: Problem) -> None:
        """Answer a problem."""
        headers = problem.headers if isinstance(problem.headers, dict) else {}
        body = problems.render(
            problem.status_code,
            problem.description,
            self._cycle.scope["raw_path"].decode("ascii", "replace"),
            self.correlation.identifier,
            problem.members,
        )
        lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
        self._answer(problem.status_code, f"{lines}content-type: {problems.MEDIA_TYPE}\r\n", body)

    def _answer(self, status: int, headers: str, body: bytes) -> None:
        cycle, found = self._cycle, self.correlation
        self._tracing.answered(
            found,
            self.command_id,
            cycle.scope["method"],
            f"{_START}{{text}}",
            cycle.scope["path"],
            status,
            self._started,
        )
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        trace = "" if found.traceparent is None else f"{correlation.TRACE_HEADER}: {found.traceparent}\r\n"
        close = "" if cycle.keep_alive else "connection: close\r\n"
        head = (
            f"{headers}{trace}{close}correlationid: {found.identifier}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        always = b"".join([b"%s: %s\r\n" % header for header in cycle.default_headers])
        cycle.transport.write(b"%s%s%s%s" % (STATUS_LINE[status], always, head.encode("latin-1"), body))
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


class Short(Protocol):
    """Answers the plain requests of one method."""

    method: str

    def take(self, exchange: Exchange) -> bool:
        """Answer `exchange` now or later; or return False, having done nothing."""


def exchange_of(
    method: str, cycle: RequestResponseCycle, tracing: "Tracing", whole: Callable[[], None]
) -> Exchange | None:
    """Return the exchange of `cycle`, if it is a plain request of `method`, and None otherwise."""
    scope: Any = cycle.scope
    path: str = scope["path"]
    if scope["method"] != method or not path.startswith(_START) or scope["query_string"]:
        return None
    text = path[len(_START) :]
    if not text or "/" in text or not cycle.keep_alive or cycle.flow.write_paused:
        return None
    identifier = traceparent = None
    for name, value in scope["headers"]:
        if name in _NO_MATTER:
            continue
        if name == _CORRELATION and identifier is None:
            identifier = value.decode("latin-1")
        elif name == _TRACE and traceparent is None:
            traceparent = value.decode("latin-1")
        elif value not in _PLAIN.get(name, ()):
            return None
    try:
        return Exchange(cycle, text, correlation.from_request(identifier, traceparent), tracing, whole)
    except CorrelationError:
        return None
