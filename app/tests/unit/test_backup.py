"""The form of a backup: lines, files and manifest."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE, Message
from hypothesis import given
from hypothesis import strategies as st

from timestamp_service.backup import files, lines, manifest
from timestamp_service.backup.lines import LineError, SavedMessage
from timestamp_service.backup.manifest import BackupError, File, Manifest

content = st.none() | st.binary(max_size=20) | st.text(max_size=10).map(lambda text: text.encode())
saved_messages = st.builds(
    SavedMessage,
    st.integers(0, 2**62),
    st.integers(0, 2**41),
    content,
    content,
    st.lists(st.tuples(st.text(max_size=5), content), max_size=3),
)


@given(saved_messages)
def test_any_message_comes_back_from_its_line(message: SavedMessage) -> None:
    line = lines.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert lines.decode(line) == message


def test_a_message_as_a_line() -> None:
    time = (TIMESTAMP_LOG_APPEND_TIME, 1_700_000_000_120)
    message = Message("topic", 3, 41, b"key", b"\xff", [("h", b"v"), ("n", None)], None, time)
    assert lines.encode(lines.from_message(message)) == (
        b'{"offset":41,"time":1700000000120,"key":"key","value":{"base64":"/w=="},'
        b'"headers":[["h","v"],["n",null]]}\n'
    )
    without = Message("topic", 3, 41, b"key", b"", [], None, (TIMESTAMP_NOT_AVAILABLE, 0))
    with pytest.raises(LineError):
        lines.from_message(without)


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"\xff", b'{"offset":"x","time":0}'])
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(LineError):
        lines.decode(line)


def write(folder: Path, partition: int, first: int, count: int) -> File:
    writer = files.Writer(folder, "topic", partition, first)
    for offset in range(first, first + count):
        writer.add(SavedMessage(offset, 1, b"key", str(offset).encode(), []))
    file = writer.finish()
    files.publish(folder, file)
    return file


def test_a_file_gives_back_what_was_written_and_is_the_same_each_time(tmp_path: Path) -> None:
    file = write(tmp_path, 3, 41, 5)
    held = (tmp_path / file.name).read_bytes()
    assert [message.offset for message in files.read(tmp_path, file)] == [41, 42, 43, 44, 45]
    assert manifest.damages(tmp_path, [file]) == []
    assert write(tmp_path, 3, 41, 5) == file
    assert (tmp_path / file.name).read_bytes() == held


@given(st.data())
def test_no_byte_of_a_file_can_be_another_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("backup")
    file = write(folder, 0, 0, 3)
    held = bytearray((folder / file.name).read_bytes())
    held[data.draw(st.integers(0, len(held) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / file.name).write_bytes(held)
    assert len(manifest.damages(folder, [file])) == 1


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) is None
    known = Manifest(
        {"topic": 2}, (write(tmp_path, 0, 0, 3), write(tmp_path, 0, 3, 2), write(tmp_path, 1, 0, 1))
    )
    manifest.write(tmp_path, known)
    assert manifest.read(tmp_path) == known
    assert known.next_offsets("topic") == {0: 5, 1: 1}
    assert [file.first for file in known.of("topic", 0)] == [0, 3]


def test_a_manifest_with_a_gap_is_refused(tmp_path: Path) -> None:
    manifest.write(tmp_path, Manifest({"topic": 1}, (write(tmp_path, 0, 0, 3), write(tmp_path, 0, 4, 1))))
    with pytest.raises(BackupError, match=r"topic\[0\] has a gap: 3 is missing, 4 follows"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("old", ["0", "topic", "}"])
def test_a_manifest_that_was_changed_is_refused(tmp_path: Path, old: str) -> None:
    manifest.write(tmp_path, Manifest({"topic": 1}, (write(tmp_path, 0, 0, 3),)))
    path = tmp_path / manifest.NAME
    path.write_text(path.read_text().replace(old, "1", 1))
    with pytest.raises(BackupError, match=r"manifest\.json is damaged"):
        manifest.read(tmp_path)


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    file = write(tmp_path, 0, 0, 3)
    outside = File(**{name: getattr(file, name) for name in File.__slots__} | {"name": "../outside"})
    manifest.write(tmp_path, Manifest({"topic": 1}, (outside,)))
    with pytest.raises(BackupError, match="a name that does not fit"):
        manifest.read(tmp_path)


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Change a manifest, and give it the checksum that fits."""
    path = folder / manifest.NAME
    fields = json.loads(path.read_text()) | changes
    del fields["sha256"]
    path.write_text(json.dumps({**fields, "sha256": manifest._digest(fields)}))


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    manifest.write(tmp_path, Manifest({"topic": 1}))
    rewrite_manifest(tmp_path)
    assert manifest.read(tmp_path) == Manifest({"topic": 1})
    rewrite_manifest(tmp_path, version=2)
    with pytest.raises(BackupError, match="is of version 2, which this release does not know"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"partition": 1}, "is of a partition that is not listed"),
        ({"partition": -1}, "is of a partition that is not listed"),
        ({"topic": "other"}, "is of a partition that is not listed"),
        ({"sha256": ""}, "has no checksum"),
        ({"content_sha256": "f" * 63}, "has no checksum"),
        ({"first": 1}, "has a name that does not fit"),
        ({"next": 0}, r"topic\[0\] has a gap"),
    ],
)
def test_a_manifest_that_lists_what_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    manifest.write(tmp_path, Manifest({"topic": 1}, (replace(write(tmp_path, 0, 0, 3), **changes),)))
    with pytest.raises(BackupError, match=reason):
        manifest.read(tmp_path)


def test_a_file_that_lacks_messages_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, 0, 0, 3)
    other = replace(write(tmp_path, 0, 5, 3), first=4)
    for changed, reason in (
        (replace(file, next=4), "it does not hold the messages that were saved"),
        (replace(file, next=2), "it does not hold the messages that were saved"),
        (replace(file, content_sha256="0" * 64), "it does not hold the messages that were saved"),
        (other, "has a gap at offset 4"),
    ):
        with pytest.raises(BackupError, match=reason):
            list(files.read(tmp_path, changed))


def test_all_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def record_rename(path: Path, target: Path) -> Path:
        done.append(("rename", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_rename)
    file = write(tmp_path, 0, 0, 3)
    assert done == [("fsync", f"{file.name}.part"), ("rename", file.name)]
    done.clear()
    manifest.write(tmp_path, Manifest({"topic": 1}, (file,)))
    # The names of the files, then the manifest, then its name.
    assert done == [
        ("fsync", tmp_path.name),
        ("fsync", f"{manifest.NAME}.part"),
        ("rename", manifest.NAME),
        ("fsync", tmp_path.name),
    ]
