"""Backup and restore: the log as files, and a log that is the same in all that a client can see."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message as KafkaMessage
from confluent_kafka import TopicPartition

from tests.integration import raw_headers
from tests.integration.processes import until
from tests.integration.service import Running, Service, World
from tests.integration.test_consumer import BAD, Message, command, start
from tests.integration.test_rebuild import rebuild

pytestmark = pytest.mark.integration

# What is easily not the same again.
ODD: list[Message] = [
    (b"", b"", [("", b""), ("h", b"1"), ("h", b"\xff\x00")]),
    ("ключ\n".encode(), b'{"a": "\\u0000 "}', [("заголовок", "значение".encode())]),
    (b"\x00\xff", b"\x00" * 3000, []),
    (None, None, [("n", None)]),  # type: ignore[list-item]
]


def backup(world: World, folder: Path) -> dict[str, Any]:
    """Save, which must succeed, and return what its last line says."""
    folder.mkdir(exist_ok=True)
    process = world.start_backup("backup", folder)
    assert process.process.wait(180) == 0, process.process.tail()
    line: dict[str, Any]
    (line,) = process.events("saved")
    return line


def refusal(process: Service, event: str) -> str:
    """Wait for the end of a process that must fail, and return why it did."""
    assert process.process.wait(180) == 1, process.process.tail()
    (line,) = process.events(event)
    message: str = line["message"]
    return message


def restore(world: World, folder: Path) -> dict[str, Any]:
    """Restore, which must succeed, and return what its last line says."""
    process = world.start_backup("restore", folder)
    assert process.process.wait(180) == 0, process.process.tail()
    line: dict[str, Any]
    (line,) = process.events("restored")
    return line


def seen(messages: list[KafkaMessage]) -> list[tuple[object, ...]]:
    """Return all that a client can see of messages, but the kind of their time."""
    return [
        (one.partition(), one.offset(), one.timestamp()[1], one.key(), one.value(), one.headers())
        for one in messages
    ]


def topics(world: World) -> list[list[tuple[object, ...]]]:
    return [seen(world.read_topic(topic)) for topic in (world.topic, world.dead_letter_topic)]


def lose_the_log(world: World) -> None:
    """Put new topics in the place of those that are there."""
    admin = world.kafka.admin()
    names = [world.topic, world.dead_letter_topic]
    for deleted in admin.delete_topics(names).values():
        deleted.result(30)
    until("the topics are gone", lambda: not set(names) & set(admin.list_topics(timeout=10).topics))
    world.make_topics()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_log_comes_back_as_it_was(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    world.produce([*(command(number) for number in range(3000)), *ODD, *(message for message, _ in BAD)])
    consumer = start(world)
    count = 3000 + len(BAD) + len(ODD)
    until("all is written", lambda: sum(world.committed().values()) == count)
    rows, before = world.rows(), topics(world)
    assert consumer.process.terminate() == 0
    saved = backup(world, folder)
    assert saved["messages"] == saved["messages_in_all"] == count + len(before[1])
    lose_the_log(world)
    world.postgres.run(world.database, "TRUNCATE timestamp_records")

    assert restore(world, folder)["messages"] == saved["messages"]

    assert topics(world) == before
    assert rebuild(world)["rows"] == len(rows)
    assert world.rows() == rows
    # The broker gives new messages its own time again.
    world.produce([command(5000)])
    assert world.read_topic(world.topic)[-1].timestamp()[0] != 0
    kinds = {one.timestamp()[0] for one in world.read_topic(world.topic) if one.key() == command(5000)[0]}
    assert kinds == {2}
    # And the backup goes on with what has come since.
    assert backup(world, folder)["messages"] == 1


def test_a_header_whose_name_is_not_utf_8_stops_nothing(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    headers = [(b"correlationId", b"01890a5d-ac96-774b-bcce-b302099a8057"), (b"\xff", b"v")]
    # Many: the interpreter treats a call that it has made often in another way.
    good = [(key or b"", value or b"") for key, value, _ in map(command, range(100))]
    bad = [(key, b"not json") for key, _ in good]
    raw_headers.produce(world.kafka.bootstrap, world.topic, [*good, *bad], headers)
    with pytest.raises((UnicodeDecodeError, SystemError)):
        world.read_topic(world.topic)[0].headers()
    start(world)
    until("all is written", lambda: sum(world.committed().values()) == 200)
    assert world.row_count() == 100
    letters = world.read_topic(world.dead_letter_topic)
    assert {(letter.key(), letter.value()) for letter in letters} == set(bad)
    assert {letter.headers()[0] for letter in letters} == {("omitted", b"headers")}
    assert backup(world, folder)["messages"] == 300
    assert backup(world, folder)["messages"] == 0


def test_only_what_is_new_is_saved(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    world.produce([command(number) for number in range(500)])
    assert backup(world, folder)["messages"] == 500
    first = {path: path.read_bytes() for path in folder.glob("*.gz")}
    assert backup(world, folder)["files"] == 0
    world.produce([command(number) for number in range(500, 700)])
    # What an interrupted run leaves is removed; the files of old need not be there.
    stray = folder / f"{world.topic}-0-{'9' * 20}.jsonl.gz.part"
    stray.write_bytes(b"half")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in first:
        shutil.move(path, elsewhere)
    saved = backup(world, folder)
    assert (saved["messages"], saved["messages_in_all"]) == (200, 700)
    assert not stray.exists()
    for path in first:
        shutil.move(elsewhere / path.name, folder)
    assert {path: path.read_bytes() for path in first} == first
    # Its files can be read without it.
    values = set()
    for path in folder.glob("*.gz"):
        with gzip.open(path) as lines:
            values |= {json.loads(json.loads(line)["value"])["command_id"] for line in lines}
    assert len(values) == 700
    before = topics(world)
    lose_the_log(world)
    restore(world, folder)
    assert topics(world) == before


def test_it_is_saved_while_records_come_in(running: Running, tmp_path: Path) -> None:
    world, folder = running.world, tmp_path / "backup"
    ended = threading.Event()
    posted: list[str] = []

    def write() -> None:
        while not ended.is_set():
            posted.append(running.post())

    writer = threading.Thread(target=write)
    writer.start()
    saved = sum(backup(world, folder)["messages"] for _ in range(3))
    ended.set()
    writer.join()
    saved += backup(world, folder)["messages"]
    assert saved == len(posted) == len(world.read_topic(world.topic))


def test_a_topic_that_is_not_empty_is_refused(world: World, tmp_path: Path) -> None:
    world.produce([command(number) for number in range(50)])
    backup(world, tmp_path / "backup")
    before = topics(world)

    message = refusal(world.start_backup("restore", tmp_path / "backup"), "refused")

    assert "is not empty" in message
    assert "Restore to a new Kafka" in message
    assert topics(world) == before


def test_an_interrupted_restore_goes_on(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    count = 60_000
    world.produce([command(number) for number in range(count)])
    backup(world, folder)
    before = topics(world)
    lose_the_log(world)
    process = world.start_backup("restore", folder)

    def in_the_midst() -> bool:
        process.process.check_running()
        return bool(process.events("progress"))

    until("it is in the midst of it", in_the_midst, 120)
    process.process.send(signal.SIGKILL)
    process.process.wait()
    left = topics(world)[0]
    assert 0 < len(left) < count
    assert set(left) < set(before[0])

    assert restore(world, folder)["messages"] == count - len(left)

    assert topics(world) == before
    # The times are the broker's again, though the process that was killed could not see to that.
    world.produce([command(count)])
    kinds = {one.timestamp()[0] for one in world.read_topic(world.topic) if one.key() == command(count)[0]}
    assert kinds == {2}
    # A second one has nothing to do; but it is not done over what the service has written.
    message = refusal(world.start_backup("restore", folder), "refused")
    assert "is not empty" in message


def test_what_the_service_writes_into_a_half_restored_log_stops_the_restore(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    world.produce([command(number) for number in range(500)])
    backup(world, folder)
    lose_the_log(world)
    # The very same messages, but with times of the broker's own.
    world.produce([command(number) for number in range(5)])
    before = topics(world)

    message = refusal(world.start_backup("restore", folder), "refused")

    assert "no restore of this backup has written what is at offset 0" in message
    assert topics(world) == before


def test_a_broken_off_backup_is_not_believed(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    world.produce([command(number) for number in range(60_000)])
    folder.mkdir()
    process = world.start_backup("backup", folder)
    until("it has begun a file", lambda: list(folder.glob("*.part")) or process.events("saved"), 120)
    process.process.send(signal.SIGKILL)
    process.process.wait()
    assert not process.events("saved")
    assert not (folder / "manifest.json").exists()
    assert not verify(folder)[0]

    assert backup(world, folder)["messages"] == 60_000

    assert not list(folder.glob("*.part"))
    whole, (line,) = verify(folder)
    assert whole
    assert (line["event"], line["messages"]) == ("verified", 60_000)


def verify(folder: Path) -> tuple[bool, list[dict[str, Any]]]:
    """Have a backup checked without Kafka; returns whether it is whole, and the lines of the log."""
    entry = "from timestamp_service.backup import main; main.backup()"
    command = [sys.executable, "-c", entry, "--verify", str(folder)]
    done = subprocess.run(command, env={"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0, [json.loads(line) for line in done.stderr.splitlines()]


def damage_file(folder: Path) -> None:
    path = sorted(folder.glob("*.gz"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_file(folder: Path) -> None:
    path = sorted(folder.glob("*.gz"))[0]
    path.write_bytes(path.read_bytes()[:-1])


def remove_file(folder: Path) -> None:
    sorted(folder.glob("*.gz"))[0].unlink()


def damage_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"first": 0', '"first": 1', 1))


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_file, "is damaged: its SHA-256"),
        (cut_file, "bytes, not"),
        (remove_file, "No such file"),
        (damage_manifest, "manifest.json is damaged"),
        (remove_manifest, "manifest.json is missing"),
    ],
)
def test_a_damaged_backup_is_refused(
    world: World, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    folder = tmp_path / "backup"
    world.produce([command(number) for number in range(100)])
    backup(world, folder)
    assert verify(folder)[0]
    lose_the_log(world)
    damage(folder)

    whole, problems = verify(folder)
    assert not whole
    assert reason in problems[0]["message"]
    assert reason in refusal(world.start_backup("restore", folder), "refused")

    assert topics(world) == [[], []]


def test_another_log_is_not_mixed_in(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    world.produce([command(number) for number in range(200)])
    backup(world, folder)
    before = files(folder)
    lose_the_log(world)
    assert "has lost records, or it is another one" in refusal(
        world.start_backup("backup", folder), "backup_failed"
    )
    world.produce([command(number) for number in range(1000, 2000)])
    assert "it is another log" in refusal(world.start_backup("backup", folder), "backup_failed")
    assert files(folder) == before


def test_a_log_that_has_lost_its_beginning_is_not_saved_as_whole(world: World, tmp_path: Path) -> None:
    world.produce([command(number) for number in range(500)])
    admin = world.kafka.admin()
    for deleted in admin.delete_records([TopicPartition(world.topic, 3, 5)]).values():
        deleted.result(30)
    (tmp_path / "backup").mkdir()
    process = world.start_backup("backup", tmp_path / "backup")
    assert f"{world.topic}[3] begins at offset 5" in refusal(process, "backup_failed")
    assert not files(tmp_path / "backup")
