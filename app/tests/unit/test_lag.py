"""The lag of projections with a fake consumer."""

import logging
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from prometheus_client import REGISTRY

from tests.unit.test_settings import COMMAND
from timestamp_service import settings
from timestamp_service.command import lag
from timestamp_service.command.lag import Lag
from timestamp_service.runtime.logs import Log

NONE = -1001


class World:
    """What the brokers tell, and the time."""

    def __init__(self) -> None:
        self.now = 1000.0
        # By partition: the first offset and the one after the last, or why it is not told.
        self.spans: dict[int, tuple[int, int] | KafkaError] = {0: (0, 0), 1: (0, 0)}
        # By group: what is committed of each partition, or why it is not told.
        self.committed: dict[str, dict[int, int] | KafkaError] = {"a": {0: 0, 1: 0}, "b": {0: 0, 1: 0}}
        self.place_error: KafkaError | None = None
        # By group: what the library reports of it.
        self.reported: dict[str, KafkaError] = {}
        self.topic_error: KafkaError | None = None
        # Of everything.
        self.error: KafkaError | None = None
        self.leaderless: set[int] = set()
        self.consumers: list[FakeConsumer] = []
        # What was asked for, in its order.
        self.asked: list[str] = []

    def lag(self, groups: str = "a,b") -> Lag:
        config = settings.read_command(
            {**COMMAND, "KAFKA_PARTITIONS": "2", "KAFKA_PROJECTION_GROUPS": groups}
        )
        return Lag(
            config, Log("test", logging.INFO), lambda config: FakeConsumer(self, config), lambda: self.now
        )


class FakeConsumer(Consumer):
    """Answers at once what its world says."""

    def __init__(self, world: World, config: dict[str, Any]) -> None:
        self.world = world
        self.group = config["group.id"]
        self.closed = False
        world.consumers.append(self)

    def _ask(self, what: str) -> None:
        self.world.asked.append(what)
        if self.world.error is not None:
            raise KafkaException(self.world.error)

    def poll(self, timeout: float = -1) -> Any:
        assert timeout == 0
        if self.group not in self.world.reported:
            return None
        return SimpleNamespace(error=partial(self.world.reported.pop, self.group))

    def committed(self, partitions: list[TopicPartition], timeout: float = -1) -> Any:
        self._ask("committed")
        told = self.world.committed[self.group]
        if isinstance(told, KafkaError):
            raise KafkaException(told)
        return [
            SimpleNamespace(
                partition=place.partition, offset=told[place.partition], error=self.world.place_error
            )
            for place in partitions
        ]

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        self._ask("leaders")
        known = {
            partition: SimpleNamespace(leader=-1 if partition in self.world.leaderless else 1)
            for partition in self.world.spans
        }
        return SimpleNamespace(
            topics={topic: SimpleNamespace(error=self.world.topic_error, partitions=known)}
        )

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float = -1) -> Any:
        self._ask("ends")
        assert partitions
        places = []
        for place in partitions:
            assert place.partition not in self.world.leaderless
            told = self.world.spans[place.partition]
            error = told if isinstance(told, KafkaError) else None
            which = {OFFSET_BEGINNING: 0, OFFSET_END: 1}[place.offset]
            offset = -1 if isinstance(told, KafkaError) else told[which]
            places.append(SimpleNamespace(partition=place.partition, offset=offset, error=error))
        return places

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def fresh() -> None:
    lag.UNREAD.clear()
    lag.OLDEST_UNREAD.clear()
    lag.CHECKED.set(0)


def unread(group: str) -> tuple[float | None, float | None]:
    """Return how many messages of a group are unread, and the age of the oldest in seconds."""
    names = "timestamp_projection_unread_messages", "timestamp_projection_oldest_unread_seconds"
    many, age = (REGISTRY.get_sample_value(name, {"projection": group}) for name in names)
    return many, age


def checked() -> float:
    return REGISTRY.get_sample_value("timestamp_projection_lag_checked_seconds") or 0.0


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lag"]


def test_each_projection_by_itself(world: World) -> None:
    watched = world.lag()
    watched.check()
    assert unread("a") == unread("b") == (0, 0)
    # Something comes every 5 s, to one partition or the other.
    for ends in ((0, 3), (2, 3), (2, 4)):
        world.now += 5
        world.spans = {partition: (0, end) for partition, end in enumerate(ends)}
        watched.check()
    world.committed["a"] = {0: 1, 1: 4}
    world.now += 20
    watched.check()
    assert unread("a") == (1, 25)
    assert unread("b") == (6, 30)
    # What was forgotten concerns neither.
    world.committed = {"a": {0: 2, 1: 4}, "b": {0: 2, 1: 2}}
    world.now += 5
    watched.check()
    assert (unread("a"), unread("b")) == ((0, 0), (2, 35))
    assert abs(checked() - time.time()) < 5
    assert [consumer.group for consumer in world.consumers] == ["a", "b"]


def test_the_committed_offsets_are_asked_for_before_the_ends(world: World) -> None:
    """Otherwise a record that comes and is read in between would be committed behind the end."""
    world.lag().check()
    assert world.asked == ["committed", "committed", "leaders", "ends", "ends"]


def test_a_group_that_has_committed_nothing_has_all_before_it(world: World) -> None:
    world.spans = {0: (0, 7), 1: (2, 5)}
    world.committed["a"] = {0: NONE, 1: NONE}
    world.committed["b"] = {0: 7, 1: NONE}
    watched = world.lag()
    watched.check()
    world.now += 60
    watched.check()
    assert unread("a") == (10, 60)
    assert unread("b") == (3, 60)


def test_an_offset_that_the_log_does_not_have_was_of_another_log(world: World) -> None:
    world.spans = {0: (0, 100), 1: (0, 0)}
    world.committed["a"] = world.committed["b"] = {0: 100, 1: 0}
    watched = world.lag()
    watched.check()
    assert unread("a") == (0, 0)
    world.spans[0] = 0, 90
    world.now += 60
    watched.check()
    world.now += 10
    watched.check()
    assert unread("a") == (90, 10)


def test_a_partition_without_a_leader_counts_as_it_was_last_known(world: World) -> None:
    world.spans = {0: (0, 10), 1: (0, 10)}
    world.committed["a"] = {0: 10, 1: 4}
    # It was read to its end after that was seen.
    world.committed["b"] = {0: 10, 1: 12}
    watched = world.lag()
    watched.check()
    for leaderless in ({1}, {0, 1}):
        world.leaderless = leaderless
        world.now += 15
        lag.CHECKED.set(0)
        watched.check()
        assert unread("b") == (0, 0)
        # It is known, as far as it can be.
        assert checked()
    assert unread("a") == (6, 30)


@pytest.mark.parametrize("error", [KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError._TIMED_OUT])
def test_a_group_that_kafka_does_not_tell_of_keeps_nobody_else_back(
    world: World, error: int, capfd: pytest.CaptureFixture[str]
) -> None:
    world.committed["a"] = KafkaError(error)
    world.spans[0] = 0, 3
    watched = world.lag()
    for _ in range(4):
        watched.check()
    assert unread("a") == (None, None)
    assert unread("b") == (3, 0)
    assert checked() == 0
    assert capfd.readouterr().err.count('"lag_not_measured"') == 1
    # A broker that refuses has not been forgotten.
    replaced = [consumer for consumer in world.consumers if consumer.closed]
    assert len(replaced) == (2 if error == KafkaError._TIMED_OUT else 0)
    assert len(world.consumers) - len(replaced) == 2


def test_what_the_library_reports_is_logged(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.reported["b"] = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
    world.committed["b"] = KafkaError(KafkaError._TIMED_OUT)
    watched = world.lag()
    watched.check()
    assert checked() == 0
    logged = capfd.readouterr().err
    assert "GROUP_AUTHORIZATION_FAILED" in logged
    assert "_TIMED_OUT" in logged


def test_a_partition_of_a_group_that_may_not_be_read(world: World) -> None:
    world.place_error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    world.lag().check()
    assert unread("a") == (None, None)
    assert checked() == 0


def test_a_topic_that_is_not_there(world: World) -> None:
    world.topic_error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    world.lag().check()
    assert unread("a") == (0, 0)
    assert checked() == 0


def test_a_partition_that_does_not_tell_its_end(world: World) -> None:
    world.spans = {0: (0, 10), 1: (0, 10)}
    world.committed = {"a": {0: 10, 1: 12}, "b": {0: 10, 1: 9}}
    watched = world.lag()
    watched.check()
    at = checked()
    world.spans[1] = KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)
    world.now += 5
    watched.check()
    assert (unread("a"), unread("b")) == ((0, 0), (1, 5))
    assert checked() == at


def test_kafka_that_does_not_answer_changes_nothing(world: World) -> None:
    world.spans[0] = 0, 3
    watched = world.lag()
    watched.check()
    world.now += 5
    watched.check()
    at = checked()
    world.error = KafkaError(KafkaError._TRANSPORT)
    for number in range(1, 8):
        world.now += 5
        watched.check()
        # They may never connect again: every third time.
        assert sum(consumer.closed for consumer in world.consumers) == number // 3 * 2
    assert unread("a") == (3, 5)
    assert checked() == at
    world.error = None
    watched.check()
    assert unread("a") == (3, 40)
    assert checked() > at


def test_the_thread_ends_and_closes_its_consumers(world: World) -> None:
    watched = world.lag()
    watched.start()
    while not checked():
        time.sleep(0.001)
    began = time.monotonic()
    watched.stop()
    assert time.monotonic() - began < 2
    assert not threads()
    assert [consumer.closed for consumer in world.consumers] == [True, True]


def test_the_thread_outlives_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lag, "_EVERY_SECONDS", 0.01)
    world.committed = {}
    watched = world.lag()
    watched.start()
    while world.asked.count("committed") < 2:
        time.sleep(0.001)
    world.committed = {"a": {0: 0, 1: 0}, "b": {0: 0, 1: 0}}
    while not checked():
        time.sleep(0.001)
    watched.stop()
    assert '"unexpected_error"' in capfd.readouterr().err


def test_without_groups_no_thread_is_started(world: World) -> None:
    watched = world.lag("")
    watched.start()
    assert not threads()
    watched.stop()


def test_one_worker_of_all_measures_and_another_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(lag, "_EVERY_SECONDS", 0.01)
    first, second = world.lag(), World()
    other = second.lag()
    first.start()
    while not world.asked:
        time.sleep(0.001)
    other.start()
    time.sleep(0.2)
    assert not second.asked
    first.stop()
    deadline = time.monotonic() + 10
    while not second.asked:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    other.stop()
