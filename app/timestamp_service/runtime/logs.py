"""Logs: one JSON object a line, in one convention for all services.

Every line has `time` (RFC 3339, UTC), `level`, `service` and `event`; lines of a request or message have
`correlationId`, and `command_id` where there is one. Other fields stand beside them.
"""

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

# A write of up to this size reaches the journal's socket undivided, whoever else writes.
_WRITE_BYTES = 16_384


def write_to_stderr(line: bytes) -> None:
    """Write a whole line; lines of several processes do not mix."""
    descriptor = sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
    while line:
        line = line[os.write(descriptor, line) :]


def _never_raising(write: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return `write`, but a line that cannot be written is lost: no work fails because of its log."""

    def guarded(line: bytes) -> None:
        # `suppress` would cost more than a short write.
        try:  # noqa: SIM105
            write(line)
        except Exception:  # noqa: S110
            pass

    return guarded


class LineBuffer:
    """Writes the lines of one turn of an event loop together: a write costs more than its content."""

    def __init__(self, write: Callable[[bytes], None], loop: asyncio.AbstractEventLoop) -> None:
        """Write by `write` at the end of each turn of `loop`, which is the running one."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._write = write
        self._lines: list[bytes] = []
        self._length = 0

    def add(self, line: bytes) -> None:
        """Take a line. Those of other threads are written at once."""
        if not self.mine():
            self._write(line)
            return
        if self._length + len(line) > _WRITE_BYTES:
            self.flush()
        if not self._lines:
            self._loop.call_soon(self.flush)
        self._lines.append(line)
        self._length += len(line)

    def mine(self) -> bool:
        """Return whether the caller's thread is that of the event loop."""
        return threading.get_ident() == self._thread

    def flush(self) -> None:
        """Write what there is."""
        if self._lines:
            lines, self._lines, self._length = self._lines, [], 0
            self._write(b"".join(lines))


class Log:
    """Writes the lines of one service."""

    def __init__(self, service: str, level: int, write: Callable[[bytes], None] = write_to_stderr) -> None:
        """Write lines of at least `level` (a number of the module `logging`) by `write`."""
        self.service = service
        self.level = level
        self._write = self._write_at_once = _never_raising(write)
        self._buffer: LineBuffer | None = None

    def join_lines(self) -> None:
        """Write the lines of one turn of the running event loop together, but warnings and errors at once."""
        self._buffer = LineBuffer(self._write_at_once, asyncio.get_running_loop())
        self._write = self._buffer.add

    def separate_lines(self) -> None:
        """Write each line at once again."""
        if self._buffer is not None:
            self._buffer.flush()
        self._buffer = None
        self._write = self._write_at_once

    def debug(self, event: str, **fields: Any) -> None:
        """Write what only a developer wants to know."""
        self.line(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Write what happened as it should."""
        self.line(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write what may resolve itself."""
        self.line(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write what somebody should look at."""
        self.line(logging.ERROR, event, fields)

    def line(self, level: int, event: str, fields: dict[str, Any]) -> None:
        """Write a line when `level` is high enough. Fields that are None are left out."""
        if level < self.level:
            return
        content = {name: value for name, value in fields.items() if value is not None}
        members = json.dumps(content, default=str, separators=(",", ":"))[1:-1]
        start = self._start(level, event)
        self._write(f"{start},{members}}}\n".encode() if members else f"{start}}}\n".encode())
        if level >= logging.WARNING and self._buffer is not None and self._buffer.mine():
            self._buffer.flush()

    def each(self, event: str, members: Iterable[str]) -> None:
        """Write a line (info) for each of `members`: what follows the event in it, as JSON members."""
        if self.level > logging.INFO:
            return
        start = self._start(logging.INFO, event)
        lines: list[str] = []
        length = 0
        for rest in members:
            line = f"{start},{rest}}}\n"
            length += len(line)
            if length > _WRITE_BYTES and lines:
                self._write("".join(lines).encode())
                lines, length = [], len(line)
            lines.append(line)
        if lines:
            self._write("".join(lines).encode())

    def _start(self, level: int, event: str) -> str:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        return (
            f'{{"time":"{_second(seconds)}.{nanoseconds // 1000:06d}Z","level":"{_NAMES[level]}",'
            f'"service":"{self.service}","event":"{event}"'
        )


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]


class _Names(dict[int, str]):
    """The names of levels, which libraries may have added to."""

    def __missing__(self, level: int) -> str:
        name = self[level] = logging.getLevelName(level)
        return name


_NAMES = _Names()


class RateLimitedLog:
    """Writes warnings of one kind once in a while, with how many were left out since."""

    def __init__(
        self, log: Log, every_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write by `log`, each kind once in `every_seconds`."""
        self._log = log
        self._every = every_seconds
        self._clock = clock
        self._due: dict[Hashable, float] = {}
        self._left_out: dict[Hashable, int] = {}

    def warning(self, event: str, kind: Hashable, **fields: object) -> None:
        """Write a warning unless one of its event and kind was written not long ago."""
        now = self._clock()
        key = event, kind
        if now < self._due.get(key, now):
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return
        self._due[key] = now + self._every
        self._log.warning(event, **fields, left_out=self._left_out.pop(key, None))


class LibraryHandler(logging.Handler):
    """Writes the lines of libraries (gunicorn, uvicorn, asyncio …) as JSON, as all others."""

    def __init__(self, log: Log) -> None:
        """Write by `log`."""
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; its logger's name is the event."""
        try:
            fields: dict[str, Any] = {"message": record.getMessage()}
            if record.exc_info:
                fields["exception"] = logging.Formatter().formatException(record.exc_info)
            self._log.line(record.levelno, record.name, fields)
        except Exception:
            self.handleError(record)


def take_over_libraries(log: Log) -> None:
    """Send what libraries log through `log`, and nowhere else."""
    handler = LibraryHandler(log)
    logging.root.handlers = [handler]
    logging.root.setLevel(log.level)
    # uvicorn logs each step of starting and stopping, as gunicorn and our own lines do.
    for name, level in (("gunicorn.error", log.level), ("uvicorn.error", max(log.level, logging.WARNING))):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
