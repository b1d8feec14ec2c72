"""Messages of the log as rows of the new table, each with its number in the checksum."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import Message

from timestamp_service.kafka import messages
from timestamp_service.kafka.messages import MalformedError
from timestamp_service.rebuild import checksum


class NumberedRow(NamedTuple):
    """A record, its times in their canonical text, and its number in the checksum."""

    identifier: str
    event_timestamp: str
    created_at: str
    number: int


@dataclass(slots=True)
class Rows:
    """The rows of some messages of the log. Of several messages with one id the first one counts."""

    rows: dict[str, NumberedRow] = field(default_factory=dict)
    duplicates: int = 0
    # Why each message that can never be projected cannot, by partition and offset.
    bad: dict[tuple[int, int], str] = field(default_factory=dict)
    next_offsets: dict[int, int] = field(default_factory=dict)
    count: int = 0


def from_messages(source: Iterable[Message]) -> Rows:
    """Return the rows of messages, each partition's in their order."""
    result = Rows()
    last_ms, created_at = -1, ""
    for message in source:
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None:
            raise ValueError("the message does not come from a topic")
        result.count += 1
        result.next_offsets[partition] = offset + 1
        kind, milliseconds = message.timestamp()
        try:
            command = messages.decode(message.value())
            if milliseconds != last_ms or not created_at:
                created_at = messages.append_time(kind, milliseconds)
                last_ms = milliseconds
        except MalformedError as error:
            result.bad[partition, offset] = str(error)
            continue
        identifier = command.command_id
        if identifier in result.rows:
            result.duplicates += 1
            continue
        number = checksum.number(identifier, command.event_timestamp, created_at)
        result.rows[identifier] = NumberedRow(identifier, command.event_timestamp, created_at, number)
    return result
