"""Reading a topic by offsets."""

import logging

import pytest

from tests.integration.kafka import Kafka
from timestamp_service import settings
from timestamp_service.kafka.topic import Topic
from timestamp_service.runtime.logs import Log

pytestmark = pytest.mark.integration

_PARTITIONS = 12


def test_a_topic_that_was_just_made_is_waited_for(kafka: Kafka) -> None:
    config = settings.read_command(
        {"SERVER_PORT": "1", "KAFKA_BROKER": kafka.bootstrap, "KAFKA_PUBLISH_TOPIC": "unused"}
    ).kafka
    # Again and again: most often its partitions have their leaders in time.
    for number in range(10):
        name = f"just-made-{number}"
        kafka.create_topic(name, _PARTITIONS, {})
        topic = Topic(config, name, "test", Log("test", logging.ERROR), lambda: False)
        try:
            assert topic.spans() == dict.fromkeys(range(_PARTITIONS), (0, 0))
        finally:
            topic.close()
