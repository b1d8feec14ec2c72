"""Saving: the messages that the backup does not have yet into new files, and a new manifest at the end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from timestamp_service.backup import lines, manifest
from timestamp_service.backup.files import Writer
from timestamp_service.backup.manifest import BackupError, File, Manifest
from timestamp_service.kafka.topic import Topic

# A file is held in memory when it is copied between machines. The bytes are those of its lines.
_FILE_MESSAGES = 200_000
_FILE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Saved:
    """What was added to a backup."""

    messages: int
    files: tuple[File, ...]
    # What the whole backup holds now.
    total: int


def save(folder: Path, topics: list[Topic], on_progress: Callable[[str], None]) -> Saved:
    """Add to the backup in `folder`, or begin one if there is no manifest; the older files need not be there.

    The topics are saved one after the other. Raises BackupError, TopicError and StoppedError.
    """
    known = manifest.read(folder)
    _remove_strays(folder, known)
    before = known or Manifest({})
    after = before
    for topic in topics:
        after = _save_topic(folder, topic, after, on_progress)
    files = after.files[len(before.files) :]
    if files or known is None:
        manifest.write(folder, after)
    return Saved(_count(files), files, _count(after.files))


def _save_topic(folder: Path, topic: Topic, known: Manifest, on_progress: Callable[[str], None]) -> Manifest:
    spans = topic.spans()
    if topic.name not in known.topics:
        known = replace(known, topics={**known.topics, topic.name: len(spans)})
    begins = known.next_offsets(topic.name)
    ends = {partition: end for partition, (_, end) in spans.items()}
    if sorted(begins) != sorted(ends):
        raise BackupError(
            f"{topic.name} has {len(ends)} partitions, its backup {len(begins)}: it is not the same log."
            " Save it to another folder."
        )
    for partition, begin in begins.items():
        low, end = spans[partition]
        if low > begin:
            raise BackupError(
                f"{topic.name}[{partition}] begins at offset {low}, and offsets from {begin} on are in no"
                " backup: they are lost, and the log could not be restored with its offsets."
            )
        if end < begin:
            raise BackupError(
                f"{topic.name}[{partition}] ends at offset {end}, its backup at {begin}: the log has lost"
                " records, or it is another one. Restore it, or save it to another folder."
            )
    _check_last(topic, known, begins)
    writers: dict[int, Writer] = {}
    files: list[File] = []
    done, total = 0, sum(ends.values()) - sum(begins.values())
    try:
        for messages in topic.read(begins, ends):
            for message in messages:
                saved = lines.from_message(message)
                partition = message.partition() or 0
                writer = writers.get(partition)
                if writer is None:
                    writer = writers[partition] = Writer(folder, topic.name, partition, saved.offset)
                writer.add(saved)
                if writer.count >= _FILE_MESSAGES or writer.bytes >= _FILE_BYTES:
                    files.append(writers.pop(partition).finish())
            done += len(messages)
            on_progress(f"{topic.name}: {done:,} of {total:,} messages")
        while writers:
            files.append(writers.popitem()[1].finish())
    except lines.LineError as error:
        raise BackupError(f"{topic.name}: {error}: it cannot be saved") from None
    finally:
        for writer in writers.values():
            writer.abandon()
    return replace(known, files=(*known.files, *sorted(files, key=lambda file: (file.partition, file.first))))


def _check_last(topic: Topic, known: Manifest, begins: dict[int, int]) -> None:
    """Check that the log still has the last saved message of each partition, as it was saved."""
    lasts = {partition: begin - 1 for partition, begin in begins.items() if begin > 0}
    for messages in topic.read(lasts, {partition: begin for partition, begin in begins.items() if begin > 0}):
        for message in messages:
            partition = message.partition() or 0
            digest = manifest.line_digest(lines.encode(lines.from_message(message)))
            if digest != known.of(topic.name, partition)[-1].last_sha256:
                raise BackupError(
                    f"{topic.name}[{partition}] has another message at offset {message.offset()} than its"
                    " backup: it is another log. Save it to another folder."
                )


def _remove_strays(folder: Path, known: Manifest | None) -> None:
    """Remove the files that an interrupted run has left."""
    listed = {file.name for file in known.files} if known else set()
    for path in folder.iterdir():
        if path.name == f"{manifest.NAME}.part" or (
            manifest.is_file_name(path.name) and path.name not in listed
        ):
            path.unlink()


def _count(files: tuple[File, ...]) -> int:
    return sum(file.next - file.first for file in files)
