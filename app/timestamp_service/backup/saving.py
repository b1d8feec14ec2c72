"""Saving: the messages that the backup does not have yet into new files, and a new manifest at the end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from timestamp_service.backup import files, lines, manifest
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
    """Add to the backup in `folder`, or begin one if it has none; the older files need not be there.

    The topics are saved one after the other. Raises BackupError, TopicError and StoppedError.
    """
    known = manifest.read(folder)
    _check_listed(folder, known)
    _remove_unfinished(folder)
    before = known or Manifest({})
    after = before
    for topic in topics:
        after = _save_topic(folder, topic, after, on_progress)
    new_files = after.files[len(before.files) :]
    for file in new_files:
        files.publish(folder, file)
    if new_files or known is None:
        manifest.write(folder, after)
    return Saved(_count(new_files), new_files, _count(after.files))


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
    finished: list[File] = []
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
                    finished.append(writers.pop(partition).finish())
            done += len(messages)
            on_progress(f"{topic.name}: {done:,} of {total:,} messages")
        while writers:
            finished.append(writers.popitem()[1].finish())
    except lines.LineError as error:
        raise BackupError(f"{topic.name}: {error}: it cannot be saved") from None
    finally:
        for writer in writers.values():
            writer.abandon()
    finished.sort(key=lambda file: (file.partition, file.first))
    return replace(known, files=(*known.files, *finished))


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


def _check_listed(folder: Path, known: Manifest | None) -> None:
    """Refuse data files that the manifest does not list: they may be all that is left of a backup."""
    listed = {file.name for file in known.files} if known else set()
    unlisted = sorted(
        path.name
        for path in folder.iterdir()
        if manifest.is_file_name(path.name) and path.suffix != ".part" and path.name not in listed
    )
    if unlisted:
        lack = f"no {manifest.NAME}" if known is None else f"a {manifest.NAME} that does not list them"
        raise BackupError(
            f"{folder} has {len(unlisted)} files of a backup (such as {unlisted[0]}) and {lack}."
            f" Copy the newest {manifest.NAME} from another copy of the backup; if there is none, save to an"
            " empty folder, and keep these files."
        )


def _remove_unfinished(folder: Path) -> None:
    """Remove what an interrupted run has left."""
    for path in folder.iterdir():
        name = path.name.removesuffix(".part")
        if path.suffix == ".part" and (name == manifest.NAME or manifest.is_file_name(name)):
            path.unlink()


def _count(files: tuple[File, ...]) -> int:
    return sum(file.next - file.first for file in files)
