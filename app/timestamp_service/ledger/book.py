"""The ledger's file: a line for the run, then one for each acknowledged record, on disk before it counts."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from timestamp_service.ledger.run import Run

_HEADER = "timestamp-ledger 1"


class BookError(Exception):
    """The file is no ledger; says why."""


@dataclass(frozen=True, slots=True)
class Book:
    """What a file holds: the run, and the instant of each acknowledged id."""

    run: Run
    acknowledged: dict[str, str]


def read(file: TextIO) -> Book:
    """Read a ledger. A last line that was cut off by the end of the process is left out. Raises BookError."""
    words = file.readline().split()
    if len(words) != 4 or " ".join(words[:2]) != _HEADER or not words[3].isdecimal():
        raise BookError("its first line is not that of a ledger")
    acknowledged: dict[str, str] = {}
    for place, line in enumerate(file, 2):
        if not line.endswith("\n"):
            break
        identifier, _, instant = line.rstrip("\n").partition(" ")
        if not instant:
            raise BookError(f"line {place} is no id and instant")
        acknowledged[identifier] = instant
    return Book(Run(words[2], int(words[3])), acknowledged)


class Writer:
    """Appends lines, and tells of each once it is on the disk: many share one fsync."""

    def __init__(self, path: Path, run: Run) -> None:
        """Begin a new file for `run`. Raises OSError, also when there is one already."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._lines: list[str] = []
        self._written: list[Callable[[], None]] = []
        self._more = asyncio.Event()
        self._closing = False
        _write(self._descriptor, f"{_HEADER} {run.name} {run.second}\n")

    def append(self, identifier: str, instant: str, written: Callable[[], None]) -> None:
        """Write a record, and call `written` when it is on the disk."""
        self._lines.append(f"{identifier} {instant}\n")
        self._written.append(written)
        self._more.set()

    async def write(self) -> None:
        """Write what is appended until `close`. Raises OSError when the disk does not take it."""
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
