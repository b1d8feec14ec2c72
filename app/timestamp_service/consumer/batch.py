"""A batch of messages from the topic: the records to write, and the messages that can never be projected."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import Message

from timestamp_service import correlation
from timestamp_service.correlation import Correlation
from timestamp_service.database.counts import Span
from timestamp_service.kafka import messages
from timestamp_service.kafka.dead_letters import BadMessage
from timestamp_service.kafka.messages import Headers, MalformedError


# A tuple: thousands are made at a time, for which a frozen dataclass takes three times as long.
class TracedRecord(NamedTuple):
    """A record to be written, its times in their canonical text, and the correlation of its request."""

    identifier: str
    event_timestamp: str
    created_at: str
    correlation: Correlation | None


@dataclass(slots=True)
class Batch:
    """Messages in the order of their partitions. Of several messages with one id the first one counts."""

    records: dict[str, TracedRecord] = field(default_factory=dict)
    bad: list[BadMessage] = field(default_factory=list)
    # The offset to go on from, of each partition.
    next_offsets: dict[int, int] = field(default_factory=dict)
    # That of the first message, of each partition.
    first_offsets: dict[int, int] = field(default_factory=dict)
    # All messages, also the duplicates within the batch, which are in neither of the first two.
    count: int = 0
    # The size of all values, and of the keys and headers of the bad messages.
    bytes: int = 0
    # When the broker appended the oldest message, in ms since 1970.
    oldest_ms: int | None = None

    def add(self, added: Iterable[Message]) -> None:
        """Add messages of the topic."""
        records, next_offsets = self.records, self.next_offsets
        # Messages of one millisecond or one bulk share these.
        last_time: tuple[int, int] | None = None
        created_at: str | None = None
        last_headers: Headers | None = None
        traced: Correlation | None = None
        for message in added:
            partition, offset = message.partition(), message.offset()
            if partition is None or offset is None:
                raise ValueError("the message does not come from a topic")
            self.count += 1
            if partition not in next_offsets:
                self.first_offsets.setdefault(partition, offset)
            next_offsets[partition] = offset + 1
            value, headers, time = message.value(), messages.headers(message), message.timestamp()
            if value is not None:
                self.bytes += len(value)
            if time != last_time:
                created_at, last_time = None, time
                if self.oldest_ms is None or 0 <= time[1] < self.oldest_ms:
                    self.oldest_ms = time[1]
            try:
                identifier, event_timestamp = messages.decode(value)
                if created_at is None:
                    created_at = messages.append_time(*time)
            except MalformedError as error:
                bad = BadMessage(message.key(), value, headers, str(error), partition, offset)
                self.bad.append(bad)
                self.bytes += bad.extra_bytes()
                continue
            if identifier not in records:
                if headers != last_headers:
                    traced, last_headers = correlation.from_kafka(headers), headers
                records[identifier] = TracedRecord(identifier, event_timestamp, created_at, traced)

    def spans(self) -> list[Span]:
        """Return what it holds of each partition, in their order. Of one that was given up, nothing is."""
        next_offsets = self.next_offsets
        return [
            (partition, first, next_offsets.get(partition, first))
            for partition, first in sorted(self.first_offsets.items())
        ]
