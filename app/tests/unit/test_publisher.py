import asyncio
import logging

import pytest
from confluent_kafka import KafkaError

from timestamp_service import settings
from timestamp_service.command.acknowledgements import NotPublishedError
from timestamp_service.command.publisher import Publisher
from timestamp_service.runtime.logs import Log

# A port that nobody listens on.
CONFIG = settings.read_command(
    {"SERVER_PORT": "1", "KAFKA_BROKER": "127.0.0.1:1", "KAFKA_PUBLISH_TOPIC": "t"}
)


def test_without_a_broker_nothing_is_accepted() -> None:
    async def scenario() -> None:
        publisher = Publisher(CONFIG, Log("s", logging.INFO, lambda _: None))
        with pytest.raises(NotPublishedError):
            publisher.publish("key", b"value", [], by_key=False)
        assert publisher.in_flight == 0
        assert publisher.progressing()
        await publisher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (KafkaError(KafkaError._TRANSPORT, "connection lost"), False),
        (KafkaError(KafkaError._ALL_BROKERS_DOWN, "all down"), False),
        (KafkaError(KafkaError._FATAL, "gap in the sequence"), True),
        (KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "gap in the sequence", True), True),
    ],
)
def test_an_error_that_is_for_good_ends_the_worker_once(error: KafkaError, ends: bool) -> None:
    ended: list[bool] = []

    async def scenario() -> None:
        publisher = Publisher(CONFIG, Log("s", logging.INFO, lambda _: None), lambda: ended.append(True))
        publisher._on_error(error)
        publisher._on_error(error)
        await publisher.close()

    asyncio.run(scenario())
    assert ended == ([True] if ends else [])
