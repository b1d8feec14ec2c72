"""Messages of the log as rows of the new table, each with its number for the checksum."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import Message

from timestamp_service.kafka import messages
from timestamp_service.kafka.messages import MalformedError
from timestamp_service.rebuild import checksum


class Row(NamedTuple):
    """A record, its times in their canonical text, and its number in the checksum."""

    identifier: str
    event_timestamp: str
    created_at: str
    number: int


@dataclass(slots=True)
class Rows:
    """What some messages of the log give. Of several with one id the first counts."""

    rows: dict[str, Row] = field(default_factory=dict)
    duplicates: int = 0
    # By partition and offset, why it can never be projected.
    bad: dict[tuple[int, int], str] = field(default_factory=dict)
    next_offsets: dict[int, int] = field(default_factory=dict)
    count: int = 0


def from_messages(taken: Iterable[Message]) -> Rows:
    """Return what `taken` gives: messages of partitions, in their order."""
    found = Rows()
    last_ms, created_at = -1, ""
    for message in taken:
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None:
            raise ValueError("the message does not come from a topic")
        found.count += 1
        found.next_offsets[partition] = offset + 1
        kind, milliseconds = message.timestamp()
        try:
            command = messages.decode(message.value())
            if milliseconds != last_ms or not created_at:
                created_at = messages.append_time(kind, milliseconds)
                last_ms = milliseconds
        except MalformedError as error:
            found.bad[partition, offset] = str(error)
            continue
        identifier = command.command_id
        if identifier in found.rows:
            found.duplicates += 1
            continue
        number = checksum.number(identifier, command.event_timestamp, created_at)
        found.rows[identifier] = Row(identifier, command.event_timestamp, created_at, number)
    return found
