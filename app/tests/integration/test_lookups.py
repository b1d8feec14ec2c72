"""How lookups become queries: those that come while one is on its way go together."""

import asyncio
import time

import pytest

from tests.integration.processes import until
from tests.integration.service import World
from tests.integration.test_rebuild import session
from timestamp_service import settings
from timestamp_service.database.schema import TABLE
from timestamp_service.identifiers import new
from timestamp_service.query import reader
from timestamp_service.query.pages import Pages, SlowError
from timestamp_service.query.reader import Reader
from timestamp_service.runtime.logs import Log

pytestmark = pytest.mark.integration

_HOLD_SECONDS = 0.3


def asked(world: World) -> list[str]:
    """Return the lookups that the server has been asked for and not answered, the oldest first."""
    rows = world.postgres.run(
        "postgres",
        "SELECT query FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock' "
        "ORDER BY query_start",
        (world.database,),
    )
    return [query for (query,) in rows]


def reading_settings(world: World) -> settings.Query:
    """Return the settings of the query API, once the consumer has created the table."""
    consumer = world.start_consumer()
    consumer.wait_until_ready()
    consumer.process.terminate()
    return settings.read_query(
        {**world.database_settings("timestamp_query"), "SERVER_PORT": "1", "DB_CONNECTIONS": "2"}
    )


def test_lookups_are_held_while_a_query_is_on_its_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_HOLD_SECONDS", _HOLD_SECONDS)
    # The deadlines have their own tests, and the server is held up here.
    monkeypatch.setattr(reader, "_QUERY_SECONDS", 30.0)
    asyncio.run(_hold(world, reading_settings(world)))


async def _hold(world: World, query: settings.Query) -> None:
    reading = Reader(query.databases[0], query.connections, Log("test", 50))
    first, second, third, fourth = (new() for _ in range(4))

    async def come(count: int) -> None:
        await asyncio.to_thread(until, f"{count} queries wait", lambda: len(asked(world)) == count, 10)

    try:
        await asyncio.to_thread(until, "both have connected", lambda: reading.connected == 2, 10)
        with session(world) as holder:
            holder.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
            lookups = [reading.look_up(first)]
            await come(1)
            lookups.append(reading.look_up(second))
            for _ in range(20):
                await asyncio.sleep(0)
            lookups.append(reading.look_up(third))
            # The other connection asks once they have waited for long enough, and for both.
            await come(2)
            alone, together = asked(world)
            assert first in alone
            assert second in together
            assert third in together
            lookups.append(reading.look_up(fourth))
        # Whoever is answered first asks for what has come meanwhile.
        assert await asyncio.wait_for(asyncio.gather(*lookups), 10) == [None] * 4
    finally:
        await reading.close()


_PID = "SELECT pg_backend_pid()::text, '2009-09-28 19:03:12+00', 0, '2009-09-28 19:03:12+00'"
_SLOW = f"{_PID} FROM pg_sleep(20)"


def test_slow_pages_hold_up_no_lookup_and_keep_their_connection(world: World) -> None:
    query = reading_settings(world)

    async def scenario() -> None:
        log = Log("test", 50)
        (database,) = query.databases
        reading, pages = Reader(database, query.connections, log), Pages(database, log)

        async def page(sql: str) -> str | None:
            """Return the process of the server that answered, or None where it was too slow."""
            try:
                (record,) = await pages.select(sql, ())
            except SlowError:
                return None
            return record.identifier

        try:
            await asyncio.to_thread(
                until, "all have connected", lambda: reading.connected and pages.connected, 10
            )
            before = await page(_PID)
            started = time.monotonic()
            # Two at once, and one behind them: it does not come to its turn in time.
            slow = [asyncio.create_task(page(sql)) for sql in (_SLOW, _SLOW, _PID)]
            while not all(task.done() for task in slow):
                asked_at = time.monotonic()
                assert await reading.get(new()) is None
                assert time.monotonic() - asked_at < 1
                await asyncio.sleep(0.01)
            assert await asyncio.gather(*slow) == [None, None, None]
            assert time.monotonic() - started < 10
            assert before == await page(_PID)
        finally:
            await pages.close()
            await reading.close()

    asyncio.run(scenario())
