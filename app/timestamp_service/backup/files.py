"""Files of a backup: written with their checksums, and read with them."""

import gzip
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO

from timestamp_service.backup import lines, manifest
from timestamp_service.backup.lines import LineError, SavedMessage
from timestamp_service.backup.manifest import BackupError, File

# Half of what the highest level saves, in a third of its time.
_LEVEL = 4


class Writer:
    """A file that is being written. Its name ends with `.part` until `publish`."""

    def __init__(self, folder: Path, topic: str, partition: int, first: int) -> None:
        """Create the file of `topic`[`partition`] whose first offset is `first`."""
        self._folder = folder
        self._topic = topic
        self._partition = partition
        self._first = self.next = first
        self._name = manifest.file_name(topic, partition, first)
        # The size of its lines, before compression.
        self.bytes = 0
        self._content = sha256()
        self._last = b""
        self._raw: IO[bytes] = (folder / f"{self._name}.part").open("wb+")
        # gzip stores no name and no time: the same messages give the same file.
        self._packed = gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=self._raw, mtime=0)

    @property
    def count(self) -> int:
        """Return how many messages it holds."""
        return self.next - self._first

    def add(self, message: SavedMessage) -> None:
        """Add the next message."""
        line = lines.encode(message)
        self._content.update(line)
        self._last = line
        self.bytes += len(line)
        self._packed.write(line)
        self.next = message.offset + 1

    def finish(self) -> File:
        """Complete the file and ensure that it is on the disk."""
        self._packed.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.seek(0)
        digest, size = sha256(), 0
        while chunk := self._raw.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
        self._raw.close()
        return File(
            name=self._name,
            topic=self._topic,
            partition=self._partition,
            first=self._first,
            next=self.next,
            bytes=size,
            sha256=digest.hexdigest(),
            content_sha256=self._content.hexdigest(),
            last_sha256=manifest.line_digest(self._last),
        )

    def abandon(self) -> None:
        """Remove the unfinished file."""
        self._raw.close()
        (self._folder / f"{self._name}.part").unlink(missing_ok=True)


def publish(folder: Path, file: File) -> None:
    """Give a finished file its final name, by which no other run removes it."""
    (folder / f"{file.name}.part").replace(folder / file.name)


def read(folder: Path, file: File) -> Iterator[SavedMessage]:
    """Yield the messages of a file. Raises BackupError when they are not those that were saved."""
    content, expected = sha256(), file.first
    try:
        with gzip.open(folder / file.name, "rb") as packed:
            for line in packed:
                content.update(line)
                message = lines.decode(line)
                if message.offset != expected:
                    raise BackupError(f"{file.name} has a gap at offset {expected}")
                expected += 1
                yield message
    except (OSError, EOFError, LineError) as error:
        raise BackupError(f"{file.name} is damaged: {error}") from None
    if expected != file.next or content.hexdigest() != file.content_sha256:
        raise BackupError(f"{file.name} is damaged: it does not hold the messages that were saved")
