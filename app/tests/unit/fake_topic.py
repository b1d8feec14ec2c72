"""A topic in memory, and messages that the library would give."""

from collections.abc import Iterator

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from timestamp_service.kafka.messages import Headers
from timestamp_service.kafka.topic import Offsets, Topic

APPENDED = 1_700_000_000_120


class UnreadableHeaders(Message):
    """A message of whose headers one has a name that is not UTF-8."""

    def headers(self) -> Headers:
        """Fail as the library does."""
        b"\xff".decode()
        return []


def message(
    value: bytes | None,
    partition: int = 0,
    offset: int = 0,
    headers: Headers | None = None,
    timestamp: tuple[int, int] = (TIMESTAMP_LOG_APPEND_TIME, APPENDED),
    kind: type[Message] = Message,
) -> Message:
    return kind("topic", partition, offset, b"key", value, headers or [], None, timestamp)


class FakeTopic(Topic):
    """A topic whose partitions are lists of messages."""

    def __init__(self, partitions: list[list[Message]], name: str = "topic", first: int = 0) -> None:
        self.name = name
        self.held = partitions
        self._first = first

    def partitions(self) -> list[int]:
        return list(range(len(self.held)))

    def spans(self) -> dict[int, tuple[int, int]]:
        return {partition: (self._first, len(held)) for partition, held in enumerate(self.held)}

    def read(self, begins: Offsets, ends: Offsets, stall_seconds: float = 60.0) -> Iterator[list[Message]]:
        for partition, begin in begins.items():
            for one in self.held[partition][begin : ends.get(partition, begin)]:
                yield [one]
