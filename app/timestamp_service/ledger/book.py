"""The ledger's file: a line for the run, then one for each record, which counts once it is on the disk."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from timestamp_service.ledger.run import Run

_HEADER = "timestamp-ledger 1"
# The last word of the first line of a run that sends no idempotency keys.
_WITHOUT_KEYS = "without-keys"


class BookError(Exception):
    """The file is not a ledger; the message says why."""


@dataclass(frozen=True, slots=True)
class Book:
    """The content of a file: the run, and the instant of each acknowledged id."""

    run: Run
    acknowledged: dict[str, str]


def read(file: TextIO) -> Book:
    """Read a ledger. An incomplete last line, of a process that was killed, is ignored. Raises BookError."""
    words = file.readline().split()
    keyed = words[4:] != [_WITHOUT_KEYS]
    if len(words) != (4 if keyed else 5) or " ".join(words[:2]) != _HEADER or not words[3].isdecimal():
        raise BookError("its first line is not that of a ledger")
    acknowledged: dict[str, str] = {}
    for number, line in enumerate(file, 2):
        if not line.endswith("\n"):
            break
        identifier, _, instant = line.rstrip("\n").partition(" ")
        if not instant:
            raise BookError(f"line {number} is not an id and an instant")
        acknowledged[identifier] = instant
    return Book(Run(words[2], int(words[3]), keyed), acknowledged)


class Writer:
    """Appends lines, and calls back for each once it is on the disk; many lines share one fsync."""

    def __init__(self, path: Path, run: Run) -> None:
        """Create the file for `run`. Raises OSError, also when it exists."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._lines: list[str] = []
        self._written: list[Callable[[], None]] = []
        self._more = asyncio.Event()
        self._closing = False
        mode = "" if run.keyed else f" {_WITHOUT_KEYS}"
        _write(self._descriptor, f"{_HEADER} {run.name} {run.second}{mode}\n")

    def append(self, identifier: str, instant: str, written: Callable[[], None]) -> None:
        """Write a record, and call `written` when it is on the disk."""
        self._lines.append(f"{identifier} {instant}\n")
        self._written.append(written)
        self._more.set()

    async def write(self) -> None:
        """Write what is appended until `close`. Raises OSError when that fails."""
        while not (self._closing and not self._lines):
            await self._more.wait()
            self._more.clear()
            lines, self._lines = self._lines, []
            written, self._written = self._written, []
            if lines:
                await asyncio.to_thread(_write, self._descriptor, "".join(lines))
            for call in written:
                call()
        os.close(self._descriptor)

    def close(self) -> None:
        """Let `write` return when all is written."""
        self._closing = True
        self._more.set()


def _write(descriptor: int, text: str) -> None:
    data = text.encode("ascii")
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)
