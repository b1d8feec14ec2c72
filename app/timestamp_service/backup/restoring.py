"""Restoring: the messages of a backup into empty topics, each at its offset and with its time, then compared.

Meanwhile the topics keep the times that messages come with (CreateTime) and accept larger batches; they get
their own settings back at the end, also after an error. An interrupted restore can be continued: the broker
marks each message that came with its time, which tells the messages of a restore from those of the service.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import TIMESTAMP_CREATE_TIME, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from timestamp_service.backup import files, lines, manifest
from timestamp_service.backup.lines import SavedMessage
from timestamp_service.backup.manifest import BackupError, File, Manifest
from timestamp_service.kafka.topic import StoppedError, Topic
from timestamp_service.settings import Kafka

_REQUEST_SECONDS = 15.0
_DELIVERY_SECONDS = 60.0
# A message that was sent compressed may be larger than its topic allows once it is sent uncompressed.
_MESSAGE_MAX_BYTES = 16 * 1024 * 1024
_BATCH_BYTES = 512 * 1024
# Until every broker applies the new settings.
_SETTLE_SECONDS = 2.0
_CHUNK = 10_000
_NEW = "Restore to a new Kafka: stop it, erase its data, and begin again."


class RestoreError(Exception):
    """The restore has failed with the topics half filled; the message says why."""


@dataclass(slots=True)
class Delivered:
    """The messages of one partition that the broker has acknowledged."""

    next: int
    times: dict[int, int] = field(default_factory=dict)
    error: str | None = None

    def take(self, error: KafkaError | None, message: Message) -> None:
        """Check a delivery report: the message must have the next offset and its own time."""
        if self.error is not None:
            return
        if error is not None:
            self.error = error.str()
            return
        expected, offset = self.next, message.offset()
        if offset != expected:
            self.error = f"the broker has put the message of offset {expected} at {offset}"
            return
        if message.timestamp() != (TIMESTAMP_CREATE_TIME, self.times.pop(expected)):
            self.error = f"the broker has given the message of offset {expected} another time"
            return
        self.next = expected + 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A backup, and how much of it is to be restored."""

    manifest: Manifest
    # The first offset that is missing, by topic and partition.
    begins: dict[str, dict[int, int]]

    @property
    def missing(self) -> int:
        """Return how many messages are to be sent."""
        return sum(
            end - self.begins[topic][partition]
            for topic in self.manifest.topics
            for partition, end in self.manifest.next_offsets(topic).items()
        )


def check(folder: Path, topics: list[Topic]) -> Plan:
    """Return how to restore a complete backup to `topics`. Raises BackupError and TopicError.

    The topics must be empty, or hold only what an interrupted restore of the same backup has written.
    """
    known = manifest.read(folder)
    if known is None:
        raise BackupError(manifest.missing(folder))
    names = [topic.name for topic in topics]
    if sorted(known.topics) != sorted(names):
        raise BackupError(f"the backup is of {', '.join(known.topics)}, not of {', '.join(names)}")
    damages = manifest.damages(folder, known.files)
    if damages:
        more = f" and {len(damages) - 10} more" if len(damages) > 10 else ""
        raise BackupError(
            f"the backup is damaged: {'; '.join(damages[:10])}{more}. Take them from another copy of it."
        )
    begins = {}
    for topic in topics:
        spans = topic.spans()
        if len(spans) != known.topics[topic.name]:
            raise BackupError(
                f"{topic.name} has {len(spans)} partitions, its backup {known.topics[topic.name]}:"
                " make the topic with as many, in a Kafka that is new."
            )
        saved = known.next_offsets(topic.name)
        for partition, (low, end) in spans.items():
            if low > 0 or end > saved[partition]:
                raise BackupError(
                    f"{topic.name}[{partition}] is not empty (it has offsets {low} to {end}): records would"
                    f" get other offsets. {_NEW}"
                )
        begins[topic.name] = {partition: end for partition, (_, end) in spans.items()}
        for message in _different(folder, known, topic, begins[topic.name], restored=True):
            raise BackupError(
                f"{topic.name}[{message.partition()}] is not empty, and no restore of this backup has written"
                f" what is at offset {message.offset()}. {_NEW}"
            )
    return Plan(known, begins)


def restore(
    folder: Path,
    plan: Plan,
    kafka: Kafka,
    topics: list[Topic],
    stopped: Callable[[], bool],
    on_progress: Callable[[str], None],
) -> int:
    """Restore a checked backup, and compare the topics with it; return how many messages were sent.

    Raises RestoreError, BackupError, TopicError, StoppedError and KafkaException.
    """
    count, total, known = 0, plan.missing, plan.manifest
    with _keeping_times(kafka, [topic.name for topic in topics]):
        producer = Producer(
            {
                **kafka.client(),
                "client.id": "timestamp-restore",
                "acks": "all",
                "enable.idempotence": True,
                "delivery.timeout.ms": int(_DELIVERY_SECONDS * 1000),
                "message.max.bytes": _MESSAGE_MAX_BYTES,
                "batch.size": _BATCH_BYTES,
                "linger.ms": 20,
                "queue.buffering.max.messages": 50_000,
            }
        )
        try:
            for topic in topics:
                for partition, begin in plan.begins[topic.name].items():
                    delivered = Delivered(begin)
                    for message in _all(folder, known.of(topic.name, partition), begin):
                        _produce(producer, topic.name, partition, message, delivered)
                        count += 1
                        if count % _CHUNK == 0:
                            on_progress(f"{count:,} of {total:,} messages sent")
                            if stopped():
                                raise StoppedError
                    if producer.flush(_DELIVERY_SECONDS + 5):
                        delivered.error = delivered.error or "no acknowledgement in time"
                    if delivered.error is not None:
                        raise RestoreError(f"{topic.name}[{partition}]: {delivered.error}")
        finally:
            # All messages must have arrived before the topics set times of their own again.
            producer.purge(in_flight=False)
            producer.flush(_DELIVERY_SECONDS + 5)
    on_progress("comparing the log with the backup")
    for topic in topics:
        compare(folder, known, topic)
    return count


def compare(folder: Path, known: Manifest, topic: Topic) -> None:
    """Check that `topic` holds exactly what its backup does: offsets, times, keys, values, headers.

    Raises RestoreError, BackupError and TopicError.
    """
    ends = {partition: end for partition, (_, end) in topic.spans().items()}
    expected = known.next_offsets(topic.name)
    if ends != expected:
        raise RestoreError(f"{topic.name} ends at {ends}, its backup at {expected}")
    for message in _different(folder, known, topic, ends):
        raise RestoreError(
            f"{topic.name}[{message.partition()}] has another message at offset {message.offset()} than its"
            " backup"
        )


def _different(
    folder: Path, known: Manifest, topic: Topic, ends: dict[int, int], *, restored: bool = False
) -> Iterator[Message]:
    """Yield the messages before `ends` that differ from the backup or, if `restored`, are of no restore."""
    for partition, end in ends.items():
        saved = _all(folder, known.of(topic.name, partition), 0)
        for messages in topic.read({partition: 0}, {partition: end}):
            for message in messages:
                if lines.from_message(message) != next(saved, None) or (
                    restored and message.timestamp()[0] != TIMESTAMP_CREATE_TIME
                ):
                    yield message


def _all(folder: Path, listed: list[File], begin: int) -> Iterator[SavedMessage]:
    for file in listed:
        if file.next > begin:
            for message in files.read(folder, file):
                if message.offset >= begin:
                    yield message


def _produce(
    producer: Producer, topic: str, partition: int, message: SavedMessage, delivered: Delivered
) -> None:
    if delivered.error is not None:
        raise RestoreError(f"{topic}[{partition}]: {delivered.error}")
    delivered.times[message.offset] = message.time
    while True:
        try:
            producer.produce(
                topic,
                message.value,
                message.key,
                partition,
                on_delivery=delivered.take,
                timestamp=message.time,
                headers=list(message.headers),
            )
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.1)


@contextmanager
def _keeping_times(kafka: Kafka, topics: list[str]) -> Iterator[None]:
    """Make the topics keep the times that messages come with, and accept large ones."""
    admin = AdminClient(kafka.client())
    wanted = {
        "message.timestamp.type": "CreateTime",
        "max.message.bytes": str(_MESSAGE_MAX_BYTES),
    }
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    described = admin.describe_configs(resources, request_timeout=_REQUEST_SECONDS)
    before = {
        resource.name: {name: described[resource].result()[name].value for name in wanted}
        for resource in resources
    }
    for config in before.values():
        # A restore that was killed may have left another one.
        config["message.timestamp.type"] = "LogAppendTime"
    try:
        _alter(admin, dict.fromkeys(topics, wanted))
        time.sleep(_SETTLE_SECONDS)
        yield
    finally:
        _alter(admin, before)


def _alter(admin: AdminClient, configs: dict[str, dict[str, str]]) -> None:
    resources = []
    for topic, config in configs.items():
        resource = ConfigResource(ResourceType.TOPIC, topic)
        for name, value in config.items():
            resource.add_incremental_config(
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            )
        resources.append(resource)
    for future in admin.incremental_alter_configs(resources, request_timeout=_REQUEST_SECONDS).values():
        try:
            future.result()
        except KafkaException as error:
            raise RestoreError(f"the topics' settings cannot be changed: {error.args[0].str()}") from None
