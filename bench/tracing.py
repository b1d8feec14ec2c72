"""What tracing costs a request of the fast path: `PYTHONPATH=app python -m bench.tracing`.

All that the fast path does with a request's correlation, with a tracer and without one, in turns. The
difference in processor time is what the thread of the requests pays; beside it is what the exporter's pays.
"""

import argparse
import logging
import time
from statistics import median

from timestamp_service import correlation, identifiers, settings
from timestamp_service.runtime.logs import Log
from timestamp_service.traces.exporter import Exporter
from timestamp_service.traces.spans import Span, encode
from timestamp_service.traces.tracer import Tracer
from timestamp_service.web.request_log import RequestLog

_TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_PATH = "/api/v1/timestamp/2009-09-28T19:03:12Z"
_CORRELATION = "7c3f2aca-c5c9-45f0-a924-5c9ff1762c94"


class _Kept(Exporter):
    """Keeps the spans, as long as nobody takes them."""

    def __init__(self, log: Log) -> None:
        super().__init__(lambda _body: None, log, queue_most=1_000_000)

    def take(self) -> list[Span]:
        spans = list(self._queue)
        self._queue.clear()
        return spans


def _seconds(log: RequestLog, traceparent: str | None, requests: int) -> float:
    """Return the processor time of a request with `log`, in seconds."""
    command_id = identifiers.new()
    started = time.thread_time()
    for _ in range(requests):
        of_request = log.sample(correlation.from_request(_CORRELATION, traceparent))
        of_request.kafka_headers()
        log.record(
            of_request, command_id, "POST", "/api/v1/timestamp/{text}", _PATH, 200, time.perf_counter()
        )
        of_request.reply_headers()
    return (time.thread_time() - started) / requests


def main() -> None:
    """Print the cost of a request that is sampled, and of one that is not."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracing", description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000, help="of one turn (5000)")
    parser.add_argument("--rounds", type=int, default=9, help="turns (9)")
    wanted = parser.parse_args()
    lines = Log("bench", logging.INFO, lambda _line: None)
    kept = _Kept(lines)

    def tracing(share: float) -> RequestLog:
        config = settings.Traces("", per_second=1_000_000_000, share=share, slow_seconds=1)
        return RequestLog(lines, Tracer("bench", config, kept))

    off = RequestLog(lines)
    for name, log, traceparent in (
        ("not sampled", tracing(0), None),
        ("not sampled, by its share", tracing(1e-9), None),
        ("not sampled, with a traceparent", tracing(1e-9), f"{_TRACEPARENT[:-2]}00"),
        ("sampled", tracing(0), _TRACEPARENT),
    ):
        differences, exports = [], []
        for _ in range(wanted.rounds):
            without = _seconds(off, traceparent, wanted.requests)
            differences.append(_seconds(log, traceparent, wanted.requests) - without)
            spans = kept.take()
            started = time.thread_time()
            encode(spans)
            exports.append((time.thread_time() - started) / wanted.requests)
        print(
            f"{name}: {median(differences) * 1e6:.2f} us in the request"
            f" ({min(differences) * 1e6:.2f} to {max(differences) * 1e6:.2f}),"
            f" {median(exports) * 1e6:.2f} us in the exporter"
        )


if __name__ == "__main__":
    main()
