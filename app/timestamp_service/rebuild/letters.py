"""Which messages were dead-lettered, by the dead letters' own word."""

from confluent_kafka import Message

from timestamp_service.kafka import messages
from timestamp_service.kafka.topic import Topic

# The partition and offset of a message in the source topic.
Place = tuple[int, int]


class Letters:
    """The topic of dead letters, read as far as it goes at each call."""

    def __init__(self, topic: Topic) -> None:
        """Read `topic`."""
        self._topic = topic
        self._places: set[Place] = set()
        self._next_offsets: dict[int, int] = {}

    def read(self) -> set[Place]:
        """Return the places of all messages that have a dead letter now. Raises TopicError."""
        spans = self._topic.spans()
        begins = {
            partition: self._next_offsets.get(partition, begin) for partition, (begin, _) in spans.items()
        }
        ends = {partition: end for partition, (_, end) in spans.items()}
        for letters in self._topic.read(begins, ends):
            for letter in letters:
                place = source(letter)
                if place is not None:
                    self._places.add(place)
        self._next_offsets = ends
        return self._places


def source(letter: Message) -> Place | None:
    """Return the place that `letter` names as its message's, or None when it names none."""
    # The message's own headers come first, and may have any name.
    headers = dict(messages.headers(letter)[-4:])
    found = []
    for name in ("source.partition", "source.offset"):
        value = headers.get(name)
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value or ""
        if not text.isdecimal():
            return None
        found.append(int(text))
    return found[0], found[1]
