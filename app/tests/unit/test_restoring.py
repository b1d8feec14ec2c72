"""When a restore is refused, and that what it has restored is compared."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, KafkaError, Message

from tests.unit.fake_topic import APPENDED, FakeTopic, message
from timestamp_service import settings
from timestamp_service.backup import manifest, restoring, saving
from timestamp_service.backup.manifest import BackupError
from timestamp_service.backup.restoring import RestoreError
from timestamp_service.kafka.messages import Headers

KAFKA = settings.Kafka("127.0.0.1:1", "PLAINTEXT", "", None, None, None)
OWN_TIME = (TIMESTAMP_CREATE_TIME, APPENDED)


def log(*counts: int) -> FakeTopic:
    """Return a topic as a restore leaves it, with so many messages in each of its partitions."""
    held = [
        [
            message(f"{partition}/{offset}".encode(), partition, offset, [("h", b"v")], OWN_TIME)
            for offset in range(count)
        ]
        for partition, count in enumerate(counts)
    ]
    return FakeTopic(held)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A backup of two partitions."""
    saving.save(tmp_path, [log(3, 2)], lambda _text: None)
    return tmp_path


@pytest.fixture
def restore(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeTopic], int]:
    """Restore the backup to a topic, whose messages a test may change when it is full."""

    class FakeProducer:
        def __init__(self, config: dict[str, Any]) -> None:
            assert (config["acks"], config["enable.idempotence"]) == ("all", True)

        def produce(self, _topic: str, value: Any, key: Any, partition: int, **more: Any) -> None:
            offset = len(target.held[partition])
            time = (TIMESTAMP_CREATE_TIME, more["timestamp"])
            sent = message(value, partition, offset, more["headers"], time)
            assert key == sent.key()
            target.held[partition].append(sent)
            more["on_delivery"](None, sent)

        def poll(self, _seconds: float) -> int:
            return 0

        def flush(self, _seconds: float) -> int:
            return 0

        def purge(self, *, in_flight: bool) -> None:
            assert not in_flight

    @contextlib.contextmanager
    def keeping_times(_kafka: settings.Kafka, _topics: list[str]) -> Iterator[None]:
        yield

    monkeypatch.setattr(restoring, "Producer", FakeProducer)
    monkeypatch.setattr(restoring, "_keeping_times", keeping_times)
    target = FakeTopic([])

    def run(topic: FakeTopic) -> int:
        nonlocal target
        target = topic
        plan = restoring.check(saved, [topic])
        return restoring.restore(saved, plan, KAFKA, [topic], lambda: False, lambda _text: None)

    return run


def test_what_is_missing_is_restored(restore: Callable[[FakeTopic], int]) -> None:
    topic = log(0, 0)
    assert restore(topic) == 5
    assert [len(held) for held in topic.held] == [3, 2]
    assert restore(log(2, 1)) == 2


def other(headers: Headers | None = None, value: bytes = b"0/1", time: int = APPENDED) -> Message:
    own: Headers = [("h", b"v")] if headers is None else headers
    return message(value, 0, 1, own, (TIMESTAMP_CREATE_TIME, time))


@pytest.mark.parametrize(
    "changed", [other(headers=[("h", b"w")]), other(headers=[]), other(value=b"x"), other(time=1)]
)
def test_a_restored_log_is_compared_with_the_backup(
    saved: Path, restore: Callable[[FakeTopic], int], changed: Message
) -> None:
    class Corrupting(FakeTopic):
        def read(self, *arguments: Any, **more: Any) -> Iterator[list[Message]]:
            if len(self.held[0]) == 3:
                self.held[0][1] = changed
            return super().read(*arguments, **more)

    with pytest.raises(RestoreError, match=r"topic\[0\] has another message at offset 1 than its backup"):
        restore(Corrupting([[], []]))
    # Nor is it taken for a part of a restore.
    topic = log(3, 2)
    topic.held[0][1] = changed
    with pytest.raises(BackupError, match="no restore of this backup has written what is at offset 1"):
        restoring.check(saved, [topic])


def test_a_restored_log_that_is_shorter_or_longer_is_noticed(saved: Path) -> None:
    known = manifest.read(saved)
    assert known is not None
    restoring.compare(saved, known, log(3, 2))
    for topic in (log(3, 1), log(3, 3), log(3), log(3, 2, 0)):
        with pytest.raises(RestoreError, match="its backup at"):
            restoring.compare(saved, known, topic)


def test_what_a_restore_refuses(saved: Path) -> None:
    by_the_service = log(1, 0)
    by_the_service.held[0][0] = message(b"0/0", 0, 0, [("h", b"v")], (TIMESTAMP_LOG_APPEND_TIME, APPENDED))
    for topic, reason in (
        (log(0, 0, 0), "topic has 3 partitions, its backup 2"),
        (log(4, 0), r"topic\[0\] is not empty"),
        (FakeTopic([[], []], first=1), r"topic\[0\] is not empty"),
        (by_the_service, "no restore of this backup has written what is at offset 0"),
        (FakeTopic([[], []], "other"), "the backup is of topic, not of other"),
    ):
        with pytest.raises(BackupError, match=reason):
            restoring.check(saved, [topic])
    (saved / manifest.NAME).unlink()
    with pytest.raises(BackupError, match=r"manifest\.json is missing\. Take it from another copy"):
        restoring.check(saved, [log(0, 0)])


def test_an_acknowledgement_is_checked() -> None:
    def delivered(error: KafkaError | None, sent: Message) -> str | None:
        one = restoring.Delivered(5, {5: APPENDED})
        one.take(error, sent)
        return one.error

    assert delivered(None, message(b"", 0, 5, timestamp=OWN_TIME)) is None
    assert delivered(KafkaError(KafkaError._MSG_TIMED_OUT), message(b"", 0, 5)) is not None
    error = delivered(None, message(b"", 0, 6, timestamp=OWN_TIME))
    assert error == "the broker has put the message of offset 5 at 6"
    for time in ((TIMESTAMP_CREATE_TIME, APPENDED + 1), (TIMESTAMP_LOG_APPEND_TIME, APPENDED)):
        assert "another time" in str(delivered(None, message(b"", 0, 5, timestamp=time)))
