"""The manifest of a backup: the list of its files with their checksums, and the checksum of that list."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

NAME = "manifest.json"
_VERSION = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}-[0-9]+-[0-9]{20}\.jsonl\.gz")
_ADVICE = "Take it from another copy of the backup."
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BackupError(Exception):
    """A backup is incomplete or does not fit the log; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class File:
    """The messages of one partition from offset `first` up to before `next`."""

    name: str
    topic: str
    partition: int
    first: int
    next: int
    bytes: int
    # Of the file, of the lines in it, and of the last one.
    sha256: str
    content_sha256: str
    last_sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Files of one or more topics, each partition's without a gap from its first offset on."""

    # Number of partitions of each topic.
    topics: dict[str, int]
    files: tuple[File, ...] = ()

    def next_offsets(self, topic: str) -> dict[int, int]:
        """Return the offset after the last saved one of each partition of `topic`."""
        offsets = dict.fromkeys(range(self.topics[topic]), 0)
        for file in self.files:
            if file.topic == topic:
                offsets[file.partition] = max(offsets[file.partition], file.next)
        return offsets

    def of(self, topic: str, partition: int) -> list[File]:
        """Return a partition's files in their order."""
        files = [file for file in self.files if (file.topic, file.partition) == (topic, partition)]
        return sorted(files, key=lambda file: file.first)


def file_name(topic: str, partition: int, first: int) -> str:
    """Return the name of the file whose first offset is `first`."""
    return f"{topic}-{partition}-{first:020d}.jsonl.gz"


def is_file_name(name: str) -> bool:
    """Return whether a file belongs to a backup by its name, finished or not."""
    return _FILE_NAME.fullmatch(name.removesuffix(".part")) is not None


def read(folder: Path) -> Manifest | None:
    """Return the manifest in `folder`, or None where there is none. Raises BackupError."""
    path = folder / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}") from None
    try:
        fields = json.loads(content)
        if fields["version"] != _VERSION:
            raise BackupError(f"{path} is of version {fields['version']}, which this release does not know")
        if fields.pop("sha256") != _digest(fields):
            raise BackupError(f"{path} is damaged: its checksum does not fit. {_ADVICE}")
        manifest = Manifest(
            {str(name): int(count) for name, count in fields["topics"].items()},
            tuple(File(**file) for file in fields["files"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{path} is damaged: {error}. {_ADVICE}") from None
    problems = list(_gaps(manifest))
    if problems:
        raise BackupError(f"{path}: {'; '.join(problems)}. {_ADVICE}")
    return manifest


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, once all that it lists is on the disk."""
    fields: dict[str, Any] = {
        "version": _VERSION,
        "topics": manifest.topics,
        "files": [asdict(file) for file in manifest.files],
    }
    content = json.dumps({**fields, "sha256": _digest(fields)}, indent=1).encode() + b"\n"
    part = folder / f"{NAME}.part"
    sync_folder(folder)
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / NAME)
    sync_folder(folder)


def missing(folder: Path) -> str:
    """Return the message that there is no manifest in `folder`."""
    return f"there is no backup in {folder}: {NAME} is missing. {_ADVICE}"


def damages(folder: Path, files: Iterable[File]) -> list[str]:
    """Return what is wrong with `files` in `folder`: one that is missing, or not the one that was saved."""
    problems = []
    for file in files:
        path = folder / file.name
        try:
            with path.open("rb") as opened:
                size, digest = os.fstat(opened.fileno()).st_size, file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            problems.append(f"{file.name}: {error.strerror}")
            continue
        if size != file.bytes:
            problems.append(f"{file.name} has {size} bytes, not {file.bytes}")
        elif digest != file.sha256:
            problems.append(f"{file.name} is damaged: its SHA-256 is another one")
    return problems


def line_digest(line: bytes) -> str:
    """Return the SHA-256 of one line."""
    return sha256(line).hexdigest()


def sync_folder(folder: Path) -> None:
    """Ensure that the names of new files are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(fields: dict[str, Any]) -> str:
    return sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _gaps(manifest: Manifest) -> Iterable[str]:
    for file in manifest.files:
        if file.topic not in manifest.topics or not 0 <= file.partition < manifest.topics[file.topic]:
            yield f"{file.name} is of a partition that is not listed"
        if file.name != file_name(file.topic, file.partition, file.first) or not is_file_name(file.name):
            yield f"{file.name} has a name that does not fit"
        if not _DIGEST.fullmatch(file.sha256) or not _DIGEST.fullmatch(file.content_sha256):
            yield f"{file.name} has no checksum"
    for topic, count in manifest.topics.items():
        for partition in range(count):
            expected = 0
            for file in manifest.of(topic, partition):
                if file.first != expected or file.next <= file.first:
                    yield f"{topic}[{partition}] has a gap: {expected} is missing, {file.first} follows"
                expected = file.next
