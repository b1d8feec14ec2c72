"""The load: POSTs at a rate, with retries, and GETs of acknowledged ids; each failure is counted."""

import asyncio
import json
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timestamp_service.ledger import book
from timestamp_service.ledger.client import Answer, Line, RequestError, Server
from timestamp_service.ledger.run import Run

# A failed POST is sent again after this long, or after Retry-After.
_RETRY_SECONDS = 0.5
_RETRY_SECONDS_MAX = 5
# Answers after which the same request may succeed.
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_TICK_SECONDS = 0.005
# When more seconds of load wait for a retry, no new record is begun.
_WAITING_SECONDS = 4


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run: rates per second, times in seconds (None: until it is stopped)."""

    server: Server
    file: Path
    rate: float
    duration: float | None
    connections: int
    get_rate: float
    get_connections: int
    # A GET asks for a record that was acknowledged at least this long ago.
    get_age: float
    timeout: float
    # For how long a record is retried.
    give_up: float
    # How long to wait at the end for unfinished records.
    drain: float


@dataclass(slots=True)
class Requests:
    """The results of the requests of one method, each repetition counted as a request."""

    sent: int = 0
    succeeded: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    # Answers 429 and 503 without Retry-After.
    without_retry_after: int = 0
    slowest_seconds: float = 0.0
    # How many answers took less than 2^n ms, by n.
    _milliseconds: Counter[int] = field(default_factory=Counter)

    def answered(self, answer: Answer) -> None:
        """Count an answer, whatever its status."""
        self._milliseconds[int(answer.seconds * 1000).bit_length()] += 1
        self.slowest_seconds = max(self.slowest_seconds, answer.seconds)
        if answer.status == 200:
            self.succeeded += 1
            return
        self.errors[str(answer.status)] += 1
        if answer.status in (429, 503) and answer.retry_after is None:
            self.without_retry_after += 1

    def failed(self, error: RequestError) -> None:
        """Count a request that got no answer."""
        self.errors[error.kind] += 1

    def summary(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        return {
            "sent": self.sent,
            "succeeded": self.succeeded,
            "failed": self.errors.total(),
            "errors": dict(sorted(self.errors.items())),
            "without_retry_after": self.without_retry_after,
            "slowest_seconds": round(self.slowest_seconds, 3),
            "milliseconds_below": {
                1 << bits: self._milliseconds[bits] for bits in sorted(self._milliseconds)
            },
        }


@dataclass(slots=True)
class _Record:
    """An unfinished record: its number, and when (monotonic) it was first sent."""

    number: int
    since: float | None = None


class Load:
    """One run; its counts can be read at any time."""

    def __init__(self, options: Options, run: Run) -> None:
        """Create the ledger's file. Raises OSError."""
        self._options = options
        self._run = run
        self._writer = book.Writer(options.file, run)
        # To be sent at once, and to be sent again as soon as the rate allows it.
        self._ready: asyncio.Queue[_Record] = asyncio.Queue()
        self._again: deque[_Record] = deque()
        self._stop = asyncio.Event()
        self._settled = asyncio.Event()
        self._gets_due: asyncio.Queue[None] = asyncio.Queue()
        self._started = time.monotonic()
        self.posts = Requests()
        self.gets = Requests()
        self.records = 0
        self.given_up = 0
        # Records that were sent once, without a key, and not acknowledged.
        self.abandoned = 0
        self._identifiers: set[str] = set()
        # Id, instant and time of the acknowledgement, of the records whose lines are on the disk.
        self.acknowledged: list[tuple[str, str, float]] = []
        # Sentences about answers that must not occur.
        self.wrong: list[str] = []
        self._open = 0
        self._old = 0

    def stop(self) -> None:
        """Begin no new record, and end once the others are finished."""
        self._stop.set()

    async def run(self) -> None:
        """Run until the duration is over or `stop` is called.

        Raises OSError, in a group, when the ledger cannot be written.
        """
        options = self._options
        lines = [
            Line(options.server, options.timeout)
            for _ in range(options.connections + options.get_connections)
        ]
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._writer.write())
            workers = [group.create_task(self._post_all(line)) for line in lines[: options.connections]]
            if options.get_rate:
                workers += [group.create_task(self._get_all(line)) for line in lines[options.connections :]]
            pacers = [group.create_task(self._pace(options.rate, self._offer))]
            if options.get_rate:
                pacers.append(group.create_task(self._pace(options.get_rate, self._offer_get)))
            try:
                async with asyncio.timeout(options.duration):
                    await self._stop.wait()
            except TimeoutError:
                self._stop.set()
            if self._open:
                try:
                    async with asyncio.timeout(options.drain):
                        await self._settled.wait()
                except TimeoutError:
                    self.given_up += self._open
            self._settled.set()
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, *pacers, return_exceptions=True)
            self._writer.close()
            await writing
        for line in lines:
            line.close()

    def summary(self) -> dict[str, Any]:
        """Return the counts so far as JSON values."""
        return {
            "run": self._run.name,
            "seconds": round(time.monotonic() - self._started, 3),
            "records": self.records,
            "acknowledged": len(self.acknowledged),
            "given_up": self.given_up,
            "abandoned": self.abandoned,
            "wrong": len(self.wrong),
            "post": self.posts.summary(),
            "get": self.gets.summary(),
        }

    async def _pace(self, rate: float, offer: Callable[[], None]) -> None:
        """Call `offer` at `rate` per second until all records are settled."""
        begin, offered = time.monotonic(), 0
        while not self._settled.is_set():
            due = int((time.monotonic() - begin) * rate)
            while offered < due:
                offer()
                offered += 1
            await asyncio.sleep(_TICK_SECONDS)

    def _offer(self) -> None:
        # When all connections are busy, the rate is not made up for later.
        if self._ready.qsize() >= self._options.connections:
            return
        if self._again:
            self._ready.put_nowait(self._again.popleft())
        elif not self._stop.is_set() and self._open <= self._options.rate * _WAITING_SECONDS:
            self._ready.put_nowait(_Record(self.records))
            self.records += 1
            self._open += 1

    def _offer_get(self) -> None:
        if not self._stop.is_set() and self._gets_due.qsize() <= self._options.get_connections:
            self._gets_due.put_nowait(None)

    async def _post_all(self, line: Line) -> None:
        while True:
            record = await self._ready.get()
            await self._post(line, record)

    async def _post(self, line: Line, record: _Record) -> None:
        run, now = self._run, time.monotonic()
        instant = run.instant(record.number)
        if record.since is None:
            record.since = now
        self.posts.sent += 1
        pause = _RETRY_SECONDS
        try:
            answer = await line.ask(
                "POST",
                f"/api/v1/timestamp/{instant}",
                f"Idempotency-Key: {run.key(record.number)}\r\n" if run.keyed else "",
            )
        except RequestError as error:
            self.posts.failed(error)
        else:
            self.posts.answered(answer)
            if answer.status == 200:
                self._accept(record, instant, answer)
                return
            if answer.status not in _TRY_AGAIN:
                self.wrong.append(f"POST {instant} was answered {answer.status}: {_text(answer.body)}")
                self._settle()
                return
            if answer.retry_after is not None:
                pause = min(answer.retry_after, _RETRY_SECONDS_MAX)
        if not run.keyed:
            # It may be recorded: sent again, it would be another record.
            self.abandoned += 1
            self._settle()
            return
        if now - record.since > self._options.give_up:
            self.given_up += 1
            self._settle()
            return
        asyncio.get_running_loop().call_later(pause, self._again.append, record)

    def _accept(self, record: _Record, instant: str, answer: Answer) -> None:
        answered = _member(answer.body, "id")
        if self._run.keyed:
            identifier, expected = self._run.identifier(record.number), "id {}"
        else:
            # One that was never given to another record.
            new = _is_new(answered) and answered not in self._identifiers
            identifier, expected = (answered if new and answered else ""), "a new UUIDv7"
            self._identifiers.add(identifier)
        if not identifier or answered != identifier:
            self.wrong.append(
                f"POST {instant} was answered {_text(answer.body)} instead of {expected.format(identifier)}"
            )
            self._settle()
            return

        def written() -> None:
            self.acknowledged.append((identifier, instant, time.monotonic()))
            self._settle()

        self._writer.append(identifier, instant, written)

    def _settle(self) -> None:
        self._open -= 1
        if not self._open and self._stop.is_set():
            self._settled.set()

    async def _get_all(self, line: Line) -> None:
        while True:
            await self._gets_due.get()
            chosen = self._old_record()
            if chosen is not None:
                await self._get(line, *chosen)

    async def _get(self, line: Line, identifier: str, instant: str) -> None:
        self.gets.sent += 1
        try:
            answer = await line.ask("GET", f"/api/v1/timestamp/{identifier}")
        except RequestError as error:
            self.gets.failed(error)
            return
        self.gets.answered(answer)
        if answer.status == 200 and _member(answer.body, "event_timestamp") != instant:
            self.wrong.append(f"GET {identifier} was answered {_text(answer.body)} instead of {instant}")

    def _old_record(self) -> tuple[str, str] | None:
        before = time.monotonic() - self._options.get_age
        while self._old < len(self.acknowledged) and self.acknowledged[self._old][2] < before:
            self._old += 1
        if not self._old:
            return None
        identifier, instant, _ = self.acknowledged[random.randrange(self._old)]  # noqa: S311 (no secret)
        return identifier, instant


def _member(body: bytes, name: str) -> str | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer.get(name) if isinstance(answer, dict) else None


def _is_new(identifier: str | None) -> bool:
    try:
        return identifier is not None and uuid.UUID(identifier).version == 7
    except ValueError:
        return False


def _text(body: bytes) -> str:
    return body[:300].decode("utf-8", "replace")
