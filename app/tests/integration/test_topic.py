"""Reading a topic by offsets."""

import logging

import pytest
from confluent_kafka.cimpl import NewTopic

from tests.integration.kafka import Kafka
from timestamp_service import settings
from timestamp_service.logs import Log
from timestamp_service.topic import Topic

pytestmark = pytest.mark.integration

_PARTITIONS = 12


def test_a_topic_that_was_just_made_is_waited_for(kafka: Kafka) -> None:
    config = settings.read_command(
        {"SERVER_PORT": "1", "KAFKA_BROKER": kafka.bootstrap, "KAFKA_PUBLISH_TOPIC": "unused"}
    ).kafka
    admin = kafka.admin()
    # Again and again: most often its partitions have their leaders in time.
    for number in range(10):
        name = f"just-made-{number}"
        for made in admin.create_topics([NewTopic(name, _PARTITIONS, 1)]).values():
            made.result(30)
        topic = Topic(config, name, "test", Log("test", logging.ERROR), lambda: False)
        try:
            assert topic.spans() == dict.fromkeys(range(_PARTITIONS), (0, 0))
        finally:
            topic.close()
