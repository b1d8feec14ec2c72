"""The fast path: plain requests are answered from within uvicorn's HTTP protocol.

A request with nothing out of the ordinary (no query, no body, no header that changes the answer) needs no
task of its own. Any other request, and any that is refused, takes the framework path through Falcon. Both
carry the same `Reply`.
"""

import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from timestamp_service import correlation
from timestamp_service.correlation import Correlation, CorrelationError
from timestamp_service.runtime import metrics
from timestamp_service.web import problems
from timestamp_service.web.reply import FastPath, Reply
from timestamp_service.web.request_log import RequestLog

_START = "/api/v1/timestamp/"
_ROUTE = f"{_START}{{text}}"
# Headers that change neither what is done nor what is answered.
_IGNORED = frozenset(
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
# Headers that change nothing when they have one of these values.
_PLAIN = {b"accept": (b"*/*", b"application/json"), b"content-length": (b"0",)}
_CORRELATION = correlation.HEADER.lower().encode()
_TRACE = correlation.TRACE_HEADER.encode()


# What is used here and in `protocol`, and no part of uvicorn's promises.
_USED_OF_CYCLE = frozenset(
    (
        "default_headers",
        "disconnected",
        "flow",
        "keep_alive",
        "on_response",
        "response_complete",
        "response_started",
        "scope",
        "transport",
    )
)
_USED_OF_PROTOCOL = frozenset(
    (
        "_start_asgi_task",
        "data_received",
        "on_response_complete",
        "send_400_response",
        "timeout_keep_alive_handler",
    )
)


def require_uvicorn(cycle: type = RequestResponseCycle, protocol: type = HttpToolsProtocol) -> None:
    """See that uvicorn still has what is used of it. Raises RuntimeError."""
    # Its constructor sets each of them.
    sets = vars(cycle)["__init__"].__code__.co_names
    missing = [name for name in _USED_OF_CYCLE if name not in sets]
    missing += [name for name in _USED_OF_PROTOCOL if not hasattr(protocol, name)]
    if missing:
        raise RuntimeError(f"this version of uvicorn has no {', '.join(sorted(missing))}")


class UvicornRequest:
    """A `PlainRequest` of uvicorn's."""

    __slots__ = (
        "_cycle",
        "_request_log",
        "_sampled",
        "_started",
        "command_id",
        "correlation",
        "text",
        "use_framework",
    )

    def __init__(
        self,
        cycle: RequestResponseCycle,
        text: str,
        of_request: Correlation,
        request_log: RequestLog,
        use_framework: Callable[[], None],
    ) -> None:
        """Hold the request of `cycle`, whose path ends with `text`."""
        self._cycle = cycle
        self._started = time.perf_counter()
        self._request_log = request_log
        self.use_framework = use_framework
        self.text = text
        self.correlation = of_request
        self.command_id: str | None = None
        self._sampled = False

    def sample(self) -> Correlation:
        """Decide whether it is traced: not before it is known that the framework does not answer it."""
        if not self._sampled:
            self._sampled = True
            self.correlation = self._request_log.sample(self.correlation)
        return self.correlation

    @property
    def instance(self) -> str:
        """The path as it was sent."""
        return problems.instance_of(self._cycle.scope)

    def send(self, reply: Reply) -> None:
        """Answer the request, log and trace it. It never raises: who calls it has others to answer too."""
        cycle, of_request = self._cycle, self.correlation
        try:
            metrics.FAST_PATH.observe()
            of_request = self.sample()
            scope = cycle.scope
            self._request_log.record(
                of_request,
                self.command_id,
                scope["method"],
                _ROUTE,
                scope["path"],
                reply.status,
                self._started,
            )
            if cycle.disconnected:
                return
            cycle.response_started = cycle.response_complete = True
            always = _always.lines(cycle.default_headers)
            cycle.transport.write(encode(reply, of_request, always, cycle.keep_alive))
            if not cycle.keep_alive:
                cycle.transport.close()
            cycle.on_response()
        except Exception as error:
            self._request_log.failed(of_request, error)


class _Always:
    """The header lines that every answer has; uvicorn lists them anew once a second, for the date."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = b""

    def lines(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        if headers is not self._headers:
            self._headers = headers
            self._lines = b"".join([b"%s: %s\r\n" % header for header in headers])
        return self._lines


_always = _Always()


def encode(reply: Reply, of_request: Correlation, always: bytes, keep_alive: bool) -> bytes:
    """Return `reply` as HTTP/1.1 has it; `always`: header lines that every answer has."""
    close = "" if keep_alive else "connection: close\r\n"
    head = f"{reply.headers}{of_request.reply_headers()}{close}content-length: {len(reply.body)}\r\n\r\n"
    return b"%s%s%s%s" % (STATUS_LINE[reply.status], always, head.encode("latin-1"), reply.body)


def try_handle(
    fast_path: FastPath,
    request_log: RequestLog,
    cycle: RequestResponseCycle,
    use_framework: Callable[[], None],
) -> bool:
    """Answer the request of `cycle` now or later by `fast_path`; or return False, having done nothing."""
    scope: Any = cycle.scope
    path: str = scope["path"]
    if scope["method"] != fast_path.method or not path.startswith(_START) or scope["query_string"]:
        return False
    text = path[len(_START) :]
    if not text or "/" in text or not cycle.keep_alive or cycle.flow.write_paused:
        return False
    identifier = traceparent = None
    for name, value in scope["headers"]:
        if name in _IGNORED:
            continue
        if name == _CORRELATION and identifier is None:
            identifier = value.decode("latin-1")
        elif name == _TRACE and traceparent is None:
            traceparent = value.decode("latin-1")
        elif value not in _PLAIN.get(name, ()):
            return False
    try:
        of_request = correlation.from_request(identifier, traceparent)
    except CorrelationError:
        return False
    return fast_path.try_handle(UvicornRequest(cycle, text, of_request, request_log, use_framework))
