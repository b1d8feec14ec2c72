"""Which of several databases is asked: the choice, with databases of the test's own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.unit.fake_producer import until
from tests.unit.test_reader import A, B, FakeConnection, FakeDatabase, identifier_of, look_often
from timestamp_service import settings
from timestamp_service.database.connections import AsyncConnection
from timestamp_service.database.records import Record
from timestamp_service.query import pages, projections, search
from timestamp_service.query.api import QueryBackend
from timestamp_service.query.lane import UnavailableError
from timestamp_service.query.pages import SlowError
from timestamp_service.query.projections import Projections, lacking
from timestamp_service.runtime.logs import Log

HOSTS = ("near", "far")
CONFIG = settings.read_query(
    {
        "SERVER_PORT": "1",
        "DB_URL": " ".join(f"postgresql://{host}/x" for host in HOSTS),
        "DB_USERNAME": "x",
        "DB_CONNECTIONS": "1",
    }
)
# What a fake database answers with all its rows.
PAGE = ("SELECT page", ())


class PagedDatabase(FakeDatabase):
    """A database that answers pages too, and whose answers do not come while it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.pages_asked = 0

    async def open(self, dsn: str) -> FakeConnection:
        await self.thawed.wait()
        await super().open(dsn)
        self.opened[-1] = PagedConnection(self)
        return self.opened[-1]


class PagedConnection(FakeConnection):
    """A connection to it."""

    async def fetch(self, query: str, parameters: object, seconds: float) -> list[tuple[object, ...]]:
        database = self.database
        assert isinstance(database, PagedDatabase)
        # Before each page.
        database.pages_asked += query.startswith("SET")
        await database.thawed.wait()
        if query == PAGE[0]:
            return list(database.rows.values())
        return await super().fetch(query, parameters, seconds)


Scenario = Callable[[QueryBackend, PagedDatabase, PagedDatabase], Awaitable[None]]


def run(monkeypatch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    """Run `scenario` with a query API of two databases that work."""
    look_often(monkeypatch)
    monkeypatch.setattr(projections, "_COMPARE_SECONDS", 0.02)

    async def live() -> None:
        databases = {host: PagedDatabase() for host in HOSTS}

        async def open_one(dsn: str) -> FakeConnection:
            return await next(
                one for host, one in databases.items() if f"//{host}/" in dsn or host in dsn
            ).open(dsn)

        monkeypatch.setattr(AsyncConnection, "open", open_one)
        backend = QueryBackend(CONFIG, Log("s", logging.INFO, lambda _line: None))
        await backend.start()
        await until(lambda: all(works(backend, number) for number in range(2)))
        await scenario(backend, *databases.values())
        for database in databases.values():
            database.thawed.set()
        await backend.stop()
        assert all(connection.closed for database in databases.values() for connection in database.opened)

    asyncio.run(asyncio.wait_for(live(), 20))


def chosen(backend: QueryBackend) -> Projections:
    return backend.sources.projections


def works(backend: QueryBackend, number: int) -> bool:
    one = chosen(backend).all[number]
    return bool(one.watched and one.reader.connected and one.pages.connected)


async def get(backend: QueryBackend, identifier: str) -> str | None:
    return identifier_of(await backend.sources.lookups.get(identifier))


async def page(backend: QueryBackend, mark: str | None = None) -> tuple[Sequence[Record], str | None]:
    return await chosen(backend).select(*PAGE, mark)


def test_the_nearest_is_asked_and_the_others_before_a_record_counts_as_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        near.record(A)
        far.record(A, B)
        assert await get(backend, A) == A
        assert (near.asked, far.asked) == ([[A]], [])
        assert await get(backend, B) == B
        assert (near.asked, far.asked) == ([[A], [B]], [[B]])
        far.rows.clear()
        assert await get(backend, B) is None
        # Not healthy: it has no say.
        far.is_down = far.fails = True
        await until(lambda: not chosen(backend).all[1].watched)
        assert await get(backend, B) is None

    run(monkeypatch, scenario)


def test_another_one_answers_at_once_where_the_first_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        far.record(A)
        near.is_down = near.fails = True
        begun = asyncio.get_running_loop().time()
        assert await get(backend, A) == A
        assert asyncio.get_running_loop().time() - begun < 0.2
        assert await backend.check() is None
        far.is_down = far.fails = True
        with pytest.raises(UnavailableError):
            await get(backend, A)
        await until(lambda: not works(backend, 1))
        with pytest.raises(UnavailableError):
            await get(backend, A)
        assert await backend.check() == "database"
        near.is_down = near.fails = False
        near.record(B)
        await until(lambda: works(backend, 0))
        assert await get(backend, B) == B

    run(monkeypatch, scenario)


def test_a_frozen_one_costs_a_hedge_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        loop = asyncio.get_running_loop()
        far.record(A)
        near.thawed.clear()
        begun = loop.time()
        assert await get(backend, A) == A
        assert 0.05 <= loop.time() - begun < 0.5
        # From now on it is asked last.
        begun = loop.time()
        assert await get(backend, A) == A
        assert loop.time() - begun < 0.05
        assert chosen(backend).all[0].late
        # It may have the record: it is waited for, once.
        begun = loop.time()
        assert await get(backend, B) is None
        assert 0.05 <= loop.time() - begun < 1
        assert chosen(backend).all[0].silent
        begun = loop.time()
        assert await get(backend, B) is None
        assert loop.time() - begun < 0.05
        near.thawed.set()
        near.record(B)
        await until(lambda: not chosen(backend).all[0].late)
        assert await get(backend, B) == B
        assert len(far.asked) == 4

    monkeypatch.setattr(search, "_HEDGE_SECONDS", 0.1)
    monkeypatch.setattr(search, "_PATIENCE_SECONDS", 0.1)
    run(monkeypatch, scenario)


def test_the_first_may_still_answer_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        near.record(A)
        near.released.clear()
        far.released.clear()
        lookup = asyncio.ensure_future(get(backend, A))
        await until(lambda: far.asked)
        near.released.set()
        assert await lookup == A
        far.released.set()

    monkeypatch.setattr(search, "_HEDGE_SECONDS", 0.05)
    run(monkeypatch, scenario)


def test_one_that_is_not_whole_answers_nothing_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        near.record(A)
        far.record(B)
        near.whole = False
        await until(lambda: not chosen(backend).all[0].reader.connected)
        await until(lambda: not chosen(backend).all[0].pages.connected)
        assert await get(backend, A) is None
        assert not near.asked
        assert [record.identifier for record in (await page(backend))[0]] == [B]
        far.whole = False
        await until(lambda: not (works(backend, 0) or works(backend, 1)))
        with pytest.raises(UnavailableError):
            await get(backend, B)
        with pytest.raises(UnavailableError):
            await page(backend)
        await until(lambda: chosen(backend).all[0].reader.missing != "database")
        assert await backend.check() == "database is not whole: rebuild it"
        near.whole = True
        await until(lambda: works(backend, 0))
        assert await get(backend, A) == A
        assert await backend.check() is None

    run(monkeypatch, scenario)


def test_a_wait_ends_with_the_first_that_has_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        waiting = backend.sources.waiting
        waits = [asyncio.create_task(waiting.get(identifier, 60)) for identifier in (A, B)]
        await until(lambda: waiting.taken == 2)
        far.record(B)
        assert identifier_of(await waits[1]) == B
        near.record(A)
        assert identifier_of(await waits[0]) == A

    run(monkeypatch, scenario)


def test_one_that_is_behind_is_asked_last_and_for_no_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        near.record(A)
        far.record(A, B)
        near.offsets, far.offsets = {"0": 5, "1": 7}, {"0": 5, "1": 8}
        (first, second) = chosen(backend).all
        await until(lambda: first.behind)
        assert (first.lacks, second.lacks, second.behind) == (1, 0, False)
        assert await get(backend, A) == A
        assert not near.asked
        records, mark = await page(backend, "1")
        assert len(records) == 2
        # Nor one of a chain that began there.
        assert chosen(backend)._marks == {"far:5432/x": "0", "near:5432/x": "1"}
        assert mark == "0"
        # But better than none.
        far.is_down = far.fails = True
        await until(lambda: not works(backend, 1))
        assert await get(backend, A) == A
        assert (await page(backend))[1] == "1"
        far.is_down = far.fails = False
        near.offsets = {"0": 5, "1": 8}
        await until(lambda: works(backend, 1) and not first.behind)
        assert (await page(backend))[1] == "1"

    run(monkeypatch, scenario)


def test_a_chain_of_pages_stays_with_one_while_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        near.record(A)
        far.record(A)
        assert (await page(backend))[1] == "1"
        assert (await page(backend, "0"))[1] == "0"
        assert (await page(backend, "7"))[1] == "1"
        near.thawed.clear()
        begun = asyncio.get_running_loop().time()
        assert (await page(backend, "1"))[1] == "0"
        assert asyncio.get_running_loop().time() - begun < 0.5
        near.thawed.set()
        far.is_down = far.fails = True
        await until(lambda: not works(backend, 1) and works(backend, 0))
        assert (await page(backend, "0"))[1] == "1"

    monkeypatch.setattr(projections, "_HEDGE_SECONDS", 0.05)
    run(monkeypatch, scenario)


def test_a_page_that_all_are_slow_with_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        near.thawed.clear()
        far.thawed.clear()
        with pytest.raises(SlowError):
            await page(backend)
        assert (near.pages_asked, far.pages_asked) == (1, 1)

    monkeypatch.setattr(pages, "_PAGE_SECONDS", 0.2)
    monkeypatch.setattr(projections, "_HEDGE_SECONDS", 0.05)
    run(monkeypatch, scenario)


@pytest.mark.parametrize(
    ("offsets", "others", "lacks"),
    [
        ({"0": 5, "1": 7}, {"0": 5, "1": 7}, 0),
        ({"0": 5, "1": 7}, {"0": 6, "1": 9}, 3),
        # What it has more of one makes up for nothing.
        ({"0": 9, "1": 7}, {"0": 5, "1": 9}, 2),
        ({"0": 5}, {"0": 5, "1": 9}, 9),
        # It had rows before they were counted.
        ({"-1": 0, "0": 5}, {"0": 6, "1": 9}, 1),
        ({"0": 5}, {"-1": 0, "0": 5}, 0),
        (None, {"0": 5}, 0),
    ],
)
def test_what_one_lacks(offsets: dict[str, int] | None, others: dict[str, int], lacks: int) -> None:
    assert lacking(offsets, others) == lacks


def test_behind_is_who_lacks_what_another_had_a_while_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: QueryBackend, near: PagedDatabase, far: PagedDatabase) -> None:
        choice = chosen(backend)
        (first, second) = choice.all
        choice._task.cancel()
        choice._reached.clear()

        async def reach(offset: int, other: int) -> None:
            near.offsets, far.offsets = {"0": offset}, {"0": other}
            await until(lambda: first.offsets == near.offsets and second.offsets == far.offsets)

        await reach(10, 10)
        choice.compare(100.0)
        await reach(10, 500)
        choice.compare(105.0)
        assert (first.lacks, first.behind) == (490, False)
        # In time.
        await reach(500, 900)
        choice.compare(112.0)
        choice.compare(115.0)
        assert (first.lacks, first.behind) == (400, False)
        # Not in time.
        choice.compare(122.5)
        assert (first.lacks, first.behind) == (400, True)
        await reach(900, 900)
        choice.compare(123.0)
        assert (first.lacks, first.behind) == (0, False)

    run(monkeypatch, scenario)


def test_one_whose_watch_was_just_lost_still_answers_where_no_other_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after its restart: the connection that looks after it learns of that last."""

    async def scenario(backend: QueryBackend, near: PagedDatabase, _: PagedDatabase) -> None:
        near.record(A)
        for one in chosen(backend).all:
            one._lane.connected = False
        assert await get(backend, A) == A
        # It is known not to be whole.
        for one in chosen(backend).all:
            one._lane.connected, one._lane.missing = False, "database is not whole: rebuild it"
        with pytest.raises(UnavailableError):
            await backend.sources.lookups.get(A)

    run(monkeypatch, scenario)
