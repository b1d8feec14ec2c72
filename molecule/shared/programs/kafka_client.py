"""What a broker answers to clients that it must refuse, as JSON; run on a web node by our own Python."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import kafka_settings
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewTopic

TOPIC = "timestamp.command.v1"
SECONDS = 10.0
READ_SECONDS = 4.0


def settings(broker: str, service: str, password: str = "") -> dict[str, Any]:
    """Return the settings of a client that is to be refused soon, and quietly."""
    return {**kafka_settings.settings(broker, service, password), "socket.timeout.ms": 5000, "log_level": 0}


def produce(given: dict[str, Any], topic: str) -> str:
    """Send a record that is no command; returns the error's name, or "" when it was taken."""
    errors: list[str] = []
    producer = Producer({**given, "message.timeout.ms": 5000})
    producer.produce(topic, b"{}", on_delivery=lambda error, _: errors.append(error.name() if error else ""))
    producer.flush(SECONDS)
    return errors[0] if errors else "no answer"


def consume(given: dict[str, Any], topic: str, group: str = "") -> str:
    """Read a topic from its start, as a group if one is given; returns the error's name, or "" if it may."""
    errors: list[str] = []
    consumer = Consumer(
        {
            **given,
            "group.id": group or given["sasl.username"],
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "error_cb": lambda error: errors.append(error.name()),
        }
    )
    if group:
        consumer.subscribe([topic])
    else:
        consumer.assign([TopicPartition(topic, 0, 0)])
    end = time.monotonic() + READ_SECONDS
    try:
        while not errors and time.monotonic() < end:
            message = consumer.poll(0.5)
            error = message.error() if message is not None else None
            if error is not None:
                errors.append(error.name())
            elif message is not None or (group and consumer.assignment()):
                break
    finally:
        consumer.close()
    return errors[0] if errors else ""


def log_in(given: dict[str, Any]) -> str:
    """Ask for the cluster's topics; returns the error's name."""
    errors: list[KafkaError] = []
    with_errors: dict[str, Any] = {**given, "error_cb": errors.append}
    client = AdminClient(with_errors)
    try:
        client.list_topics(timeout=4)
    except KafkaException as error:
        client.poll(0)
        return str(errors[-1].name() if errors else error.args[0].name())
    return ""


def create_topic(given: dict[str, Any]) -> str:
    """Make a topic; returns the error's name."""
    client = AdminClient(given)
    for future in client.create_topics([NewTopic("intruder", 1, 1)], request_timeout=SECONDS).values():
        try:
            future.result(SECONDS)
        except KafkaException as error:
            return str(error.args[0].name())
    return ""


def delete_topic(given: dict[str, Any], topic: str) -> str:
    """Remove a topic; returns the error's name."""
    client = AdminClient(given)
    return outcome(client.delete_topics([topic], request_timeout=SECONDS))


def alter_config(given: dict[str, Any], topic: str, name: str, value: str) -> str:
    """Give a topic a setting; returns the error's name."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource.add_incremental_config(entry)
    client = AdminClient(given)
    return outcome(client.incremental_alter_configs([resource], request_timeout=SECONDS))


def read_offset(given: dict[str, Any], group: str) -> str:
    """Ask how far a group has read; returns the error's name."""
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(TOPIC, 0)])
    client = AdminClient(given)
    return offset_outcome(client.list_consumer_group_offsets([wanted], request_timeout=SECONDS))


def set_offset(given: dict[str, Any], group: str) -> str:
    """Say how far a group has read; returns the error's name."""
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(TOPIC, 0, 0)])
    client = AdminClient(given)
    return offset_outcome(client.alter_consumer_group_offsets([wanted], request_timeout=SECONDS))


def offset_outcome(futures: dict[Any, Any]) -> str:
    """Return the name of the error of a request about offsets, which may be that of a partition."""
    failed = outcome(futures)
    if failed:
        return failed
    errors = [place.error for future in futures.values() for place in future.result().topic_partitions]
    return next((str(error.name()) for error in errors if error is not None), "")


def outcome(futures: dict[Any, Any]) -> str:
    """Return the name of the error of a request about one thing, or "" where it was done."""
    for future in futures.values():
        try:
            future.result(SECONDS)
        except KafkaException as error:
            return str(error.args[0].name())
    return ""


def plain_text(broker: str) -> str:
    """Speak Kafka's protocol without TLS (an ApiVersions request); returns what came back in words."""
    host, _, port = broker.rpartition(":")
    request = bytes.fromhex("0012000000000001") + b"\x00\x04test" + b"\x00"
    with socket.create_connection((host, int(port)), SECONDS) as connection:
        connection.sendall(len(request).to_bytes(4, "big") + request)
        connection.settimeout(SECONDS)
        try:
            said = connection.recv(64)
        except OSError:
            return "closed"
    # A TLS alert record, or the end.
    return "closed" if not said or said[0] == 0x15 else said.hex()


def unknown_authority(broker: str) -> str:
    """Shake hands trusting the system's authorities alone; returns the name of the error."""
    host, _, port = broker.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), SECONDS) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=host),
        ):
            return ""
    except ssl.SSLError as error:
        return type(error).__name__


def services(broker: str) -> dict[str, Callable[[], str]]:
    """Return what the clients of the service try."""
    command, consumer = settings(broker, "timestamp-command"), settings(broker, "timestamp-consumer")
    return {
        "wrong password": lambda: log_in(settings(broker, "timestamp-command", "wrong" * 8)),
        "unknown user": lambda: log_in(settings(broker, "nobody", "wrong" * 8)),
        "command logs in": lambda: log_in(command),
        "command reads": lambda: consume(command, TOPIC),
        "command joins the group": lambda: consume(command, TOPIC, "timestamp-consumer"),
        "command asks how far a group has read": lambda: read_offset(command, "timestamp-consumer-trial"),
        "command asks how far another group has read": lambda: read_offset(command, "another"),
        "command changes how far a group has read": lambda: set_offset(command, "timestamp-consumer-trial"),
        "command writes dead letters": lambda: produce(command, f"{TOPIC}.dead-letter"),
        "command makes a topic": lambda: create_topic(command),
        "consumer reads": lambda: consume(consumer, TOPIC, "timestamp-consumer-trial"),
        "consumer reads as another group": lambda: consume(consumer, TOPIC, "another"),
        "consumer reads dead letters": lambda: consume(
            consumer, f"{TOPIC}.dead-letter", "timestamp-consumer-trial"
        ),
        "consumer writes commands": lambda: produce(consumer, TOPIC),
        "plain text": lambda: plain_text(broker),
        "unknown authority": lambda: unknown_authority(broker),
    }


def saver(broker: str) -> dict[str, Callable[[], str]]:
    """Return what backup tries."""
    backup = settings(broker, "timestamp-backup")
    letters = f"{TOPIC}.dead-letter"
    return {
        "backup reads": lambda: consume(backup, TOPIC),
        "backup reads dead letters": lambda: consume(backup, letters),
        "backup writes": lambda: produce(backup, TOPIC),
        "backup writes dead letters": lambda: produce(backup, letters),
        "backup alters": lambda: alter_config(backup, TOPIC, "retention.ms", "-1"),
        "backup deletes the topic": lambda: delete_topic(backup, TOPIC),
        "backup joins the group": lambda: consume(backup, TOPIC, "timestamp-consumer"),
    }


def keepers(broker: str) -> dict[str, Callable[[], str]]:
    """Return what backup and restore try; the password of restore is on the node while it runs alone."""
    restore = settings(broker, "timestamp-restore")
    letters = f"{TOPIC}.dead-letter"
    return {
        **saver(broker),
        "restore reads": lambda: consume(restore, TOPIC),
        "restore alters": lambda: alter_config(restore, TOPIC, "retention.ms", "-1"),
        "restore alters dead letters": lambda: alter_config(restore, letters, "retention.ms", "-1"),
        "restore deletes the topic": lambda: delete_topic(restore, TOPIC),
        "restore makes a topic": lambda: create_topic(restore),
        "restore joins the group": lambda: consume(restore, TOPIC, "timestamp-consumer"),
    }


def main(broker: str, who: str = "services") -> None:
    """Try all and print what each was answered with."""
    tries = {"services": services, "saver": saver, "keepers": keepers}[who](broker)
    json.dump({name: attempt() for name, attempt in tries.items()}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
