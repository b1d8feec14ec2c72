"""Reads the whole log of commands; run on a web node by our own Python. Prints the records' ids as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

TOPIC = "timestamp.command.v1"
FOLDER = Path("/etc/timestamp-service")


def main(broker: str) -> None:
    """Read each partition from its start to its end of now."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(FOLDER / "ca.crt"),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "timestamp-consumer",
            "sasl.password": (FOLDER / "timestamp-consumer.kafka_password_file").read_text().strip(),
            "group.id": "timestamp-consumer-look",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    ids: list[str] = []
    for number in consumer.list_topics(TOPIC, timeout=60).topics[TOPIC].partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(TOPIC, number), timeout=60)
        position = low
        if low < high:
            consumer.assign([TopicPartition(TOPIC, number, low)])
        while position < high:
            for message in consumer.consume(500, 1):
                if message.error() is not None:
                    raise SystemExit(str(message.error()))
                position = (message.offset() or 0) + 1
                ids.append((message.key() or b"").decode())
    consumer.close()
    json.dump(ids, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
