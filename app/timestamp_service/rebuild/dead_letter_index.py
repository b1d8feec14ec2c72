"""Which messages of the log have a dead letter, as the headers of the dead letters say."""

from confluent_kafka import Message

from timestamp_service.kafka import messages
from timestamp_service.kafka.topic import Topic

# The partition and offset of a message in the log.
Position = tuple[int, int]


class DeadLetterIndex:
    """The positions of the dead-lettered messages; each call of `read` continues where the last one ended."""

    def __init__(self, topic: Topic) -> None:
        """Read `topic`, which holds the dead letters."""
        self._topic = topic
        self._positions: set[Position] = set()
        self._next_offsets: dict[int, int] = {}

    def read(self) -> set[Position]:
        """Return the positions of all messages that have a dead letter now. Raises TopicError."""
        spans = self._topic.spans()
        begins = {
            partition: self._next_offsets.get(partition, begin) for partition, (begin, _) in spans.items()
        }
        ends = {partition: end for partition, (_, end) in spans.items()}
        for dead_letters in self._topic.read(begins, ends):
            for dead_letter in dead_letters:
                position = source(dead_letter)
                if position is not None:
                    self._positions.add(position)
        self._next_offsets = ends
        return self._positions


def source(dead_letter: Message) -> Position | None:
    """Return the position of the message that was dead-lettered, or None when the headers do not have it."""
    # The message's own headers come first, and may have any name.
    headers = dict(messages.headers(dead_letter)[-4:])
    numbers = []
    for name in ("source.partition", "source.offset"):
        value = headers.get(name)
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value or ""
        if not text.isdecimal():
            return None
        numbers.append(int(text))
    return numbers[0], numbers[1]
