"""Dead letters: messages that can never be projected go to a topic of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from timestamp_service.kafka.errors import KafkaErrors
from timestamp_service.kafka.messages import OMITTED, Headers
from timestamp_service.runtime.logs import Log
from timestamp_service.settings import Kafka

_DELIVERY_SECONDS = 10.0
# Larger than any message of the log: the headers that we add must fit too.
_MESSAGE_MAX_BYTES = 4 * 1024 * 1024
# The library copies what is sent; a full queue is waited for.
_QUEUE_KILOBYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class BadMessage:
    """A message that can never be projected, as it was received, and why."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    error: str
    partition: int
    offset: int

    def extra_bytes(self) -> int:
        """Return the size of key and headers."""
        return len(self.key or b"") + sum(len(name) + len(value or b"") for name, value in self.headers)


# Errors of a Kafka that is away or slow, and that pass when it is back.
_PASSING = {
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.REQUEST_TIMED_OUT,
}


class NotDeliveredError(Exception):
    """Not all dead letters are acknowledged; they may be sent again.

    `passing`: Kafka is only away or slow. Else it refuses them: the topic is missing, say, or a right.
    """

    def __init__(self, reason: str, *, passing: bool) -> None:
        """Say why."""
        super().__init__(reason)
        self.passing = passing


class DeadLetters:
    """A producer of dead letters, which connects for the first one. Used by one thread."""

    def __init__(
        self, kafka: Kafka, topic: str, log: Log, connect: Callable[[dict[str, Any]], Producer] = Producer
    ) -> None:
        """Send to `topic` by what `connect` makes of librdkafka's settings."""
        self._topic = topic
        self._connect = connect
        self._errors = KafkaErrors(log)
        self._config = {
            **kafka.client(),
            "client.id": "timestamp-consumer",
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": int(_DELIVERY_SECONDS * 1000),
            "message.max.bytes": _MESSAGE_MAX_BYTES,
            "queue.buffering.max.kbytes": _QUEUE_KILOBYTES,
            "error_cb": self._on_error,
        }
        self._producer: Producer | None = None
        self._unusable = False

    def send(self, messages: Sequence[BadMessage]) -> None:
        """Send all, and return once all are acknowledged. Raises NotDeliveredError."""
        if not messages:
            return
        if self._producer is None or self._unusable:
            self._unusable = False
            self._producer = self._connect(self._config)
        producer = self._producer
        failed: list[tuple[BadMessage, KafkaError]] = []
        for message in messages:
            self._produce(producer, message, message.value, dead_letter_headers(message), failed)
        left = self._flush(producer)
        too_large = [message for message, error in failed if _is_size(error)]
        failed = [(message, error) for message, error in failed if not _is_size(error)]
        for message in too_large:
            # It is in the log, which keeps everything: its partition and offset are enough to find it.
            headers: Headers = [
                *dead_letter_headers(message, with_own=False),
                (OMITTED, b"key, value, headers"),
            ]
            self._produce(producer, message, None, headers, failed, with_key=False)
        left += self._flush(producer) if too_large else 0
        if failed or left:
            errors = [error for _, error in failed]
            refused = [error for error in errors if error.code() not in _PASSING]
            reason = (refused or errors)[0].str() if errors else "no acknowledgement in time"
            # The library may never connect again (statistics.py). What was sent has failed or takes too long.
            self._unusable = self._unusable or not refused
            raise NotDeliveredError(reason, passing=not refused)

    def _flush(self, producer: Producer) -> int:
        """Wait until all is acknowledged; return how many are not. Raises NotDeliveredError."""
        try:
            return producer.flush(_DELIVERY_SECONDS + 1)
        except KafkaException as error:
            self._on_error(error.args[0])
            raise NotDeliveredError(error.args[0].str(), passing=True) from None

    def close(self) -> None:
        """Close the producer; nothing is in flight between two calls of `send`."""
        self._producer = None

    def _produce(
        self,
        producer: Producer,
        message: BadMessage,
        value: bytes | None,
        headers: Headers,
        failed: list[tuple[BadMessage, KafkaError]],
        *,
        with_key: bool = True,
    ) -> None:
        def report(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed.append((message, error))

        key = message.key if with_key else None
        while True:
            try:
                producer.produce(self._topic, value, key, headers=headers, on_delivery=report)
                return
            except BufferError:
                self._poll(producer)
            except KafkaException as error:
                failed.append((message, error.args[0]))
                return

    def _poll(self, producer: Producer) -> None:
        try:
            producer.poll(0.1)
        except KafkaException as error:
            self._on_error(error.args[0])

    def _on_error(self, error: KafkaError) -> None:
        if self._errors.report(error):
            # The library calls this while `send` uses the producer: the next call of `send` replaces it.
            self._unusable = True


def dead_letter_headers(message: BadMessage, *, with_own: bool = True) -> Headers:
    """Return the headers of the dead letter of `message`: its own, and those that say why and from where."""
    return [
        *(message.headers if with_own else []),
        ("error", message.error.encode()),
        ("source.partition", str(message.partition).encode()),
        ("source.offset", str(message.offset).encode()),
    ]


def _is_size(error: KafkaError) -> bool:
    return error.code() == KafkaError.MSG_SIZE_TOO_LARGE
