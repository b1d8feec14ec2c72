"""A producer of the test's own, in place of the library's."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException


class FakeProducer:
    """Acknowledges what the test says, when it is polled. It knows the twelve partitions of a new topic.

    Each has as many replicas as the test says; None: no broker answers.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.replicas: int | None = 1
        self.sent: list[tuple[str, int, Any]] = []
        self.due: list[tuple[Any, KafkaError | None]] = []
        self.polls = 0

    def list_topics(self, topic: str, timeout: float) -> Any:
        if self.replicas is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        replicas = list(range(self.replicas))
        partitions = {number: SimpleNamespace(id=number, leader=1, replicas=replicas) for number in range(12)}
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions=partitions)})

    def produce(
        self, _topic: str, _value: bytes, key: str, *, partition: int, on_delivery: Any, headers: Any
    ) -> None:
        self.sent.append((key, partition, on_delivery))

    def acknowledge(self, *keys: str, error: KafkaError | None = None) -> None:
        """Let the messages of these keys, or all, be acknowledged at the next poll."""
        self.due += [(report, error) for key, _, report in self.sent if not keys or key in keys]
        self.sent = [entry for entry in self.sent if keys and entry[0] not in keys]

    def poll(self, _seconds: float) -> int:
        self.polls += 1
        due, self.due = self.due, []
        for number, (report, error) in enumerate(due):
            try:
                report(error, None)
            except BaseException:
                # As the library does: what was not called yet is called at the next poll.
                self.due = due[number + 1 :]
                raise
        return len(due)

    def flush(self, _seconds: float) -> int:
        self.acknowledge()
        self.poll(0)
        return 0


async def until(holds: Callable[[], object]) -> None:
    """Wait until `holds` answers something true."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not come to this")
