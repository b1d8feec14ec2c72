import logging
import time
from collections.abc import Sequence

import psycopg2
import pytest

from tests.unit.fake_topic import message
from tests.unit.test_batch import good
from timestamp_service.consumer.batch import Batch, TracedRecord
from timestamp_service.consumer.projection import Projection
from timestamp_service.consumer.state import State
from timestamp_service.consumer.writer import Writer
from timestamp_service.database.counts import Span
from timestamp_service.kafka.dead_letters import BadMessage, DeadLetters, NotDeliveredError
from timestamp_service.runtime.logs import Log


class FakeProjection(Projection):
    """A table in memory that fails with `errors` first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.rows: list[str] = []
        self.spans: list[Span] = []

    def prepare(self) -> None:
        self.write([], [])

    def write(self, records: Sequence[TracedRecord], spans: Sequence[Span]) -> int:
        if self.errors:
            raise self.errors.pop(0)
        self.rows += [record.identifier for record in records]
        self.spans += spans
        return len(records)

    def close(self) -> None:
        pass

    def sever(self) -> None:
        pass

    def overdue_seconds(self) -> float:
        return 0.0


class FakeDeadLetters(DeadLetters):
    """A topic in memory that refuses with `errors` first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.sent: list[int] = []

    def send(self, messages: Sequence[BadMessage]) -> None:
        if messages and self.errors:
            raise self.errors.pop(0)
        self.sent += [message.offset for message in messages]

    def close(self) -> None:
        pass


def batch() -> Batch:
    made = Batch()
    made.add([message(good(7), 0, 0), message(b"nonsense", 0, 1)])
    return made


def away(*, passing: bool) -> NotDeliveredError:
    return NotDeliveredError("why", passing=passing)


def test_a_batch_is_written_once_its_dead_letters_are() -> None:
    letters, projection, state = FakeDeadLetters(away(passing=True)), FakeProjection(), State()
    projection.errors = [psycopg2.OperationalError("gone")]
    writer = Writer(projection, letters, state, Log("test", logging.CRITICAL))
    state.joined = state.brokers_up = True
    assert state.missing() == "database"
    assert writer.submit(batch()).result(5)
    assert (letters.sent, len(projection.rows)) == ([1, 1], 1)
    assert state.missing() is None
    assert projection.spans == [(0, 0, 2)]
    writer.close()


def test_what_is_read_is_counted_without_a_record_too() -> None:
    projection, state = FakeProjection(), State()
    writer = Writer(projection, FakeDeadLetters(), state, Log("test", logging.CRITICAL))
    bad = Batch()
    bad.add([message(b"nonsense", 3, 0)])
    assert writer.submit(bad).result(5)
    assert projection.spans == [(3, 0, 1)]
    assert writer.submit(Batch()).result(5)
    assert projection.spans == [(3, 0, 1)]
    writer.close()


@pytest.mark.parametrize("passing", [True, False])
def test_readiness_names_dead_letters_that_cannot_be_written(*, passing: bool) -> None:
    letters, projection = FakeDeadLetters(*(away(passing=passing) for _ in range(100))), FakeProjection()
    state = State(joined=True, brokers_up=True, database_answers=True)
    writer = Writer(projection, letters, state, Log("test", logging.CRITICAL))
    future = writer.submit(batch())
    deadline = time.monotonic() + 5
    while not state.dead_letters_wait and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state.missing() == "dead-letter topic"
    assert (state.refused_seconds() > 0) == (not passing)
    writer.stop()
    assert future.result(5) is False
    assert (letters.sent, projection.rows) == ([], [])
    writer.close()


def test_how_long_kafka_refuses() -> None:
    state = State()
    state.dead_letters_not_written(refused=True)
    since = state.dead_letters_refused_since
    state.dead_letters_not_written(refused=True)
    assert state.dead_letters_refused_since == since
    # Kafka that went away meanwhile is waited for.
    state.dead_letters_not_written(refused=False)
    assert state.refused_seconds() == 0
    state.dead_letters_not_written(refused=True)
    state.dead_letters_written()
    assert (state.dead_letters_wait, state.refused_seconds()) == (False, 0)
