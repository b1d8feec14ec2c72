"""The publisher, with a producer of the test's own: what is sent, what is answered, and when."""

import asyncio
import gc
import json
import logging
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.unit.fake_producer import FakeProducer, until
from timestamp_service import settings
from timestamp_service.command import acknowledgements, publisher
from timestamp_service.command.acknowledgements import Deadlines, DeliveryCallback, NotPublishedError
from timestamp_service.command.publisher import BULK_MAX, OverloadedError, Publisher
from timestamp_service.runtime.logs import Log

# A port that nobody listens on.
CONFIG = settings.read_command(
    {
        "SERVER_PORT": "1",
        "KAFKA_BROKER": "127.0.0.1:1",
        "KAFKA_PUBLISH_TOPIC": "t",
        "KAFKA_ACKNOWLEDGE_SECONDS": "1",
        "KAFKA_FAILOVER_SECONDS": "2",
        "KAFKA_IN_FLIGHT_MAX": "5000",
    }
)
LATE = KafkaError(KafkaError._MSG_TIMED_OUT)


def run(
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[Publisher, FakeProducer], Awaitable[None]],
    write: Callable[[bytes], None] = lambda _line: None,
) -> None:
    """Run `scenario` with a publisher that knows three partitions."""
    monkeypatch.setattr(publisher, "Producer", FakeProducer)

    async def live() -> None:
        made = Publisher(CONFIG, Log("s", logging.INFO, write))
        made._partitions = [0, 1, 2]
        fake = made._producer
        assert isinstance(fake, FakeProducer)
        await scenario(made, fake)
        await made.close()

    asyncio.run(asyncio.wait_for(live(), 30))


def test_without_a_broker_nothing_is_accepted() -> None:
    async def scenario() -> None:
        real = Publisher(CONFIG, Log("s", logging.INFO, lambda _: None))
        with pytest.raises(NotPublishedError):
            real.publish("key", b"value", [], by_key=False)
        assert real.in_flight == 0
        assert real.progressing()
        await real.close()

    asyncio.run(scenario())


def test_a_message_is_published_once_it_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        published = made.publish("a", b"", [], by_key=False)
        await asyncio.sleep(0.05)
        assert not published.done()
        fake.acknowledge("a")
        await published
        assert made.in_flight == 0

    run(monkeypatch, scenario)


@pytest.mark.parametrize("by_key", [True, False])
def test_the_key_decides_about_the_partition_where_it_must(
    monkeypatch: pytest.MonkeyPatch, by_key: bool
) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        made.publish("a", b"", [], by_key=by_key)
        ((_, partition, _),) = fake.sent
        assert (partition == -1) == by_key
        assert partition in (-1, 0, 1, 2)

    run(monkeypatch, scenario)


def test_a_message_that_is_refused_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        published = made.publish("a", b"", [], by_key=False)
        fake.acknowledge("a", error=LATE)
        with pytest.raises(NotPublishedError):
            await published

    run(monkeypatch, scenario)


def test_a_message_is_failed_by_our_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        outcomes: list[bool] = []
        made.send("a", b"", [], outcomes.append)
        await until(lambda: outcomes)
        assert outcomes == [False]
        # Its report comes later, and is answered to nobody.
        fake.acknowledge("a")
        await until(lambda: made.in_flight == 0)
        assert outcomes == [False]

    run(monkeypatch, scenario)


def statistics(*states: str) -> str:
    """What the library reports of brokers in these states."""
    brokers = {
        str(one): {"nodeid": one, "state": state, "source": "learned"} for one, state in enumerate(states)
    }
    return json.dumps({"brokers": brokers})


@pytest.mark.parametrize(
    ("replicas", "states", "waits"),
    [(3, ("UP", "DOWN", "INIT"), True), (3, ("DOWN", "CONNECT", "INIT"), False), (1, ("UP",), False)],
)
def test_a_message_waits_longer_while_a_cluster_may_fail_over(
    monkeypatch: pytest.MonkeyPatch, replicas: int, states: tuple[str, ...], waits: bool
) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        fake.replicas = replicas
        assert await made.check() is None
        fake.config["stats_cb"](statistics(*states))
        before = time.monotonic()
        published = made.publish("a", b"", [], by_key=True)
        with pytest.raises(NotPublishedError):
            await published
        waited = time.monotonic() - before
        assert waited >= 1
        assert (waited >= 2) == waits

    run(monkeypatch, scenario)


def test_in_a_long_outage_a_message_waits_no_longer_than_without_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        fake.replicas = 3
        assert await made.check() is None
        with pytest.raises(NotPublishedError):
            await made.publish("first", b"", [], by_key=True)
        # Brokers without a quorum answer.
        assert await made.check() == "kafka"
        before = time.monotonic()
        with pytest.raises(NotPublishedError):
            await made.publish("second", b"", [], by_key=True)
        assert 1 <= time.monotonic() - before < 2
        third = made.publish("third", b"", [], by_key=True)
        fake.acknowledge("third")
        await third
        assert await made.check() is None

    run(monkeypatch, scenario)


def test_a_broker_of_several_that_does_not_answer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        fake.replicas = 3
        assert await made.check() is None
        fake.replicas = None
        assert await made.check() is None
        fake.config["stats_cb"](statistics("DOWN", "DOWN"))
        assert await made.check() == "kafka"

    run(monkeypatch, scenario)


def test_statistics_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come for ever, whether or not anything is acknowledged."""
    monkeypatch.setattr(publisher, "_STUCK_SECONDS", 0)

    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        monkeypatch.setattr(fake, "poll", lambda _seconds: 1)
        made.send("a", b"", [], lambda _acknowledged: None)
        await until(lambda: not made.progressing())
        monkeypatch.undo()

    run(monkeypatch, scenario)


def test_what_was_acknowledged_during_a_stall_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadlines are judged after the reports that have come have been looked at."""

    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        outcomes: list[bool] = []
        made.send("a", b"", [], outcomes.append)
        # A stall: the deadline is over, the report is there, and nobody has polled.
        made._deadlines._waiting[0] = (0.0, made._deadlines._waiting[0][1])
        fake.acknowledge("a")
        made._deadlines._sweep()
        assert outcomes == [True]

    run(monkeypatch, scenario)


def test_a_bulk_is_published_once_all_of_it_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        keys = [str(number) for number in range(1200)]
        publishing = asyncio.create_task(made.publish_all([(key, b"") for key in keys], [], by_key=False))
        await until(lambda: len(fake.sent) == len(keys))
        fake.acknowledge(*keys[:-1])
        await until(lambda: made.in_flight == 1)
        await asyncio.sleep(0.05)
        assert not publishing.done()
        fake.acknowledge()
        await publishing

    run(monkeypatch, scenario)


def test_a_bulk_of_which_one_is_refused_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        publishing = asyncio.create_task(
            made.publish_all([("a", b""), ("b", b""), ("c", b"")], [], by_key=True)
        )
        await until(lambda: len(fake.sent) == 3)
        assert {partition for _, partition, _ in fake.sent} == {-1}
        fake.acknowledge("b", error=LATE)
        with pytest.raises(NotPublishedError):
            await publishing

    run(monkeypatch, scenario)


def test_a_bulk_finds_room_for_all_of_it_or_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        largest = [(str(number), b"") for number in range(BULK_MAX)]
        first = asyncio.create_task(made.publish_all(largest, [], by_key=False))
        await asyncio.sleep(0)
        assert 0 < len(fake.sent) < BULK_MAX
        sent = len(fake.sent)
        with pytest.raises(OverloadedError):
            await made.publish_all(largest[:5001], [], by_key=False)
        with pytest.raises(OverloadedError):
            made.publish("single", b"", [], by_key=False)
        assert len(fake.sent) == sent
        second = asyncio.create_task(made.publish_all(largest[:5000], [], by_key=False))
        await until(lambda: len(fake.sent) == BULK_MAX + 5000)
        fake.acknowledge()
        await asyncio.gather(first, second)
        assert made._reserved == made.in_flight == 0

    run(monkeypatch, scenario)


def test_too_many_are_refused_before_they_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        for number in range(CONFIG.in_flight_max):
            made.publish(str(number), b"", [], by_key=True)
        with pytest.raises(OverloadedError):
            made.publish("more", b"", [], by_key=True)
        assert len(fake.sent) == CONFIG.in_flight_max

    run(monkeypatch, scenario)


def test_messages_that_come_while_one_is_on_its_way_are_sent_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        outcomes: list[bool] = []
        for key in "abcd":
            made.send(key, b"", [], outcomes.append)
        assert [key for key, _, _ in fake.sent] == ["a"]
        await until(lambda: len(fake.sent) == 4)
        assert len({partition for key, partition, _ in fake.sent if key != "a"}) == 1
        fake.acknowledge()
        await until(lambda: outcomes == [True] * 4)
        assert made.in_flight == 0

    run(monkeypatch, scenario)


@pytest.mark.parametrize("failing", ["the callback", "the log too"])
def test_polling_goes_on_whatever_a_callback_raises(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def write(_line: bytes) -> None:
        if failing == "the log too":
            raise OSError

    # The deadlines poll too, and would hide it.
    monkeypatch.setattr(acknowledgements, "_SWEEP_SECONDS", 3600)

    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        def fail(_acknowledged: bool) -> None:
            raise ZeroDivisionError

        outcomes: list[bool] = []
        made.send("a", b"", [], fail)
        made.send("b", b"", [], outcomes.append)
        await until(lambda: len(fake.sent) == 2)
        fake.acknowledge()
        await until(lambda: outcomes == [True])
        made.send("c", b"", [], outcomes.append)
        fake.acknowledge()
        await until(lambda: outcomes == [True, True])

    run(monkeypatch, scenario, write)


def test_what_has_ended_does_not_pile_up_behind_what_has_not() -> None:
    class Request:
        pass

    async def scenario() -> None:
        deadlines = Deadlines(asyncio.get_running_loop(), lambda: 60, lambda: None)
        deadlines.expect(DeliveryCallback(lambda _acknowledged: None))
        for _ in range(20_000):
            request = Request()
            ended = DeliveryCallback(lambda _acknowledged, _kept=request: None)  # type: ignore[misc]
            deadlines.expect(ended)
            ended.set_result(None)
        assert len(deadlines._waiting) < 3_000
        del request, ended
        gc.collect()
        # Neither does any keep its request.
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Request)]
        deadlines.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (KafkaError(KafkaError._TRANSPORT, "connection lost"), False),
        (KafkaError(KafkaError._ALL_BROKERS_DOWN, "all down"), False),
        (KafkaError(KafkaError._FATAL, "gap in the sequence"), True),
        (KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "gap in the sequence", True), True),
    ],
)
def test_a_fatal_error_ends_the_worker_once(error: KafkaError, ends: bool) -> None:
    ended: list[bool] = []

    async def scenario() -> None:
        real = Publisher(CONFIG, Log("s", logging.INFO, lambda _: None), lambda: ended.append(True))
        real._partitions = [0]
        real._on_error(error)
        real._on_error(error)
        if ends:
            assert await real.check() == "kafka"
            with pytest.raises(NotPublishedError):
                real.publish("a", b"", [], by_key=True)
            bulk = asyncio.ensure_future(real.publish_all([("a", b"")], [], by_key=True))
            await asyncio.sleep(0)
            # At once: it was not sent, and no deadline was waited for.
            assert isinstance(bulk.exception(), NotPublishedError)
        await real.close()

    asyncio.run(scenario())
    assert ended == ([True] if ends else [])


def test_a_producer_that_knows_no_broker_any_more_ends_the_worker() -> None:
    ended: list[bool] = []

    async def scenario() -> None:
        real = Publisher(CONFIG, Log("s", logging.INFO, lambda _: None), lambda: ended.append(True))
        for _ in range(10):
            real._on_statistics(statistics("DOWN", "INIT"))
        assert not ended
        for _ in range(10):
            real._on_statistics(statistics())
        assert await real.check() == "kafka"
        await real.close()

    asyncio.run(scenario())
    assert ended == [True]


def test_a_fatal_error_that_polling_raises_ends_the_worker() -> None:
    """As the library does: it does not call `error_cb` for it."""
    ended: list[bool] = []
    fatal = KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "gap", True))

    class Failing:
        def poll(self, _seconds: float) -> int:
            raise fatal

        def flush(self, _seconds: float) -> int:
            raise fatal

    async def scenario() -> None:
        real = Publisher(CONFIG, Log("s", logging.INFO, lambda _: None), lambda: ended.append(True))
        real._partitions = [0]
        real._producer = Failing()  # type: ignore[assignment]
        real._poll()
        assert ended == [True]
        assert await real.check() == "kafka"
        await real.close()

    asyncio.run(scenario())
    assert ended == [True]


def test_a_producer_that_takes_nothing_since_it_has_failed_ends_the_worker() -> None:
    ended: list[bool] = []

    class Failed:
        def produce(self, *_arguments: object, **_more: object) -> None:
            raise KafkaException(KafkaError(KafkaError._FATAL))

    async def scenario() -> None:
        real = Publisher(CONFIG, Log("s", logging.INFO, lambda _: None), lambda: ended.append(True))
        real._partitions = [0]
        used, real._producer = real._producer, Failed()  # type: ignore[assignment]
        with pytest.raises(NotPublishedError):
            real.publish("a", b"", [], by_key=True)
        real._producer = used
        await real.close()

    asyncio.run(scenario())
    assert ended == [True]


@pytest.mark.parametrize(("number", "ends"), [(0, False), (12, False), (11, True), (13, True)])
def test_another_number_of_partitions_ends_the_service(
    monkeypatch: pytest.MonkeyPatch, number: int, ends: bool
) -> None:
    codes: list[int] = []
    lines: list[bytes] = []

    def end_service(code: int) -> bool:
        codes.append(code)
        return len(codes) == 1

    def metadata(_topic: str, timeout: float) -> Any:
        known = {one: SimpleNamespace(id=one, leader=1, replicas=[1]) for one in range(number)}
        return SimpleNamespace(topics={"t": SimpleNamespace(error=None, partitions=known)})

    monkeypatch.setattr(publisher, "Producer", FakeProducer)

    async def scenario() -> None:
        made = Publisher(CONFIG, Log("s", logging.INFO, lines.append), end_service=end_service)
        monkeypatch.setattr(made._producer, "list_topics", metadata, raising=False)
        assert await made.check() == ("kafka" if ends or not number else None)
        if ends:
            with pytest.raises(NotPublishedError):
                made.publish("a", b"", [], by_key=True)
        await made.close()

    asyncio.run(scenario())
    assert codes == ([78] if ends else [])
    assert [f"t has {number} partitions" in line.decode() for line in lines] == ([True] if ends else [])


def test_the_end_waits_for_all_that_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[bool] = []

    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        made.send("a", b"", [], outcomes.append)
        made.send("b", b"", [], outcomes.append)
        # The second is held: it is sent at the end.
        assert [key for key, _, _ in fake.sent] == ["a"]

    run(monkeypatch, scenario)
    assert outcomes == [True, True]


def test_what_is_on_its_way_beyond_the_end_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[bytes] = []

    async def scenario(made: Publisher, fake: FakeProducer) -> None:
        made.send("a", b"", [], lambda _acknowledged: None)
        monkeypatch.setattr(fake, "flush", lambda seconds: 1 if seconds == 2 else 0)

    run(monkeypatch, scenario, lines.append)
    assert b'"not_flushed"' in lines[-1]
