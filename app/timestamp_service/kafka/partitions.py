"""The number of the topic's partitions, which is fixed for life: a retry finds its partition by it."""

from confluent_kafka.admin import ClusterMetadata


class PartitionsError(Exception):
    """The topic has another number of partitions than the setting says; the message says what to do."""


def number(metadata: ClusterMetadata, topic: str) -> int | None:
    """Return the number of partitions of `topic`, or None where it is not there (yet)."""
    found = metadata.topics.get(topic)
    if found is None or found.error is not None or not found.partitions:
        return None
    return len(found.partitions)


def require(topic: str, number: int, expected: int) -> None:
    """Raise PartitionsError if `number` is another one than the setting KAFKA_PARTITIONS."""
    if number != expected:
        raise PartitionsError(
            f"{topic} has {number} partitions, but KAFKA_PARTITIONS is {expected}. Set it to the number that"
            " the topic was created with. If partitions were added later, restore the log's backup to a topic"
            " with the old number."
        )
