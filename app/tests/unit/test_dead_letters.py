import logging
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from timestamp_service import settings
from timestamp_service.kafka.dead_letters import BadMessage, DeadLetters, NotDeliveredError
from timestamp_service.kafka.messages import Headers
from timestamp_service.runtime.logs import Log

KAFKA = settings.Kafka("127.0.0.1:1", "PLAINTEXT", "", None, None, None)
FATAL = KafkaError(KafkaError._FATAL)
TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
Report = Callable[[KafkaError | None, Message], None]
Sent = tuple[bytes | None, bytes | None, Headers]


class FakeProducer(Producer):
    """Remembers what is sent; a flush acknowledges it, unless it is too large or there is an error."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.waiting: list[tuple[Sent, Report]] = []
        self.delivered: list[Sent] = []
        self.fatal = False
        self.lost = 0
        self.full = 0
        self.refused: KafkaError | None = None

    def produce(self, topic: str, value: Any = None, key: Any = None, **more: Any) -> None:  # type: ignore[override]
        assert topic == "dead"
        if self.full:
            self.full -= 1
            raise BufferError
        if self.refused is not None:
            raise KafkaException(self.refused)
        self.waiting.append(((key, value, more["headers"]), more["on_delivery"]))

    def poll(self, timeout: float = -1) -> int:
        return 0

    def flush(self, timeout: float = -1) -> int:
        if self.fatal:
            # The library does not call `error_cb` for it.
            raise KafkaException(FATAL)
        waiting, self.waiting = self.waiting, []
        for sent, report in waiting:
            error = TOO_LARGE if len(sent[1] or b"") > 10 else None
            if error is None:
                self.delivered.append(sent)
            report(error, None)  # type: ignore[arg-type]
        return self.lost


def bad(value: bytes, offset: int) -> BadMessage:
    return BadMessage(b"key", value, [("h", b"v")], "why", 3, offset)


class Letters:
    """Dead letters, and the producers they have made."""

    def __init__(self) -> None:
        self.producers: list[FakeProducer] = []
        self.letters = DeadLetters(KAFKA, "dead", Log("test", logging.CRITICAL), self._connect)

    def _connect(self, config: dict[str, Any]) -> FakeProducer:
        assert (config["acks"], config["enable.idempotence"]) == ("all", True)
        self.producers.append(FakeProducer(config))
        return self.producers[-1]


def source(offset: int) -> Headers:
    return [("error", b"why"), ("source.partition", b"3"), ("source.offset", str(offset).encode())]


def test_all_are_delivered_and_what_is_too_large_without_its_content() -> None:
    made = Letters()
    made.letters.send([])
    assert not made.producers
    made.letters.send([bad(b"small", 1), bad(b"much too large", 2)])
    assert made.producers[0].delivered == [
        (b"key", b"small", [("h", b"v"), *source(1)]),
        (None, None, [*source(2), ("omitted", b"key, value, headers")]),
    ]


def test_a_fatal_error_while_it_sends() -> None:
    made = Letters()
    made.letters.send([bad(b"small", 1)])
    made.producers[0].fatal = True
    # The first flush reports it; a second one follows for what is too large.
    made.producers[0].refused = TOO_LARGE
    with pytest.raises(NotDeliveredError):
        made.letters.send([bad(b"small", 2)])
    made.letters.send([bad(b"small", 3)])
    assert len(made.producers) == 2
    assert [headers[-1] for _, _, headers in made.producers[1].delivered] == [("source.offset", b"3")]


@pytest.mark.parametrize(
    "refused",
    [None, KafkaError(KafkaError._MSG_TIMED_OUT), KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)],
)
def test_what_is_not_acknowledged_is_not_delivered(refused: KafkaError | None) -> None:
    made = Letters()
    made.letters.send([bad(b"small", 1)])
    made.producers[0].lost = 1 if refused is None else 0
    made.producers[0].refused = refused
    with pytest.raises(NotDeliveredError) as caught:
        made.letters.send([bad(b"small", 2)])
    assert caught.value.passing == (refused is None or refused.code() == KafkaError._MSG_TIMED_OUT)
    # The same producer goes on where Kafka has answered; else it may be the producer that does not ask.
    made.producers[0].lost, made.producers[0].refused, made.producers[0].full = 0, None, 2
    made.letters.send([bad(b"small", 2)])
    assert len(made.producers) == 1 + caught.value.passing
