"""What is taken from the topic at a time: rows to write, and messages that can never be."""

from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import Message

from timestamp_service import correlation, messages
from timestamp_service.correlation import Correlation
from timestamp_service.dead_letters import BadMessage
from timestamp_service.messages import MalformedError


# A tuple: thousands are made at a time, for which a frozen dataclass takes thrice as long.
class Row(NamedTuple):
    """A row to be written, its times in their canonical text; and what ties it to its request."""

    identifier: str
    event_timestamp: str
    created_at: str
    correlation: Correlation | None


@dataclass(slots=True)
class Batch:
    """Messages in the order of their partitions. Of several with one id the first counts."""

    rows: dict[str, Row] = field(default_factory=dict)
    bad: list[BadMessage] = field(default_factory=list)
    # The offset to go on from, of each partition.
    next_offsets: dict[int, int] = field(default_factory=dict)
    # Messages in all: duplicates within the batch are in neither of the first two.
    count: int = 0
    # When the broker appended the oldest message, in ms since 1970.
    oldest_ms: int | None = None

    def add(self, message: Message) -> None:
        """Take a message of the topic."""
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None:
            raise ValueError("the message does not come from a topic")
        self.count += 1
        self.next_offsets[partition] = offset + 1
        value, headers = message.value(), messages.headers(message)
        kind, milliseconds = message.timestamp()
        if self.oldest_ms is None or 0 <= milliseconds < self.oldest_ms:
            self.oldest_ms = milliseconds
        try:
            command = messages.decode(value)
            created_at = messages.append_time(kind, milliseconds)
        except MalformedError as error:
            self.bad.append(BadMessage(message.key(), value, headers, str(error), partition, offset))
            return
        if command.command_id not in self.rows:
            self.rows[command.command_id] = Row(
                command.command_id, command.event_timestamp, created_at, correlation.from_kafka(headers)
            )
