"""Logs: one JSON object a line, in one convention for all services.

Every line has `time` (RFC 3339, UTC), `level`, `service` and `event`; lines of a request or message have
`correlationId`, and `command_id` where there is one. Other fields stand beside them.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Up to here, the journal's socket takes a write as a whole, whoever else writes.
_WRITE_BYTES = 16_384


def write_to_stderr(line: bytes) -> None:
    """Write a whole line; lines of several processes do not mix."""
    descriptor = sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
    while line:
        line = line[os.write(descriptor, line) :]


class Log:
    """Writes the lines of one service."""

    def __init__(self, service: str, level: int, write: Callable[[bytes], None] = write_to_stderr) -> None:
        """Write lines of at least `level` (a number of the module `logging`) by `write`."""
        self.service = service
        self.level = level
        self._write = write

    def debug(self, event: str, **fields: Any) -> None:
        """Write what only a developer wants to know."""
        self.line(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Write what happened as it should."""
        self.line(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write what may mend itself."""
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
        time = datetime.now(UTC).isoformat(timespec="microseconds")[:-6]
        name = logging.getLevelName(level)
        return f'{{"time":"{time}Z","level":"{name}","service":"{self.service}","event":"{event}"'


class LibraryHandler(logging.Handler):
    """Gives the lines of libraries (gunicorn, uvicorn, asyncio …) our form."""

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
    # uvicorn tells of each step of starting and stopping, as gunicorn and our own lines do.
    for name, level in (("gunicorn.error", log.level), ("uvicorn.error", max(log.level, logging.WARNING))):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
