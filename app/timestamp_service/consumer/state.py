"""The state of the consumer: set by its threads, read by its health port."""

import time
from dataclasses import dataclass, field
from typing import Any

from timestamp_service.kafka.statistics import connected
from timestamp_service.runtime import metrics


@dataclass(slots=True)
class State:
    """The state of the dependencies and of the lag. Each field is set by one thread, and read by any."""

    # Set by the loop.
    joined: bool = False
    brokers_up: bool = False
    # How many messages of our partitions are not yet written, and since when (monotonic) there are any.
    lag_messages: int = 0
    lag_since: float | None = None
    # When the broker appended the oldest message that is fetched and not yet written, in ms since 1970.
    oldest_ms: int | None = None
    # When (monotonic) the last batch was written, or there was nothing to write.
    progress_at: float = field(default_factory=time.monotonic)
    # Set by the writer.
    database_answers: bool = False
    # Whether dead letters wait that could not be written, and since when (monotonic) Kafka has refused them.
    dead_letters_wait: bool = False
    dead_letters_refused_since: float | None = None

    def missing(self) -> str | None:
        """Name the dependency that does not answer, or None."""
        if not (self.joined and self.brokers_up):
            return "kafka"
        if not self.database_answers:
            return "database"
        if self.dead_letters_wait:
            return "dead-letter topic"
        return None

    def dead_letters_written(self) -> None:
        """Note that no dead letter waits."""
        self.dead_letters_wait = False
        self.dead_letters_refused_since = None

    def dead_letters_not_written(self, *, refused: bool) -> None:
        """Note that dead letters wait for Kafka, or that it refuses them."""
        self.dead_letters_wait = True
        if not refused:
            self.dead_letters_refused_since = None
        elif self.dead_letters_refused_since is None:
            self.dead_letters_refused_since = time.monotonic()

    def refused_seconds(self) -> float:
        """Return for how long Kafka, which answers, has refused the dead letters of a batch."""
        since = self.dead_letters_refused_since
        return 0.0 if since is None else time.monotonic() - since

    def update(self, statistics: dict[str, Any], topic: str) -> None:
        """Update the fields from librdkafka's statistics of the brokers and of `topic`."""
        self.brokers_up = connected(statistics)
        partitions = statistics["topics"].get(topic, {}).get("partitions", {})
        self.lag_messages = sum(lag(partition) for partition in partitions.values())
        if self.lag_messages == 0:
            self.lag_since = None
            if self.brokers_up:
                self.progress_at = time.monotonic()
        elif self.lag_since is None:
            self.lag_since = time.monotonic()

    def measure(self) -> None:
        """Bring the gauges up to date."""
        now = time.monotonic()
        fetched = 0.0 if self.oldest_ms is None else time.time() - self.oldest_ms / 1000
        # Under load there is always something not yet written, which is younger after each batch.
        waiting = 0.0 if self.lag_since is None else now - max(self.lag_since, self.progress_at)
        metrics.LAG_MESSAGES.set(self.lag_messages)
        # The age of what is not even fetched is unknown: it is at least that of the lag.
        metrics.LAG_SECONDS.set(max(fetched, waiting, 0.0))
        metrics.SINCE_PROGRESS.set(now - self.progress_at)


def lag(partition: dict[str, Any]) -> int:
    """Return how many messages of a partition are not yet written, by librdkafka's statistics of it."""
    end: int = partition["hi_offset"]
    if partition["partition"] < 0 or not partition["desired"] or end < 0:
        return 0
    # Before the first batch nothing is stored: the committed offset counts then, or the first one.
    begin: int = max(partition["stored_offset"], partition["committed_offset"])
    if begin < 0:
        begin = max(0, partition["lo_offset"])
    return max(0, end - begin)
