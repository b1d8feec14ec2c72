"""Checking the records of a ledger: through the query API, or in the table itself."""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from urllib.parse import quote

import psycopg2

from timestamp_service import instants
from timestamp_service.database import connections
from timestamp_service.database.records import COLUMNS, Record
from timestamp_service.database.schema import TABLE
from timestamp_service.ledger.book import Book
from timestamp_service.ledger.client import Line, RequestError, Server
from timestamp_service.ledger.judge import Verdict, judge
from timestamp_service.settings import Database

_PAGE = 1000
_PAUSE_SECONDS = 0.5
_TIMEOUT_SECONDS = 40.0
_FETCH_ROWS = 5_000
_APPLICATION = "timestamp-ledger"

# Without nanoseconds, as the window begins and ends on whole seconds.
_SELECT = f"""
SELECT {COLUMNS} FROM {TABLE} WHERE event_timestamp >= %s::timestamptz AND event_timestamp < %s::timestamptz
"""  # noqa: S608 (the table's name is our own)


class CheckError(Exception):
    """The records could not be read; the message says why."""


async def check_api(server: Server, book: Book, wait: float, sample: int | None, lines: int) -> Verdict:
    """Judge by the query API: all pages of the run's window, then each id, or `sample` of them.

    A missing record may arrive within `wait` seconds, as the consumer may be behind. Raises CheckError.
    """
    pages = Line(server, _TIMEOUT_SECONDS)
    deadline = time.monotonic() + wait
    while True:
        try:
            rows = await _rows(pages, book)
        except (RequestError, CheckError) as error:
            if time.monotonic() > deadline:
                raise CheckError(f"GET /api/v1/timestamps: {error}") from None
            await asyncio.sleep(_PAUSE_SECONDS)
            continue
        verdict = judge(book, rows)
        if not verdict.lost or time.monotonic() > deadline:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    pages.close()
    listed = {row.identifier: row for row in rows}
    chosen = list(book.acknowledged)
    if sample is not None and sample < len(chosen):
        chosen = random.sample(chosen, sample)
    queue = iter(chosen)

    async def ask_each() -> None:
        line = Line(server, _TIMEOUT_SECONDS)
        for identifier in queue:
            problem = await _read_one(line, identifier, book.acknowledged[identifier], listed)
            if problem is not None:
                verdict.misread.append(problem)
        line.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(lines):
            group.create_task(ask_each())
    return verdict


async def _rows(line: Line, book: Book) -> list[Record]:
    start, end = book.run.window()
    rows: list[Record] = []
    path = f"/api/v1/timestamps?from={start}&to={end}&limit={_PAGE}"
    following = ""
    while True:
        answer = await line.ask("GET", path + following)
        if answer.status != 200:
            raise CheckError(f"status {answer.status}")
        page = json.loads(answer.body)
        rows += [Record(one["id"], one["event_timestamp"], one["created_at"]) for one in page["items"]]
        if page["next"] is None:
            return rows
        following = f"&cursor={quote(page['next'])}"


async def _read_one(line: Line, identifier: str, instant: str, listed: dict[str, Record]) -> str | None:
    """Return what is wrong with the answer to a GET of one id, or None."""
    try:
        answer = await line.ask("GET", f"/api/v1/timestamp/{identifier}")
    except RequestError as error:
        return f"{identifier} cannot be read: {error}"
    if answer.status != 200:
        # If it is missing in the pages too, it counts as lost already.
        return f"{identifier} is answered {answer.status}" if identifier in listed else None
    one = json.loads(answer.body)
    if one["id"] != identifier or one["command_id"] != identifier or one["event_timestamp"] != instant:
        return f"{identifier} {instant} is answered as {answer.body.decode('utf-8', 'replace')}"
    row = listed.get(identifier)
    if row is None:
        return f"{identifier} is answered, and not in the pages"
    if one["created_at"] != row.created_at:
        return f"{identifier} was created at {one['created_at']}, in the pages at {row.created_at}"
    return None


def check_table(database: Database, book: Book, wait: float) -> Verdict:
    """Judge by the table. A missing record may arrive within `wait` seconds. Raises CheckError."""
    deadline = time.monotonic() + wait
    while True:
        try:
            verdict = judge(book, _read_table(database, book))
        except psycopg2.Error as error:
            if time.monotonic() > deadline:
                raise CheckError(str(error).strip()) from None
        else:
            if not verdict.lost or time.monotonic() > deadline:
                return verdict
        time.sleep(_PAUSE_SECONDS)


def _read_table(database: Database, book: Book) -> Iterator[Record]:
    connection = psycopg2.connect(connections.dsn(database, _APPLICATION))
    try:
        with connection.cursor("ledger") as cursor:
            cursor.itersize = _FETCH_ROWS
            cursor.execute(_SELECT, tuple(instants.to_columns(one)[0] for one in book.run.window()))
            row: Sequence[str | int]
            for row in cursor:
                identifier, timestamp, nanoseconds, created_at = row
                yield Record.from_row(str(identifier), str(timestamp), int(nanoseconds), str(created_at))
    finally:
        connection.close()
