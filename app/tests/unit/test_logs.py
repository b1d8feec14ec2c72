import asyncio
import json
import logging
import os
from typing import Any

import pytest

from timestamp_service import instants
from timestamp_service.runtime import logs
from timestamp_service.runtime.logs import Log, RateLimitedLog


class Lines:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in b"".join(self.writes).splitlines()]


def test_a_line() -> None:
    lines = Lines()
    Log("timestamp-command", logging.INFO, lines.writes.append).info(
        "request", correlationId="c", command_id=None, path='/"\n\u2028\ud800', status=200
    )

    assert len(lines.writes) == 1
    assert lines.writes[0].endswith(b"}\n")
    line = lines.read()[0]
    assert instants.normalise(line.pop("time"))
    assert line == {
        "level": "INFO",
        "service": "timestamp-command",
        "event": "request",
        "correlationId": "c",
        "path": '/"\n\u2028\ud800',
        "status": 200,
    }


def test_a_line_without_fields() -> None:
    lines = Lines()
    Log("s", logging.INFO, lines.writes.append).warning("ready")
    assert lines.read()[0]["event"] == "ready"


@pytest.mark.parametrize(
    ("level", "written"),
    [
        (logging.DEBUG, ["debug", "info", "warning", "error"]),
        (logging.INFO, ["info", "warning", "error"]),
        (logging.ERROR, ["error"]),
    ],
)
def test_levels(level: int, written: list[str]) -> None:
    lines = Lines()
    log = Log("s", level, lines.writes.append)
    log.debug("debug")
    log.info("info")
    log.warning("warning")
    log.error("error")
    assert [line["event"] for line in lines.read()] == written
    assert [line["level"] for line in lines.read()] == [event.upper() for event in written]


def test_many_lines_come_in_whole_writes() -> None:
    lines = Lines()
    Log("s", logging.INFO, lines.writes.append).each(
        "recorded", [f'"command_id":"{n:036d}"' for n in range(1000)]
    )

    assert [line["command_id"] for line in lines.read()] == [f"{n:036d}" for n in range(1000)]
    assert 1 < len(lines.writes) < 20
    assert all(len(write) <= 16_384 and write.endswith(b"\n") for write in lines.writes)


def test_many_lines_obey_the_level() -> None:
    lines = Lines()
    Log("s", logging.WARNING, lines.writes.append).each("recorded", ['"command_id":"x"'])
    assert not lines.writes


def test_lines_of_libraries_get_our_form() -> None:
    lines = Lines()
    logger = logging.getLogger("test_logs")
    logger.propagate = False
    logger.handlers = [logs.LibraryHandler(Log("s", logging.INFO, lines.writes.append))]
    try:
        raise ValueError("what went wrong")
    except ValueError:
        logger.exception("it failed: %s", 7)

    line = lines.read()[0]
    assert (line["level"], line["event"], line["message"]) == ("ERROR", "test_logs", "it failed: 7")
    assert "ValueError: what went wrong" in line["exception"]


def test_lines_of_one_turn_are_written_together_and_errors_at_once() -> None:
    written: list[bytes] = []

    async def scenario() -> None:
        log = Log("s", logging.INFO, written.append)
        log.join_lines()
        log.info("one")
        log.info("two")
        assert not written
        await asyncio.sleep(0)
        assert [line.count(b"\n") for line in written] == [2]
        log.info("three")
        log.error("four")
        assert written[-1].count(b"\n") == 2
        await asyncio.to_thread(log.info, "five")
        assert b'"five"' in written[-1]
        log.info("six")
        log.separate_lines()
        assert b'"six"' in written[-1]
        log.info("seven")
        assert b'"seven"' in written[-1]

    asyncio.run(scenario())
    assert [json.loads(line)["event"] for line in b"".join(written).splitlines()] == [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
    ]


def test_a_repeated_warning_is_written_once_in_a_while() -> None:
    lines: list[bytes] = []
    now = 100.0
    limited = RateLimitedLog(Log("s", logging.INFO, lines.append), every_seconds=30, clock=lambda: now)
    for now in (100.0, 101.0, 129.9, 130.0, 131.0):
        limited.warning("kafka_error", "_TRANSPORT", error=str(now))
    limited.warning("kafka_error", "_RESOLVE", error="another kind")
    limited.warning("other", "_TRANSPORT", error="another event")

    written = [(line["error"], line.get("left_out")) for line in map(json.loads, lines)]
    assert written == [("100.0", None), ("130.0", 2), ("another kind", None), ("another event", None)]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError()])
def test_a_line_that_cannot_be_written_is_lost_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(_descriptor: int, _line: bytes) -> int:
        raise error

    monkeypatch.setattr(os, "write", fail)
    Log("s", logging.INFO).error("event")
