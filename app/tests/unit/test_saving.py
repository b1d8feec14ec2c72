"""What a backup adds to its folder, and when it refuses to."""

from pathlib import Path

import pytest
from confluent_kafka import Message

from tests.unit.fake_topic import FakeTopic, UnreadableHeaders, message
from timestamp_service.backup import files, lines, manifest, saving
from timestamp_service.backup.manifest import BackupError


def log(*counts: int) -> FakeTopic:
    """Return a topic with so many messages in each of its partitions."""
    return FakeTopic(
        [
            [message(f"{partition}/{offset}".encode(), partition, offset) for offset in range(count)]
            for partition, count in enumerate(counts)
        ]
    )


def save(folder: Path, topic: FakeTopic) -> int:
    return saving.save(folder, [topic], lambda _text: None).messages


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_what_is_new_is_added(tmp_path: Path) -> None:
    assert save(tmp_path, log(3, 2)) == 5
    assert save(tmp_path, log(3, 2)) == 0
    assert save(tmp_path, log(4, 2)) == 1
    known = manifest.read(tmp_path)
    assert known is not None
    assert known.next_offsets("topic") == {0: 4, 1: 2}
    saved = [one.value for file in known.files for one in files.read(tmp_path, file)]
    assert saved == [b"0/0", b"0/1", b"0/2", b"1/0", b"1/1", b"0/3"]


def test_data_files_without_a_manifest_are_refused(tmp_path: Path) -> None:
    save(tmp_path, log(3, 2))
    (tmp_path / manifest.NAME).unlink()
    before = content(tmp_path)
    with pytest.raises(BackupError, match=r"no manifest\.json\. Copy the newest manifest\.json from another"):
        save(tmp_path, log(3, 2))
    assert content(tmp_path) == before


def test_data_files_that_are_newer_than_the_manifest_are_refused(tmp_path: Path) -> None:
    save(tmp_path, log(3, 2))
    old = (tmp_path / manifest.NAME).read_bytes()
    save(tmp_path, log(4, 2))
    (tmp_path / manifest.NAME).write_bytes(old)
    before = content(tmp_path)
    with pytest.raises(BackupError, match="does not list them"):
        save(tmp_path, log(5, 2))
    assert content(tmp_path) == before


def test_what_an_interrupted_run_leaves_is_saved_again(tmp_path: Path) -> None:
    topic, broken = log(3, 2), log(3, 2)
    broken.held[1] = [topic.held[1][0], None]  # type: ignore[list-item]
    with pytest.raises(AttributeError):
        save(tmp_path, broken)
    (tmp_path / f"{manifest.NAME}.part").touch()
    (tmp_path / "notes.part").touch()
    (tmp_path / manifest.file_name("topic", 0, 0)).with_suffix(".gz.part").touch()
    assert save(tmp_path, topic) == 5
    assert [path.name for path in tmp_path.glob("*.part")] == ["notes.part"]


def test_a_file_has_its_final_name_only_when_all_is_saved(tmp_path: Path) -> None:
    class Failing(FakeTopic):
        def spans(self) -> dict[int, tuple[int, int]]:
            assert not list(tmp_path.glob("*.gz"))
            raise BackupError("another topic fails")

    with pytest.raises(BackupError, match="another topic fails"):
        saving.save(tmp_path, [log(3, 2), Failing([], "other")], lambda _text: None)
    assert not list(tmp_path.glob("*.gz"))


def test_headers_that_cannot_be_read_stop_no_backup(tmp_path: Path) -> None:
    odd: Message = message(b"odd", 0, 3, kind=UnreadableHeaders)
    topic = log(3)
    topic.held[0].append(odd)
    assert save(tmp_path, topic) == 4
    assert save(tmp_path, topic) == 0
    known = manifest.read(tmp_path)
    assert known is not None
    saved = list(files.read(tmp_path, known.files[0]))[-1]
    assert (saved.key, saved.value, saved.headers) == (b"key", b"odd", [("omitted", b"headers")])
    # What a restore sends is the same message for the next backup and for the comparison.
    restored = message(b"odd", 0, 3, [("omitted", b"headers")])
    assert lines.from_message(restored) == lines.from_message(odd)


def test_another_log_is_refused(tmp_path: Path) -> None:
    save(tmp_path, log(3, 2))
    before = content(tmp_path)
    changed = log(3, 2)
    changed.held[0][2] = message(b"0/2", 0, 2, [("h", b"")])
    for topic, reason in (
        (changed, r"topic\[0\] has another message at offset 2 than its backup"),
        (log(2, 2), r"topic\[0\] ends at offset 2, its backup at 3"),
        (log(3, 2, 0), "topic has 3 partitions, its backup 2"),
        (log(3), "topic has 1 partitions, its backup 2"),
        (FakeTopic(log(5, 5).held, first=4), r"topic\[0\] begins at offset 4, and offsets from 3 on"),
    ):
        with pytest.raises(BackupError, match=reason):
            save(tmp_path, topic)
    assert content(tmp_path) == before
