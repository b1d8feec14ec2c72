"""The consumer's loop with a fake consumer, table and dead letters."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psycopg2
import pytest
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.unit.fake_topic import message
from tests.unit.test_batch import good
from tests.unit.test_settings import CONSUMER
from tests.unit.test_writer import FakeDeadLetters, FakeProjection, away
from timestamp_service import settings
from timestamp_service.consumer.loop import Loop
from timestamp_service.consumer.state import State
from timestamp_service.consumer.writer import Writer
from timestamp_service.kafka.partitions import PartitionsError
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier


class FakeConsumer(Consumer):
    """Delivers what is in `waiting`, and remembers which offsets were stored."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.waiting: list[Message] = []
        self.stored: dict[int, int] = {}
        self.closed = False
        self.chunk = 10_000
        # Of partitions; None: the broker does not answer.
        self.number: int | None = 12
        self.paused = False
        self.failure: KafkaError | None = None
        # Whether it is asked to leave its group; how often it must be polled until it has left.
        self.leaving = False
        self.polls_until_left = 3

    def subscribe(self, topics: list[str], **listeners: Any) -> None:  # type: ignore[override]
        self.listeners = listeners

    def poll(self, timeout: float = -1) -> Message | None:
        if self.failure is not None:
            raise KafkaException(self.failure)
        self.polls_until_left -= self.leaving
        if self.paused or not self.waiting:
            time.sleep(min(timeout, 0.01))
            return None
        return self.waiting.pop(0)

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        num_messages = min(num_messages, self.chunk)
        taken, self.waiting = self.waiting[:num_messages], self.waiting[num_messages:]
        return taken

    def store_offsets(self, message: Any = None, offsets: Any = None) -> None:
        self.stored.update({place.partition: place.offset for place in offsets})

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition("topic.v1", 0)]

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused = True

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused = False

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        if self.number is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions=range(self.number))})

    # Of the partition: the position, the committed offset, and the first offset with the one after the last.
    places: ClassVar[tuple[int, int, tuple[int, int]]] = (0, 0, (0, 0))

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(one.topic, one.partition, self.places[0]) for one in partitions]

    def committed(self, partitions: list[TopicPartition], timeout: float = -1) -> list[TopicPartition]:
        return [TopicPartition(one.topic, one.partition, self.places[1]) for one in partitions]

    def unsubscribe(self) -> None:
        self.leaving = True

    def memberid(self) -> str:
        return "member" if self.polls_until_left > 0 else ""

    def close(self) -> None:
        self.closed = True
        self.left = not self.memberid()


_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class FakeAdmin(AdminClient):
    """Knows where the partitions of a FakeConsumer end."""

    # Whether the answer comes.
    answers: ClassVar[bool] = True
    failure: ClassVar[KafkaError | None] = None
    asked = 0
    made = 0

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        FakeAdmin.made += 1

    def list_offsets(  # type: ignore[override]
        self, places: dict[TopicPartition, OffsetSpec], **options: Any
    ) -> dict[TopicPartition, Future[Any]]:
        FakeAdmin.asked += 1
        futures = {}
        for place, which in places.items():
            futures[place] = future = Future[Any]()
            if self.failure is not None:
                future.set_exception(KafkaException(self.failure))
            elif self.answers:
                end = which is _LATEST
                future.set_result(SimpleNamespace(offset=FakeConsumer.places[2][end]))
        return futures


class FakeNotifier(Notifier):
    """Counts how often the watchdog is fed."""

    fed = 0

    def progress(self) -> None:
        FakeNotifier.fed += 1


class Running:
    """A loop that runs in a thread."""

    def __init__(self, letters: FakeDeadLetters, projection: FakeProjection, leave_file: str = "") -> None:
        self.state = State(joined=True, brokers_up=True)
        log = Log("test", logging.CRITICAL)
        self.consumers: list[FakeConsumer] = []
        writer = Writer(projection, letters, self.state, log)
        config = settings.read_consumer({**CONSUMER, "KAFKA_GROUP_LEAVE_FILE": leave_file})
        notifier = FakeNotifier(None, 0.03)
        self.loop = Loop(config, writer, projection, self.state, notifier, log, self._connect, FakeAdmin)
        self.failures: list[PartitionsError] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.loop.run()
        except PartitionsError as error:
            self.failures.append(error)

    def _connect(self, config: dict[str, Any]) -> FakeConsumer:
        self.consumers.append(FakeConsumer(config))
        return self.consumers[-1]

    @property
    def consumer(self) -> FakeConsumer:
        return self.consumers[-1]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.loop.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


Start = Callable[[FakeDeadLetters, FakeProjection], Running]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Running] = []

    def begin(letters: FakeDeadLetters, projection: FakeProjection) -> Running:
        running = Running(letters, projection)
        running.consumer.waiting = [message(good(7), 0, 0), message(b"nonsense", 0, 1)]
        running.start()
        started.append(running)
        return running

    yield begin
    for running in started:
        running.stop()


def test_offsets_are_stored_once_all_is_written(start: Start) -> None:
    letters, projection = FakeDeadLetters(), FakeProjection()
    running = start(letters, projection)
    assert running.consumer.config["enable.auto.offset.store"] is False
    until(lambda: running.consumer.stored)
    assert running.consumer.stored == {0: 2}
    assert (letters.sent, len(projection.rows)) == ([1], 1)


@pytest.mark.parametrize(
    ("letters", "projection"),
    [
        (FakeDeadLetters(), FakeProjection(*(psycopg2.OperationalError("gone") for _ in range(100)))),
        (FakeDeadLetters(*(away(passing=True) for _ in range(100))), FakeProjection()),
    ],
)
def test_offsets_of_a_batch_that_is_given_up_are_not_stored(
    start: Start, letters: FakeDeadLetters, projection: FakeProjection
) -> None:
    running = start(letters, projection)
    # It was tried.
    until(lambda: len(letters.errors) + len(projection.errors) < 100)
    running.stop()
    assert running.consumer.stored == {}
    assert running.consumer.closed


@pytest.mark.parametrize("there", [True, False])
def test_it_leaves_its_group_where_no_next_process_is_awaited(tmp_path: Path, there: bool) -> None:
    file = tmp_path / "drained"
    running = Running(FakeDeadLetters(), FakeProjection(), str(file))
    running.start()
    until(lambda: hasattr(running.consumer, "listeners"))
    if there:
        file.touch()
    running.stop()
    assert running.consumer.closed
    assert running.consumer.left == there


@pytest.mark.parametrize("failure", [None, KafkaError(KafkaError.FENCED_INSTANCE_ID, "fenced", True)])
def test_a_group_that_cannot_be_left_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: KafkaError | None
) -> None:
    monkeypatch.setattr("timestamp_service.consumer.loop._LEAVE_SECONDS", 0.2)
    running = Running(FakeDeadLetters(), FakeProjection(), str(tmp_path))
    running.start()
    until(lambda: hasattr(running.consumer, "listeners"))
    running.consumer.polls_until_left = 1_000_000
    running.loop.stop()
    running.consumer.failure = failure
    running.stop()
    assert running.consumer.closed
    assert not running.consumer.left


def test_another_number_of_partitions_ends_it(start: Start) -> None:
    running = start(FakeDeadLetters(), FakeProjection())
    running.state.joined = False
    until(lambda: hasattr(running.consumer, "listeners"))
    # While the number is not known it is not ready, and goes on.
    running.consumer.number = None
    running.consumer.listeners["on_assign"](running.consumer, [])
    time.sleep(0.3)
    assert not running.state.joined
    running.consumer.number = 12
    until(lambda: running.state.joined)
    # Somebody adds partitions: each process of the group is assigned others.
    running.consumer.number = 13
    running.consumer.listeners["on_assign"](running.consumer, [])
    until(lambda: running.failures)
    assert str(running.failures[0]).startswith("topic.v1 has 13 partitions, but KAFKA_PARTITIONS is 12. ")
    assert running.consumer.closed


def test_a_batch_is_bounded_in_bytes() -> None:
    written = threading.Event()

    class Waiting(FakeProjection):
        def prepare(self) -> None:
            written.wait(5)

    running = Running(FakeDeadLetters(), Waiting())
    running.consumer.chunk = 1
    running.consumer.waiting = [message(b"x" * 1_000_000, 0, offset) for offset in range(100)]
    running.start()
    # A full batch beside the one that is being written, which is empty.
    until(lambda: running.consumer.paused)
    left = len(running.consumer.waiting)
    written.set()
    until(lambda: running.consumer.stored == {0: 100})
    running.stop()
    # 17 messages are 16 MiB; they come by twos.
    assert left == 82


@pytest.mark.parametrize(("refused_seconds", "fed"), [(None, True), (50, True), (70, False)])
def test_the_watchdog_is_not_fed_while_kafka_refuses_dead_letters(
    start: Start, refused_seconds: float | None, *, fed: bool
) -> None:
    errors = [away(passing=refused_seconds is None) for _ in range(100)]
    running = start(FakeDeadLetters(*errors), FakeProjection())
    until(lambda: running.state.dead_letters_wait)
    if refused_seconds is not None:
        running.state.dead_letters_refused_since = time.monotonic() - refused_seconds
    time.sleep(0.1)
    before = FakeNotifier.fed
    time.sleep(0.3)
    assert (FakeNotifier.fed > before) == fed


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timestamp_service.consumer.stall._EVERY_SECONDS", 0.1)
    monkeypatch.setattr("timestamp_service.consumer.loop._REPLACE_SECONDS", 0.0)
    monkeypatch.setattr(FakeConsumer, "places", FakeConsumer.places)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("position", "committed", "spans"),
    [
        (5, 5, (0, 6)),
        # Nothing was read since the assignment.
        (-1001, 5, (0, 6)),
        (-1001, -1001, (0, 6)),
        (-1001, -1001, (2, 6)),
        # Of another log than the one that is there.
        (5, -1001, (0, 3)),
    ],
)
def test_a_consumer_that_reads_nothing_though_messages_wait_is_replaced_once(
    start: Start, position: int, committed: int, spans: tuple[int, int]
) -> None:
    FakeConsumer.places = position, committed, spans
    running = start(FakeDeadLetters(), FakeProjection())
    until(lambda: len(running.consumers) == 2)
    # What does not move even then is no reason for a third one.
    time.sleep(0.5)
    assert len(running.consumers) == 2
    assert running.consumers[0].closed


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("position", "committed", "spans"),
    [(6, 6, (0, 6)), (-1001, 6, (0, 6)), (-1001, -1001, (6, 6)), (-1001, 2, (6, 6)), (6, 3, (0, 6))],
)
def test_a_consumer_that_has_read_all_stays(
    start: Start, position: int, committed: int, spans: tuple[int, int]
) -> None:
    FakeConsumer.places = position, committed, spans
    running = start(FakeDeadLetters(), FakeProjection())
    time.sleep(0.5)
    assert len(running.consumers) == 1


@pytest.mark.usefixtures("quick")
def test_a_consumer_that_fails_for_good_is_replaced(start: Start) -> None:
    """The library raises a fatal error, for example of a member that another one has taken the place of."""
    running = start(FakeDeadLetters(), FakeProjection())
    running.consumer.failure = KafkaError(KafkaError.FENCED_INSTANCE_ID, "fenced", True)
    until(lambda: len(running.consumers) == 2)
    running.consumers[1].waiting = [message(good(0), 0, 0)]
    until(lambda: running.consumers[1].stored == {0: 1})
    assert not running.failures


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("known", "replaced"), [({}, True), ({"a": "learned"}, False)])
def test_a_consumer_that_knows_no_broker_any_more_is_replaced(
    start: Start, known: dict[str, str], replaced: bool
) -> None:
    running = start(FakeDeadLetters(), FakeProjection())
    brokers = {name: {"nodeid": 1, "state": "DOWN", "source": source} for name, source in known.items()}
    for _ in range(3):
        running.consumers[0].config["stats_cb"](json.dumps({"brokers": brokers, "topics": {}}))
    if replaced:
        until(lambda: len(running.consumers) == 2)
    running.consumer.waiting = [message(good(0), 0, 0)]
    until(lambda: running.consumer.stored == {0: 1})
    # The next one begins anew.
    running.consumer.config["stats_cb"](json.dumps({"brokers": {}, "topics": {}}))
    running.consumer.waiting = [message(good(0), 0, 1)]
    until(lambda: running.consumer.stored == {0: 2})
    assert len(running.consumers) == 1 + replaced


@pytest.mark.usefixtures("quick")
def test_a_client_to_which_kafka_does_not_answer_is_replaced(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the client that does not ask."""
    monkeypatch.setattr(FakeAdmin, "failure", KafkaError(KafkaError._TIMED_OUT))
    before = FakeAdmin.made
    running = start(FakeDeadLetters(), FakeProjection())
    until(lambda: FakeAdmin.made > before + 2)
    assert len(running.consumers) == 1


@pytest.mark.usefixtures("quick")
def test_a_consumer_that_catches_up_stays(start: Start) -> None:
    FakeConsumer.places = 0, 0, (0, 1_000)
    running = start(FakeDeadLetters(), FakeProjection())
    for position in range(1, 50):
        FakeConsumer.places = position, 0, (0, 1_000)
        time.sleep(0.02)
    assert len(running.consumers) == 1


@pytest.mark.usefixtures("quick")
def test_messages_are_read_while_kafka_is_asked_where_partitions_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeAdmin, "answers", False)
    before = FakeAdmin.asked
    running = start(FakeDeadLetters(), FakeProjection())
    until(lambda: FakeAdmin.asked > before)
    running.consumer.waiting = [message(good(7), 0, 2)]
    until(lambda: running.consumer.stored == {0: 3})
    # Both ends are asked for, and nothing more before the answers come.
    assert FakeAdmin.asked == before + 2
