"""Finds out whether nothing is read of a partition though messages wait there.

The library may not notice that it reads nothing, for example when a topic was replaced by another one of its
name.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from timestamp_service.runtime.logs import Log

# How often it is asked where partitions end. A position that stays behind for so long will not move any more.
_EVERY_SECONDS = 10.0
# How long to wait for each answer.
_ANSWER_SECONDS = 1.0

_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]

_Offsets = dict[TopicPartition, Future[ListOffsetsResultInfo]]


class Stall:
    """Compares the positions of a consumer with the ends of its partitions."""

    def __init__(self, connect: Callable[[], AdminClient], log: Log) -> None:
        """`log` takes, for debugging, why Kafka did not say where partitions end.

        `connect` makes a client with connections of its own: on the consumer's, Kafka answers only after the
        fetch that waits for messages (0.5 s), and the consumer reads nothing in the meantime.
        """
        self._connect = connect
        self._admin = connect()
        self._log = log
        # The first offset of each partition and the one after the last, which were asked for.
        self._asked: tuple[_Offsets, _Offsets] | None = None
        self._due = time.monotonic() + _EVERY_SECONDS
        # The positions that were behind when it was asked last, and those for which a new consumer was tried:
        # one that stays behind for ever, before a marker, is tried once.
        self._behind: dict[int, int] = {}
        self._tried: dict[int, int] = {}

    def check(self, consumer: Consumer, *, paused: bool) -> list[int]:
        """Return the partitions for which a new consumer should be tried. Does not wait for the answers."""
        now = time.monotonic()
        if self._asked is None:
            if now >= self._due:
                self._due = now + _EVERY_SECONDS
                self._ask(consumer.assignment())
            return []
        if not all(future.done() for futures in self._asked for future in futures.values()):
            return []
        try:
            behind = {} if paused else _behind(consumer, *map(_results, self._asked))
        except KafkaException as error:
            self._log.debug("kafka_does_not_answer", error=str(error))
            behind = {}
            # It may never connect again (kafka/statistics.py).
            self._admin = self._connect()
        self._asked = None
        still = {partition: at for partition, at in behind.items() if self._behind.get(partition) == at}
        new = {partition: at for partition, at in still.items() if self._tried.get(partition) != at}
        self._behind = behind
        self._tried.update(new)
        return sorted(new)

    def _ask(self, assigned: list[TopicPartition]) -> None:
        if not assigned:
            return
        first, end = (
            self._admin.list_offsets(dict.fromkeys(assigned, which), request_timeout=_ANSWER_SECONDS)
            for which in (_EARLIEST, _LATEST)
        )
        self._asked = first, end


def _results(futures: _Offsets) -> dict[int, int]:
    """Return the offset of each partition. Raises KafkaException."""
    return {place.partition: future.result().offset for place, future in futures.items()}


def _behind(consumer: Consumer, firsts: dict[int, int], ends: dict[int, int]) -> dict[int, int]:
    """Return the next offset of each assigned partition that has it already. Raises KafkaException."""
    assigned = [one for one in consumer.assignment() if one.partition in ends]
    positions = {one.partition: one.offset for one in consumer.position(assigned)}
    if any(offset < 0 for offset in positions.values()):
        # Nothing was read since the assignment: the next is the committed offset, or else the first one.
        for one in consumer.committed(assigned, timeout=_ANSWER_SECONDS):
            if positions[one.partition] < 0:
                positions[one.partition] = one.offset
    return {
        partition: at
        for partition, at in positions.items()
        # An offset that the log does not have was of another one.
        if max(at, firsts[partition]) < ends[partition] or at > ends[partition]
    }
