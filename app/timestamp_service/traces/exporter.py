"""A thread that posts spans to a collector: no request waits for it, and what has no room is dropped."""

import threading
from collections import deque
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from timestamp_service.runtime import metrics
from timestamp_service.runtime.logs import Log, RateLimitedLog
from timestamp_service.traces.spans import MEDIA_TYPE, Span, encode

# Some 1 kB each.
_QUEUE_MOST = 5_000
_BATCH_MOST = 500
_EVERY_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0


class Exporter:
    """Takes spans from any thread. Made before a fork, and started after it."""

    def __init__(
        self,
        post: Callable[[bytes], None],
        log: Log,
        queue_most: int = _QUEUE_MOST,
        every_seconds: float = _EVERY_SECONDS,
    ) -> None:
        """Post by `post`, which raises what is wrong, once in `every_seconds`."""
        self._post = post
        self._log = RateLimitedLog(log)
        # Its methods are atomic: there is no lock in the way of a request.
        self._queue: deque[Span] = deque()
        self._queue_most = queue_most
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Post until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Post what there is, in one attempt."""
        self._ended.set()
        self._thread.join()

    def add(self, span: Span) -> None:
        """Take a span, or drop it where too many wait."""
        if len(self._queue) >= self._queue_most:
            metrics.SPANS_DROPPED.inc()
        else:
            self._queue.append(span)

    def _run(self) -> None:
        while not self._ended.wait(self._every_seconds):
            self._export()
        self._export()

    def _export(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH_MOST))]
            try:
                self._post(encode(batch))
            except Exception as error:
                metrics.SPANS_DROPPED.inc(len(batch))
                self._log.warning("spans_not_sent", str(error), error=str(error), dropped=len(batch))
                # The others wait for the next attempt: each may take as long as the time-out.
                return
            metrics.SPANS_SENT.inc(len(batch))


def post_to(url: str) -> Callable[[bytes], None]:
    """Return what posts JSON to `url` (http or https), on a new connection each time."""
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"

    def post(body: bytes) -> None:
        connection = connect(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("POST", target, body, {"Content-Type": MEDIA_TYPE})
            status = connection.getresponse().status
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise HTTPException(f"the collector answered {status}")

    return post
