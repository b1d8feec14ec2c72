"""Reads a whole topic; run on a web node by our own Python.

Prints each message's key and headers as JSON: bytes as a text.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from kafka_settings import settings


def text(content: str | bytes | None) -> str | None:
    """Return bytes as a text."""
    return content.decode() if isinstance(content, bytes) else content


def main(broker: str, topic: str) -> None:
    """Read each partition from its start to its end of now."""
    consumer = Consumer(
        {
            **settings(broker, "timestamp-consumer"),
            "group.id": "timestamp-consumer-look",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    messages: list[dict[str, Any]] = []
    for number in consumer.list_topics(topic, timeout=60).topics[topic].partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=60)
        position = low
        if low < high:
            consumer.assign([TopicPartition(topic, number, low)])
        while position < high:
            for message in consumer.consume(500, 1):
                if message.error() is not None:
                    raise SystemExit(str(message.error()))
                position = (message.offset() or 0) + 1
                headers = {name: text(value) for name, value in dict(message.headers() or []).items()}
                messages.append({"key": text(message.key()), "headers": headers})
    consumer.close()
    json.dump(messages, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
