"""Figures for Prometheus. Several workers of one service give one sum, whichever of them is asked.

They share files in the folder that PROMETHEUS_MULTIPROC_DIR names; gunicorn_conf sets it before this module
is imported. Without it there is one process, whose figures stay in its memory.
"""

import os
from bisect import bisect_left
from typing import ClassVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_BUCKETS = (1, 10, 100, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000)

REQUESTS = Histogram(
    "timestamp_http_request_duration_seconds",
    "Time until the answer to a request was made",
    ["method", "route", "status"],
    buckets=_BUCKETS,
)

ACKNOWLEDGEMENT = Histogram(
    "timestamp_command_acknowledgement_seconds",
    "Time from the sending of a request's messages until all in-sync replicas have them",
    buckets=_BUCKETS,
)
PRODUCED = Counter("timestamp_command_produced", "Messages that all in-sync replicas have")
FAILED = Counter("timestamp_command_failed", "Messages that were not sent, or not acknowledged")
IN_FLIGHT = Gauge(
    "timestamp_command_in_flight", "Messages sent and not yet acknowledged", multiprocess_mode="livesum"
)

CONNECTIONS = Gauge(
    "timestamp_query_database_connections",
    "Connections to the database that work",
    multiprocess_mode="livesum",
)
LOOKUPS = Gauge(
    "timestamp_query_lookups_pending", "Queries that wait for a connection", multiprocess_mode="livesum"
)
WAITING = Gauge(
    "timestamp_query_waiting", "Requests that wait for a record to come", multiprocess_mode="livesum"
)
PROJECTION_HEALTHY = Gauge(
    "timestamp_query_projection_healthy",
    "Whether a database is whole and answers in time",
    ["projection"],
    multiprocess_mode="livemin",
)
PROJECTION_LACKS = Gauge(
    "timestamp_query_projection_behind_messages",
    "Messages that another database has and this one has not",
    ["projection"],
    multiprocess_mode="livemax",
)

SPANS_SENT = Counter("timestamp_traces_sent", "Spans that the collector has taken")
SPANS_DROPPED = Counter(
    "timestamp_traces_dropped",
    "Spans that found no room in the queue, or that the collector has not taken",
)

CONSUMED = Counter("timestamp_consumer_consumed", "Messages dealt with")
WRITTEN = Counter("timestamp_consumer_written", "Rows written")
DUPLICATES = Counter("timestamp_consumer_duplicates", "Messages of records that were there already")
DEAD_LETTERS = Counter("timestamp_consumer_dead_letters", "Messages that can never be projected")
BATCH_MESSAGES = Histogram("timestamp_consumer_batch_messages", "Messages in a batch", buckets=_BATCH_BUCKETS)
BATCH_SECONDS = Histogram("timestamp_consumer_batch_seconds", "Time to write a batch", buckets=_BUCKETS)
LAG_MESSAGES = Gauge("timestamp_consumer_lag_messages", "Messages in our partitions that are not yet written")
LAG_SECONDS = Gauge("timestamp_consumer_lag_seconds", "Age of the oldest message that is not yet written")
SINCE_PROGRESS = Gauge(
    "timestamp_consumer_seconds_since_progress",
    "Time since a batch was written, or since there was nothing to write",
)


class HistogramBuffer:
    """Observations of one histogram that are handed on together, which costs a tenth of handing on each."""

    _all: ClassVar[list["HistogramBuffer"]] = []

    def __init__(self, histogram: Histogram) -> None:
        """Observe for `histogram`, which has its labels."""
        self._histogram = histogram
        self._bounds = histogram._upper_bounds
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        HistogramBuffer._all.append(self)

    def observe(self, seconds: float) -> None:
        """Take one observation."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def flush(self) -> None:
        """Hand on what was observed since the last time."""
        counts, self._counts = self._counts, [0] * len(self._bounds)
        total, self._sum = self._sum, 0.0
        for bucket, count in zip(self._histogram._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        if total:
            self._histogram._sum.inc(total)


class CounterBuffer:
    """Counts of one counter that are handed on together."""

    _all: ClassVar[list["CounterBuffer"]] = []

    def __init__(self, counter: Counter) -> None:
        """Count for `counter`."""
        self._counter = counter
        self._count = 0
        CounterBuffer._all.append(self)

    def observe(self) -> None:
        """Count one."""
        self._count += 1

    def flush(self) -> None:
        """Hand on what was counted since the last time."""
        count, self._count = self._count, 0
        self._counter.inc(count)


def flush() -> None:
    """Hand on what the buffers of this process hold."""
    for histogram in HistogramBuffer._all:
        histogram.flush()
    for counter in CounterBuffer._all:
        counter.flush()


FAST_PATH = CounterBuffer(
    Counter("timestamp_http_fast_path_requests", "Requests that were answered without the framework")
)


def render() -> bytes:
    """Return all figures, of all workers, in Prometheus' text format."""
    if FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
