"""The form of a backup: lines, files and manifest."""

from pathlib import Path

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
