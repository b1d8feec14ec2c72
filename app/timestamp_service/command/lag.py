"""How far each projection is behind the log: where its partitions end, against what its consumers committed.

The command API measures it, because a consumer that hangs cannot tell. It needs no right to read messages:
since when a record is there is known by when the end of its partition passed it.

It asks by consumers that never join their groups. An AdminClient would do with one connection, but when its
questions about groups time out, the library (2.16, pull request 5397) may end the process.
"""

import fcntl
import os
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from prometheus_client import Gauge

from timestamp_service import settings
from timestamp_service.command.ends import Ends
from timestamp_service.kafka.errors import KafkaErrors
from timestamp_service.runtime import metrics
from timestamp_service.runtime.logs import Log

_EVERY_SECONDS = 5.0
# How long to wait for each answer, and for the thread at the end, which may have to wait for one.
_ANSWER_SECONDS = 2.0
_STOP_SECONDS = 5.0
# After so many comparisons in a row without an answer, the clients may never connect again
# (kafka/statistics.py).
_UNANSWERED_MOST = 3

# Not beside the other figures: a process that does not measure them must not tell 0 instead.
UNREAD = Gauge(
    "timestamp_projection_unread_messages",
    "Messages of the log that the consumers of a projection have not committed",
    ["projection"],
    multiprocess_mode="livemax",
)
OLDEST_UNREAD = Gauge(
    "timestamp_projection_oldest_unread_seconds",
    "Age of the oldest message that the consumers of a projection have not committed, 0 without one. At least"
    " so old: the log is looked at every 5 s, and what is there when the process starts counts from then on",
    ["projection"],
    multiprocess_mode="livemax",
)
CHECKED = Gauge(
    "timestamp_projection_lag_checked_seconds",
    "When (unix time) the log and all projections were last compared, 0 before the first time",
    multiprocess_mode="livemax",
)

# By partition: its first offset and the one after its last.
_Spans = dict[int, tuple[int, int]]


class Lag:
    """Measures the lag of all projections from a thread of its own, which no request waits for."""

    def __init__(
        self,
        config: settings.Command,
        log: Log,
        connect: Callable[[dict[str, Any]], Consumer] = Consumer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Compare the groups of `config` with its topic; `connect` takes librdkafka's settings."""
        self._groups = config.projection_groups
        self._topic = config.topic
        self._partitions = range(config.partitions)
        self._settings = {
            **config.kafka.client(),
            "client.id": "timestamp-command-lag",
            "enable.auto.commit": False,
        }
        self._log = log
        self._errors = KafkaErrors(log)
        self._connect = connect
        self._clock = clock
        self._consumers: dict[str, Consumer] = {}
        self._unanswered = 0
        self._ends = {partition: Ends() for partition in self._partitions}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def start(self) -> None:
        """Measure until `stop`. Not to be called before a fork."""
        if self._groups:
            self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        folder = os.environ.get(metrics.FOLDER)
        with (Path(folder) / "lag.lock").open("ab") if folder else nullcontext() as lock:
            while not self._stopping.is_set():
                try:
                    if lock is None or _holds(lock.fileno()):
                        self.check()
                except Exception as error:
                    self._log.error("unexpected_error", exception="".join(traceback.format_exception(error)))
                self._stopping.wait(_EVERY_SECONDS)
        self._close()

    def check(self) -> None:
        """Compare once, and set the gauges of all groups that Kafka told of."""
        failures: list[KafkaError] = []
        # First what was read: an end that is told later is not before it.
        committed = self._committed(failures)
        spans = self._spans(failures) if committed else {}
        if self._stopping.is_set():
            return
        now = self._clock()
        for partition, (_, end) in spans.items():
            self._ends[partition].add(now, end)
        behind = {
            group: {partition: self._next(partition, offset, spans) for partition, offset in read.items()}
            for group, read in committed.items()
        }
        for group, following in behind.items():
            UNREAD.labels(group).set(sum(self._ends[one].last - offset for one, offset in following.items()))
            OLDEST_UNREAD.labels(group).set(
                max(self._ends[one].seconds(now, offset) for one, offset in following.items())
            )
        if not failures:
            for partition, ends in self._ends.items():
                ends.forget(min(following[partition] for following in behind.values()))
            CHECKED.set_to_current_time()
        for error in {error.code(): error for error in failures}.values():
            self._errors.report(error, "lag_not_measured")
        # Those of the library, not of a broker.
        self._unanswered = self._unanswered + 1 if any(error.code() < 0 for error in failures) else 0
        if self._unanswered == _UNANSWERED_MOST:
            self._close()

    def _next(self, partition: int, committed: int, spans: _Spans) -> int:
        """Return the first unread offset of a partition; the end where there is none."""
        first, end = spans.get(partition, (0, self._ends[partition].last))
        if committed > end and partition in spans:
            # An offset that the log does not have was of another one: its consumers begin anew.
            return first
        # A group that has committed none (a negative one) begins anew too.
        return min(max(first, committed), end)

    def _committed(self, failures: list[KafkaError]) -> dict[str, dict[int, int]]:
        """Return the committed offset of each partition by group, negative where there is none."""
        committed = {}
        for group in self._groups:
            if self._stopping.is_set():
                break
            if group not in self._consumers:
                self._consumers[group] = self._connect({**self._settings, "group.id": group})
            consumer = self._consumers[group]
            # Why it finds no coordinator is told here alone, for example that it may not ask of this group.
            while (message := consumer.poll(0)) is not None:
                if (error := message.error()) is not None:
                    failures.append(error)
            wanted = [TopicPartition(self._topic, partition) for partition in self._partitions]
            read = _offsets(consumer.committed, wanted, failures)
            if len(read) == len(wanted):
                committed[group] = read
        return committed

    def _spans(self, failures: list[KafkaError]) -> _Spans:
        """Return the first offset of each partition and the one after its last.

        A partition without a leader tells none: nothing can be written to it either.
        """
        consumer = next(iter(self._consumers.values()))
        try:
            known = consumer.list_topics(self._topic, timeout=_ANSWER_SECONDS).topics[self._topic]
        except KafkaException as error:
            failures.append(error.args[0])
            return {}
        if known.error is not None:
            failures.append(known.error)
            return {}
        led = [one for one, partition in known.partitions.items() if partition.leader >= 0]

        def told(which: int) -> dict[int, int]:
            wanted = [TopicPartition(self._topic, partition, which) for partition in led]
            return _offsets(consumer.offsets_for_times, wanted, failures)

        if not led:
            return {}
        firsts, ends = told(OFFSET_BEGINNING), told(OFFSET_END)
        return {one: (firsts[one], ends[one]) for one in self._partitions if one in firsts and one in ends}

    def _close(self) -> None:
        self._unanswered = 0
        for consumer in self._consumers.values():
            consumer.close()
        self._consumers = {}


def _offsets(
    ask: Callable[..., list[TopicPartition]], wanted: list[TopicPartition], failures: list[KafkaError]
) -> dict[int, int]:
    """Return the offsets that `ask` answers, by partition; note why others are not told."""
    try:
        told = ask(wanted, timeout=_ANSWER_SECONDS)
    except KafkaException as error:
        failures.append(error.args[0])
        return {}
    failures.extend(place.error for place in told if place.error is not None)
    return {place.partition: place.offset for place in told if place.error is None}


def _holds(file: int) -> bool:
    """Return whether this worker is the one that measures. The kernel takes the lock from one that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
