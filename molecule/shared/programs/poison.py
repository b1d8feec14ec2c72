"""Sends messages that can never be projected among others' good ones; run on a web node by our own Python.

Prints as JSON how many the broker took, how many it refused for their size, and their places in the log.
"""

from __future__ import annotations

import json
import sys
import time
import uuid

from confluent_kafka import KafkaError, Message, Producer
from kafka_settings import settings

TOPIC = "timestamp.command.v1"
LARGEST = 1_048_588
# What a batch of one record takes beside key and value.
AROUND = 200


def bad_value(number: int) -> bytes | None:
    """Return a value of one of the kinds of bad messages."""
    identifier = str(uuid.uuid4())
    return (
        b"not JSON",
        b"",
        None,
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        json.dumps({"command_id": "none", "event_timestamp": "2009-09-28T19:03:12Z"}).encode(),
        json.dumps({"command_id": identifier}).encode(),
        json.dumps({"command_id": identifier, "event_timestamp": "yesterday"}).encode(),
        json.dumps({"command_id": identifier, "event_timestamp": 12}).encode(),
    )[number % 10]


def main(broker: str, count: int, seconds: float) -> None:
    """Send `count` bad messages, spread over `seconds`; every hundredth is as large as the topic takes.

    Ten more are too large for it: the broker refuses them, and they never are in the log.
    """
    places: list[tuple[int, int]] = []
    refused: list[str] = []

    def report(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            refused.append(error.name())
        else:
            places.append((message.partition() or 0, message.offset() or 0))

    producer = Producer(
        {
            **settings(broker, "timestamp-command"),
            # The client's own limit must not spare the broker.
            "message.max.bytes": 4 * LARGEST,
            "compression.type": "none",
            "linger.ms": 0,
        }
    )
    for number in range(count):
        value = b"x" * (LARGEST - AROUND) if number % 100 == 99 else bad_value(number)
        producer.produce(TOPIC, value, f"poison-{number}", on_delivery=report)
        producer.poll(0)
        time.sleep(seconds / count)
    for number in range(10):
        producer.produce(TOPIC, b"x" * 2 * LARGEST, f"huge-{number}", on_delivery=report)
        producer.poll(0.05)
    producer.flush(30)
    json.dump({"taken": len(places), "refused": refused, "places": sorted(places)}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
