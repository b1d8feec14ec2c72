"""Reading a topic from given offsets to given ends, without a consumer group and without a gap."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from timestamp_service.kafka import partitions
from timestamp_service.kafka.errors import KafkaErrors
from timestamp_service.runtime.logs import Log
from timestamp_service.settings import Kafka

_REQUEST_SECONDS = 10.0
_LEADER_SECONDS = 0.2
_POLL_SECONDS = 0.2
_CHUNK = 10_000

# Errors that pass by themselves soon: no broker leads the partition yet.
_LEADERLESS = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
# Errors that do not pass by themselves.
_FINAL = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}

# An offset of each partition.
Offsets = Mapping[int, int]


class TopicError(Exception):
    """A topic cannot be read; the message says why."""


class StalledError(TopicError):
    """Kafka has delivered nothing for too long."""


class StoppedError(Exception):
    """The caller has stopped the reading."""


class Topic:
    """All partitions of a topic. Used by one thread."""

    def __init__(self, kafka: Kafka, name: str, client: str, log: Log, stopped: Callable[[], bool]) -> None:
        """Read topic `name` until `stopped`; `client` names us and the group, which commits nothing."""
        self.name = name
        self._stopped = stopped
        self._errors = KafkaErrors(log)
        self._final: KafkaError | None = None
        self._consumer = Consumer(
            {
                **kafka.client(),
                "client.id": client,
                "group.id": client,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                # An offset that the log does not have is an error, and never silently another offset.
                "auto.offset.reset": "error",
                # We read only what is there already: a request that waits for more delays the next one.
                "fetch.wait.max.ms": 10,
                # The queue may exceed its limit by one answer of a broker.
                "queued.max.messages.kbytes": 32_768,
                "fetch.max.bytes": 16 * 1024 * 1024,
                "fetch.queue.backoff.ms": 10,
                "fetch.error.backoff.ms": 100,
                "error_cb": self._on_error,
            }
        )

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def partitions(self) -> list[int]:
        """Return the numbers of the partitions. Raises TopicError."""
        try:
            metadata = self._consumer.list_topics(self.name, timeout=_REQUEST_SECONDS).topics[self.name]
        except KafkaException as error:
            raise TopicError(f"Kafka does not answer: {self._reason(error)}") from None
        if metadata.error is not None:
            raise TopicError(f"topic {self.name}: {metadata.error.str()}")
        return sorted(metadata.partitions)

    def require_partitions(self, expected: int) -> None:
        """Raise PartitionsError unless the topic has `expected` partitions. Raises TopicError."""
        partitions.require(self.name, len(self.partitions()), expected)

    def spans(self) -> dict[int, tuple[int, int]]:
        """Return each partition's first offset, and the one after its last. Raises TopicError."""
        spans = {}
        for partition in self.partitions():
            spans[partition] = self._span(partition)
        return spans

    def _span(self, partition: int) -> tuple[int, int]:
        deadline = time.monotonic() + _REQUEST_SECONDS
        while True:
            try:
                return self._consumer.get_watermark_offsets(
                    TopicPartition(self.name, partition), timeout=_REQUEST_SECONDS
                )
            except KafkaException as error:
                # Normal for a moment after the topic was created or the broker started.
                if error.args[0].code() in _LEADERLESS and time.monotonic() < deadline:
                    time.sleep(_LEADER_SECONDS)
                    continue
                raise TopicError(f"{self.name}[{partition}]: {self._reason(error)}") from None

    def read(self, begins: Offsets, ends: Offsets, stall_seconds: float = 60.0) -> Iterator[list[Message]]:
        """Yield the messages from `begins` up to before `ends`, each partition's in order and without a gap.

        Raises TopicError, StalledError when nothing comes for `stall_seconds`, and StoppedError.
        """
        next_offsets = {
            partition: begin for partition, begin in begins.items() if begin < ends.get(partition, begin)
        }
        begun = [TopicPartition(self.name, *item) for item in next_offsets.items()]
        self._consumer.assign(begun)
        # Partitions that an earlier reading has paused are still paused.
        self._consumer.resume(begun)
        progress_at = time.monotonic()
        try:
            while next_offsets:
                if self._stopped():
                    raise StoppedError
                chunk: list[Message] = []
                for message in self._poll():
                    partition, offset = message.partition(), message.offset()
                    if partition not in next_offsets or offset is None:
                        continue
                    if offset != next_offsets[partition]:
                        raise TopicError(
                            f"{self.name}[{partition}] has a gap: {next_offsets[partition]} is missing,"
                            f" {offset} follows"
                        )
                    chunk.append(message)
                    if offset + 1 == ends[partition]:
                        del next_offsets[partition]
                        self._consumer.pause([TopicPartition(self.name, partition)])
                    else:
                        next_offsets[partition] = offset + 1
                if chunk:
                    yield chunk
                    progress_at = time.monotonic()
                elif time.monotonic() - progress_at > stall_seconds:
                    raise StalledError(
                        f"{self.name}: Kafka has delivered nothing for {stall_seconds:g} s at {next_offsets}"
                    )
        finally:
            self._consumer.unassign()

    def _poll(self) -> list[Message]:
        messages = []
        for message in self._consumer.consume(_CHUNK, _POLL_SECONDS):
            error = message.error()
            if error is None:
                messages.append(message)
            else:
                self._on_error(error)
        if self._final is not None:
            raise TopicError(f"topic {self.name}: {self._final.str()}")
        return messages

    def _on_error(self, error: KafkaError) -> None:
        if self._errors.report(error) or error.code() in _FINAL:
            self._final = error

    def _reason(self, error: KafkaException) -> str:
        cause: KafkaError = self._final or error.args[0]
        return cause.str()


@contextmanager
def open_topics(
    kafka: Kafka, names: Sequence[str], client: str, log: Log, stopped: Callable[[], bool]
) -> Iterator[list[Topic]]:
    """Yield the topics of these names, as `Topic` makes them; close their connections at the end."""
    with ExitStack() as stack:
        topics = []
        for name in names:
            topic = Topic(kafka, name, client, log, stopped)
            stack.callback(topic.close)
            topics.append(topic)
        yield topics
