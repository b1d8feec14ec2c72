"""Lookups with a database of the test's own: each gets the record of its own id, or none."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg2
import pytest

from tests.unit.fake_producer import until
from timestamp_service import correlation, settings
from timestamp_service.correlation import Correlation
from timestamp_service.database.connections import AsyncConnection, DeadlineError
from timestamp_service.database.records import Record
from timestamp_service.query.api import PlainTimestamp, QueryBackend
from timestamp_service.query.lane import UnavailableError
from timestamp_service.query.reader import Reader
from timestamp_service.runtime.logs import Log
from timestamp_service.web.reply import Reply

CONFIG = settings.read_query({"SERVER_PORT": "1", "DB_URL": "postgresql://127.0.0.1:1/x", "DB_USERNAME": "x"})
A, B, C = (f"01890a5d-ac96-774b-bcce-b302099a800{digit}" for digit in "123")


class FakeDatabase:
    """Answers lookups from `rows`, in another order than asked for, while it is not `held`."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, str, int, str]] = {}
        self.asked: list[list[str]] = []
        self.opened: list[FakeConnection] = []
        self.released = asyncio.Event()
        self.released.set()
        self.fails = False
        self.error: Exception | None = None
        self.is_down = False
        self.whole = True
        # None: its rows were never counted.
        self.offsets: dict[str, int] | None = {}

    def record(self, *identifiers: str) -> None:
        for identifier in identifiers:
            second = f"2009-09-28 19:03:{int(identifier[-1], 16):02}+00"
            self.rows[identifier] = (identifier, second, 5, "2026-11-25 15:00:00+00")

    async def open(self, _dsn: str) -> "FakeConnection":
        if self.is_down:
            raise psycopg2.OperationalError("connection refused")
        self.opened.append(FakeConnection(self))
        return self.opened[-1]


class FakeConnection:
    """What a lane uses of a connection."""

    def __init__(self, database: FakeDatabase) -> None:
        self.database = database
        self.closed = False

    async def fetch(self, query: str, parameters: Any, _seconds: float) -> list[tuple[Any, ...]]:
        if not query.startswith("EXECUTE"):
            return await self._look(query)
        (wanted,) = parameters
        self.database.asked.append(wanted)
        # A query sees what is there when it begins.
        rows = [self.database.rows[key] for key in reversed(wanted) if key in self.database.rows]
        await self.database.released.wait()
        if self.database.error is not None:
            raise self.database.error
        if self.database.fails:
            raise psycopg2.OperationalError("the server closed the connection")
        return rows

    async def _look(self, query: str) -> list[tuple[Any, ...]]:
        """Answer who looks if the database is whole."""
        if self.database.is_down:
            raise psycopg2.OperationalError("the server closed the connection")
        if "CASE" in query:
            return [(self.database.whole, self.database.offsets)]
        return [(self.database.offsets is not None,)] if "to_regclass" in query else []

    def close(self) -> None:
        self.closed = True


def run(
    monkeypatch: pytest.MonkeyPatch, scenario: Callable[[QueryBackend, Reader, FakeDatabase], Awaitable[None]]
) -> None:
    """Run `scenario` with a query API whose connections work."""

    async def live() -> None:
        database = FakeDatabase()
        monkeypatch.setattr(AsyncConnection, "open", database.open)
        backend = QueryBackend(CONFIG, Log("s", logging.INFO, lambda _line: None))
        await backend.start()
        (projection,) = backend.sources.projections.all
        reader = projection.reader
        await until(lambda: reader.connected == CONFIG.connections and projection.pages.connected)
        await scenario(backend, reader, database)
        await backend.stop()
        assert all(connection.closed for connection in database.opened)

    asyncio.run(asyncio.wait_for(live(), 10))


def identifier_of(record: Record | None) -> str | None:
    return None if record is None else record.identifier


def test_each_lookup_gets_the_record_of_its_own_id(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        database.record(A, C)
        found = await asyncio.gather(*(reader.get(identifier) for identifier in (A, B, C)))
        assert [identifier_of(record) for record in found] == [A, None, C]
        assert found[0] == Record(A, "2009-09-28T19:03:01.000000005Z", "2026-11-25T15:00:00Z")

    run(monkeypatch, scenario)


def test_more_lookups_than_a_query_takes_get_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        many = [f"01890a5d-ac96-774b-bcce-b30209{number:06x}" for number in range(1200)]
        database.record(*many[::2])
        found = await asyncio.gather(*(reader.get(identifier) for identifier in many))
        expected = [identifier if number % 2 == 0 else None for number, identifier in enumerate(many)]
        assert [identifier_of(record) for record in found] == expected
        assert sum(map(len, database.asked)) == 1200
        assert max(map(len, database.asked)) <= 500

    run(monkeypatch, scenario)


def test_a_lookup_is_not_answered_by_a_query_that_began_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        database.released.clear()
        early = asyncio.create_task(reader.get(A))
        await until(lambda: database.asked)
        database.record(A)
        late = asyncio.create_task(reader.get(A))
        await asyncio.sleep(0)
        database.released.set()
        assert identifier_of(await early) is None
        assert identifier_of(await late) == A

    run(monkeypatch, scenario)


def test_one_who_goes_away_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        database.record(A)
        database.released.clear()
        gone, stays = asyncio.create_task(reader.get(A)), asyncio.create_task(reader.get(A))
        await until(lambda: database.asked)
        gone.cancel()
        await asyncio.sleep(0)
        database.released.set()
        assert identifier_of(await stays) == A
        assert database.asked == [[A]]

    run(monkeypatch, scenario)


def test_lookup_is_tried_on_each_connection_once_and_on_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        database.record(A)
        database.fails = True
        with pytest.raises(UnavailableError):
            await reader.get(A)
        assert database.asked == [[A]] * (CONFIG.connections + 1)
        opened = len(database.opened)
        database.fails = False
        await until(lambda: len(database.opened) > opened and reader.connected == CONFIG.connections)
        assert identifier_of(await reader.get(A)) == A

    run(monkeypatch, scenario)


def test_lookups_wait_while_the_database_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        database.record(A, B)
        database.released.clear()
        # On its way when the connection is lost, and again while another one of the same id waits.
        early = asyncio.create_task(reader.get(A))
        await until(lambda: database.asked)
        late = asyncio.create_task(reader.get(A))
        database.is_down = database.fails = True
        database.released.set()
        await until(lambda: not reader.connected)
        during = asyncio.create_task(reader.get(B))
        # Readiness is no lookup: it says at once what is so.
        assert await reader.check() == "database"
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in (early, late, during))
        database.is_down = database.fails = False
        found = await asyncio.gather(early, late, during)
        assert [identifier_of(record) for record in found] == [A, A, B]

    run(monkeypatch, scenario)


def test_lookups_fail_at_once_when_it_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        database.record(A)
        database.is_down = database.fails = True
        begun = asyncio.get_running_loop().time()
        with pytest.raises(UnavailableError):
            await reader.get(A)
        assert 0.4 < asyncio.get_running_loop().time() - begun < 2
        begun = asyncio.get_running_loop().time()
        with pytest.raises(UnavailableError):
            await reader.get(B)
        assert asyncio.get_running_loop().time() - begun < 0.1
        database.is_down = database.fails = False
        await until(lambda: reader.connected)
        assert identifier_of(await reader.get(A)) == A

    monkeypatch.setattr("timestamp_service.query.reader._RESTART_SECONDS", 0.5)
    run(monkeypatch, scenario)


def test_lookups_fail_at_once_when_it_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        database.is_down = True
        database.error = DeadlineError("no answer")
        for _ in range(CONFIG.connections + 1):
            begun = asyncio.get_running_loop().time()
            with pytest.raises(UnavailableError):
                await reader.get(A)
            assert asyncio.get_running_loop().time() - begun < 0.4

    run(monkeypatch, scenario)


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after the databases all the time."""
    monkeypatch.setattr("timestamp_service.query.projection._WATCH_SECONDS", 0.02)
    monkeypatch.setattr("timestamp_service.query.lane._NOT_WHOLE_SECONDS", 0.02)


def test_what_is_not_whole_answers_nothing_at_once_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        database.record(A)
        database.whole = False
        await until(lambda: not reader.connected)
        begun = asyncio.get_running_loop().time()
        with pytest.raises(UnavailableError):
            await reader.get(A)
        assert asyncio.get_running_loop().time() - begun < 0.1
        assert not database.asked
        opened = len(database.opened)
        while len(database.opened) < opened + 6:
            assert not reader.connected
            await asyncio.sleep(0)
        assert await backend.check() == "database is not whole: rebuild it"
        database.whole = True
        await until(lambda: reader.connected)
        assert identifier_of(await reader.get(A)) == A
        assert await backend.check() is None

    look_often(monkeypatch)
    run(monkeypatch, scenario)


def test_a_database_that_was_never_counted_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_backend: QueryBackend, reader: Reader, database: FakeDatabase) -> None:
        database.record(A)
        database.whole = False
        await until(lambda: not reader.connected)
        database.offsets = None
        await until(lambda: reader.connected)
        assert identifier_of(await reader.get(A)) == A

    look_often(monkeypatch)
    run(monkeypatch, scenario)


def test_each_who_waits_gets_the_record_of_its_own_id(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, _reader: Reader, database: FakeDatabase) -> None:
        waiting = backend.sources.waiting
        waits = [asyncio.create_task(waiting.get(identifier, 60)) for identifier in (A, B, C)]
        await until(lambda: waiting.taken == 3)
        database.record(A, C)
        assert identifier_of(await waits[0]) == A
        assert identifier_of(await waits[2]) == C
        assert not waits[1].done()
        # At the end, nobody waits any more.
        backend.stopping()
        assert await waits[1] is None

    run(monkeypatch, scenario)


class PlainRequest:
    """A request of the fast path, with what was answered to it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.instance = f"/api/v1/timestamp/{text}"
        self.correlation = correlation.from_request(None, None)
        self.command_id: str | None = None
        self.replies: list[Reply | None] = []

    def sample(self) -> Correlation:
        return self.correlation

    def send(self, reply: Reply) -> None:
        self.replies.append(reply)

    def use_framework(self) -> None:
        self.replies.append(None)


def test_the_fast_path_answers_each_its_own_record_and_leaves_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(backend: QueryBackend, _reader: Reader, database: FakeDatabase) -> None:
        database.record(A, C)
        requests = [PlainRequest(identifier) for identifier in (A, B, C)]
        assert all(PlainTimestamp(backend).try_handle(request) for request in requests)
        assert not PlainTimestamp(backend).try_handle(PlainRequest("no id"))
        await until(lambda: all(request.replies for request in requests))
        for request in (requests[0], requests[2]):
            (reply,) = request.replies
            assert reply is not None
            assert reply.status == 200
            assert f'{{"id":"{request.text}"'.encode() in reply.body
            assert f'etag: "{request.text}"\r\n' in reply.headers
        assert requests[1].replies == [None]

    run(monkeypatch, scenario)
