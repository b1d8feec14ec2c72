"""Which requests are traced, and the spans of those that are.

A request is sampled when it comes: if its client asks for it (by the flag of its traceparent) and not too
many have in this second, or else if its trace id is one of a share of all. Any other is traced at its end if
it failed or was slow: its trace has the spans of those services alone that saw it fail or be slow.

A request without a traceparent is a trace whose id is its correlationId, without the hyphens.
"""

import time
from collections.abc import Callable, Iterable
from zlib import crc32

from timestamp_service import settings
from timestamp_service.correlation import Correlation, Trace, new_span_id
from timestamp_service.runtime.logs import Log
from timestamp_service.traces.exporter import Exporter, post_to
from timestamp_service.traces.spans import Span

_KAFKA = "kafka"
# The last digit of the flags.
_SAMPLED = "13579bdf"
_NO_TRACE = "0" * 32


def sampled(traceparent: str) -> bool:
    """Return whether a well-formed traceparent has the flag `sampled` (Trace Context, section 3.2.2.5.1)."""
    return traceparent[-1] in _SAMPLED


def trace_id_of(identifier: str) -> str:
    """Return the trace id of a request without a traceparent, of its correlationId."""
    trace_id = identifier.replace("-", "").lower()
    # The nil UUID is no trace id.
    return trace_id if trace_id != _NO_TRACE else new_span_id() + new_span_id()


class Limit:
    """Lets so many through in each second."""

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Count by `clock`, in seconds."""
        self._per_second = per_second
        self._clock = clock
        self._second = -1
        self._taken = 0

    def take(self) -> bool:
        """Return whether there is room for one more."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        return self._taken <= self._per_second


class Tracer:
    """Samples the requests of one process, and reports their spans."""

    def __init__(
        self,
        service: str,
        config: settings.Traces,
        exporter: Exporter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Report as `service` to `exporter`; `clock` limits what is sampled."""
        self._service = service
        self._exporter = exporter
        self._limit = Limit(config.per_second, clock)
        # Of the 32 bits of the sum of a trace id.
        self._share = int(config.share * (1 << 32))
        self._slow_seconds = config.slow_seconds

    def start(self) -> None:
        """Begin to send spans: after the fork."""
        self._exporter.start()

    def close(self) -> None:
        """Send what there is."""
        self._exporter.close()

    def begin(self, of_request: Correlation) -> Correlation:
        """Return the correlation of a request that has come, with its trace if it is sampled.

        What is carried on says so too: other services, and nginx by the answer, do as it was decided here.
        """
        identifier, traceparent, _ = of_request
        if traceparent is None:
            if not self._share or crc32(identifier.encode()) >= self._share:
                return of_request
        else:
            asked = traceparent[-1] in _SAMPLED
            if asked and self._limit.take():
                return Correlation(identifier, traceparent, _trace_of(of_request))
            if not self._share or crc32(traceparent[3:35].encode()) >= self._share:
                return of_request if not asked else Correlation(identifier, f"{traceparent[:53]}00")
        trace = _trace_of(of_request)
        return Correlation(identifier, f"00-{trace.trace_id}-{trace.span_id}-01", trace)

    def always(self, status: int, seconds: float) -> bool:
        """Return whether a request is traced because of how it ended."""
        return status >= 500 or seconds >= self._slow_seconds

    def add(self, span: Span) -> None:
        """Report a span of another service."""
        self._exporter.add(span)

    def end(
        self,
        of_request: Correlation,
        command_id: str | None,
        method: str,
        route: str | None,
        path: str,
        status: int,
        seconds: float,
    ) -> None:
        """Report a request that is answered, `seconds` after it came, if it is to be traced."""
        trace = of_request.trace
        if trace is None:
            if not self.always(status, seconds):
                return
            trace = _trace_of(of_request)
        started = time.time() - seconds
        error = str(status) if status >= 500 else None
        self._exporter.add(
            Span(
                self._service,
                trace.trace_id,
                trace.span_id,
                trace.parent_id,
                "SERVER",
                f"{method} {route or ''}",
                started,
                seconds,
                None,
                {
                    "http.method": method,
                    "http.path": path,
                    "http.status_code": str(status),
                    "correlationId": of_request.identifier,
                    "command_id": command_id,
                    "error": error,
                },
            )
        )
        if trace.producer_id is not None:
            # The answer waits for nothing else than the acknowledgement.
            waited = time.perf_counter() - trace.sent_at
            self._exporter.add(
                Span(
                    self._service,
                    trace.trace_id,
                    trace.producer_id,
                    trace.span_id,
                    "PRODUCER",
                    "send",
                    started + seconds - waited,
                    waited,
                    _KAFKA,
                    {"error": error},
                )
            )

    def consumed(self, of_messages: Iterable[Correlation | None], seconds: float) -> None:
        """Report messages that were written together in `seconds`, those that are sampled.

        The messages of one request are one span, however many they are.
        """
        requests: dict[str, str] = {}
        messages: dict[str, int] = {}
        for one in of_messages:
            if one is not None and one.traceparent is not None and sampled(one.traceparent):
                requests[one.traceparent] = one.identifier
                messages[one.traceparent] = messages.get(one.traceparent, 0) + 1
        started = time.time() - seconds
        for traceparent, identifier in requests.items():
            self._exporter.add(
                Span(
                    self._service,
                    traceparent[3:35],
                    new_span_id(),
                    traceparent[36:52],
                    "CONSUMER",
                    "write",
                    started,
                    seconds,
                    _KAFKA,
                    {"correlationId": identifier, "messages": str(messages[traceparent])},
                )
            )


def _trace_of(of_request: Correlation) -> Trace:
    traceparent = of_request.traceparent
    if traceparent is None:
        return Trace(trace_id_of(of_request.identifier), None)
    return Trace(traceparent[3:35], traceparent[36:52])


def of(service: str, config: settings.Traces | None, log: Log) -> Tracer | None:
    """Return the tracer of `service`, or None where traces are off."""
    return None if config is None else Tracer(service, config, Exporter(post_to(config.url), log))
