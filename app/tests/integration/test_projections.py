"""Two databases on two servers, each filled by a consumer group of its own: what readers notice of faults."""

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from tests.integration.postgres import Postgres
from tests.integration.processes import serving, until
from tests.integration.service import Answer, Running, Service, World
from tests.integration.test_bulk import PATH, bulk, instants_from
from tests.integration.test_metrics import value
from timestamp_service.database.schema import COUNTS, TABLE
from timestamp_service.identifiers import new

pytestmark = pytest.mark.integration

NOT_WHOLE = "The database is not whole: rebuild it. Try again shortly."


@pytest.fixture(scope="session")
def second_postgres(workspace: Path) -> Iterator[Postgres]:
    """Another server."""
    with serving(Postgres, workspace / "second-postgres") as postgres:
        yield postgres


@dataclass(frozen=True)
class Both(Running):
    """A world, and the processes beside it that fill a second database from the same log."""

    second: World
    second_consumer: Service

    @property
    def worlds(self) -> tuple[World, World]:
        """Both, the nearest first."""
        return self.world, self.second

    def everywhere(self, count: int) -> None:
        """Wait until both databases have so many rows."""
        for world in self.worlds:
            until("all rows are written", lambda world=world: world.row_count() == count)  # type: ignore[misc]

    def healthy(self, world: World) -> bool:
        """Tell what the metric says."""
        return value(self.query, "timestamp_query_projection_healthy", projection=name(world)) == 1

    def fresh(self, identifier: str) -> Answer:
        """Read a record that nobody has to wait for."""
        return self.get(identifier, {"Prefer": "wait=0"})


def name(world: World) -> str:
    """Return what the metrics call the world's database."""
    parts = parse_dsn(world.postgres.url(world.database))
    return f"{parts['host']}:{parts['port']}/{parts['dbname']}"


@pytest.fixture
def both(world: World, second_postgres: Postgres, tmp_path: Path) -> Iterator[Both]:
    """All processes. Both servers run again afterwards."""
    folder = tmp_path / "second"
    folder.mkdir()
    second = World(world.database, world.kafka, second_postgres, folder)
    second.make_database()
    # Its name is that of the first one: it reads the same topic, in a group of its own.
    second.group += "-second"
    urls = " ".join(one.postgres.url(one.database) for one in (world, second))
    command, consumer, second_consumer = world.start_command(), start(world), start(second)
    query = world.start_query(DB_URL=urls)
    running = Both(world, command, query, consumer, second, second_consumer)
    for service in (command, consumer, second_consumer, query):
        service.wait_until_ready()
    for one in running.worlds:
        until("both are healthy", lambda one=one: running.healthy(one))  # type: ignore[misc]
    yield running
    second.end()
    for server in (world.postgres, second_postgres):
        if server.process.running():
            server.thaw()
        else:
            server.start()
    second_postgres.run("postgres", f"DROP DATABASE {second.database} WITH (FORCE)")


def start(world: World) -> Service:
    return world.start_consumer(KAFKA_GROUP_INSTANCE_ID="one")


def timed(answer: Answer, since: float, seconds: float) -> Answer:
    """Return an answer that came in time."""
    assert time.monotonic() - since < seconds
    return answer


def test_the_first_dies_and_comes_back(both: Both, postgres: Postgres) -> None:
    posted = [both.post() for _ in range(20)]
    both.everywhere(20)
    postgres.process.send(signal.SIGKILL)
    postgres.process.wait()
    for identifier in posted:
        since = time.monotonic()
        assert timed(both.get(identifier), since, 1).status == 200
    assert both.query.status("/ready") == 200
    assert both.fresh(new()).status == 404
    # What comes now can be read as soon as ever.
    for _ in range(5):
        identifier = both.post()
        assert both.get(identifier, {"Prefer": "wait=10"}).status == 200
    assert both.query.ask("GET", f"{PATH}?limit=100").json()["next"] is None
    assert len(both.query.ask("GET", f"{PATH}?limit=100").json()["items"]) == 25
    until("it does not count as healthy", lambda: not both.healthy(both.world))

    postgres.start()

    both.everywhere(25)
    until("it is healthy again", lambda: both.healthy(both.world))
    # It alone is enough again.
    both.second.postgres.stop()
    until("the other one does not count", lambda: not both.healthy(both.second))
    assert [both.get(identifier).status for identifier in posted] == [200] * len(posted)


def test_the_first_freezes(both: Both, postgres: Postgres) -> None:
    posted = [both.post() for _ in range(50)]
    both.everywhere(50)
    postgres.freeze()
    since = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(both.get, posted))
    assert {answer.status for answer in answers} == {200}
    assert time.monotonic() - since < 3
    # Absent is what the other one has not, once the first one is not waited for any more.
    since = time.monotonic()
    assert timed(both.fresh(new()), since, 3).status == 404
    since = time.monotonic()
    assert len(timed(both.query.ask("GET", f"{PATH}?limit=100"), since, 3).json()["items"]) == 50
    # A record that comes meanwhile.
    identifier = both.post()
    assert both.get(identifier, {"Prefer": "wait=10"}).status == 200
    until("it does not count as healthy", lambda: not both.healthy(both.world))
    since = time.monotonic()
    assert [both.get(identifier).status for identifier in posted] == [200] * len(posted)
    assert time.monotonic() - since < 3

    postgres.thaw()

    both.everywhere(51)
    until("it is healthy again", lambda: both.healthy(both.world))
    assert both.query.status("/ready") == 200


@pytest.mark.parametrize(
    "mistake", ["TRUNCATE {table}", "DROP TABLE {table}", "DELETE FROM {table} WHERE id = '{id}'"]
)
def test_rows_are_lost_by_mistake(both: Both, mistake: str) -> None:
    posted = [both.post() for _ in range(20)]
    both.everywhere(20)
    both.world.postgres.run(both.world.database, mistake.format(table=TABLE, id=posted[0]))
    until("it does not count as healthy", lambda: not both.healthy(both.world))
    # It goes on, and is not behind.
    posted += [both.post() for _ in range(20)]
    until("the other one has all", lambda: both.second.row_count() == 40)
    until("the first one has the new ones", lambda: both.world.rows_so_far() >= 20)
    time.sleep(3)
    assert not both.healthy(both.world)
    assert [both.get(identifier).status for identifier in posted] == [200] * len(posted)
    assert len(both.query.ask("GET", f"{PATH}?limit=100").json()["items"]) == 40
    assert both.query.status("/ready") == 200
    # Nobody else has the records: no answer is better than a wrong one.
    both.second.postgres.stop()
    until("nobody is ready", lambda: both.query.status("/ready") == 503)
    for path in (f"/api/v1/timestamp/{posted[0]}", f"/api/v1/timestamp/{posted[-1]}", f"{PATH}?limit=1"):
        assert both.query.ask("GET", path).status == 503
    assert both.query.ask("GET", "/ready").json()["detail"] == NOT_WHOLE

    rebuild = both.world.start_rebuild()
    assert rebuild.process.wait(60) == 0, rebuild.process.tail()

    until("it is healthy again", lambda: both.healthy(both.world))
    both.query.wait_until_ready()
    assert [both.get(identifier).status for identifier in posted] == [200] * len(posted)


def test_a_database_that_was_dropped_and_made_anew_is_not_whole(both: Both) -> None:
    posted = [both.post() for _ in range(50)]
    both.everywhere(50)
    both.world.postgres.run("postgres", f"DROP DATABASE {both.world.database} WITH (FORCE)")
    both.world.make_database()
    # Records of partitions that had some before: it begins in the middle.
    posted += [both.post() for _ in range(50)]
    until("the consumer goes on", lambda: both.world.rows_so_far() > 0, 60)
    until("the other one has all", lambda: both.second.row_count() == 100)
    until("it does not count as healthy", lambda: not both.healthy(both.world))
    assert [both.get(identifier).status for identifier in posted] == [200] * len(posted)


def test_one_that_is_behind_answers_what_it_has_and_no_range(both: Both) -> None:
    old = both.post("2009-09-28T19:03:12Z")
    both.everywhere(1)
    assert both.consumer.process.terminate() == 0
    later = [both.post() for _ in range(10)]
    until("the other one has all", lambda: both.second.row_count() == 11)
    # A record that only the second one has.
    assert all(both.fresh(identifier).status == 200 for identifier in later)
    assert both.get(old).status == 200
    behind = "timestamp_query_projection_behind_messages"
    until("it is behind", lambda: value(both.query, behind, projection=name(both.world)) == 10)
    until(
        "ranges come from the other one",
        lambda: len(both.query.ask("GET", f"{PATH}?limit=100").json()["items"]) == 11,
    )
    # It is better than none.
    both.second.postgres.stop()
    until("the other one does not count", lambda: not both.healthy(both.second))
    assert both.get(old).status == 200
    assert len(both.query.ask("GET", f"{PATH}?limit=100").json()["items"]) == 1
    start(both.world).wait_until_ready()
    until("it has caught up", lambda: both.world.row_count() == 11)
    assert all(both.fresh(identifier).status == 200 for identifier in later)


def test_a_chain_of_pages_goes_on_when_its_database_dies(both: Both, postgres: Postgres) -> None:
    sent = instants_from(datetime(1850, 1, 1, tzinfo=UTC), 40)
    bulk(both, json.dumps(sent).encode())
    both.everywhere(40)
    seen: list[str] = []
    following: str | None = ""

    def next_page() -> bool:
        nonlocal following
        answer = both.query.ask("GET", f"{PATH}?limit=5&cursor={following}")
        if answer.status == 503:
            return False
        seen.extend(item["event_timestamp"] for item in answer.json()["items"])
        following = answer.json()["next"]
        return True

    while following is not None:
        # On a busy machine the first page of a server that has just started may be late.
        until("the page is there", next_page)
        if len(seen) == 10:
            postgres.stop()
        if len(seen) == 25:
            postgres.start()
            until("it is healthy again", lambda: both.healthy(both.world))
            both.second.postgres.freeze()
    assert seen == sent


def test_both_are_away_and_come_back(both: Both, postgres: Postgres) -> None:
    posted = [both.post() for _ in range(5)]
    both.everywhere(5)
    postgres.stop()
    both.second.postgres.stop()
    since = time.monotonic()
    answer = timed(both.get(posted[0]), since, 3)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "127.0.0.1" not in answer.body.decode()
    assert both.query.ask("GET", f"{PATH}?limit=1").status == 503
    assert "database does not answer" in both.query.ask("GET", "/ready").json()["detail"]
    assert both.query.status("/health") == 200

    both.second.postgres.start()
    both.query.wait_until_ready()
    assert [both.get(identifier).status for identifier in posted] == [200] * len(posted)
    postgres.start()
    until("both are healthy", lambda: both.healthy(both.world))


def test_a_wait_ends_with_the_first_that_has_the_record(both: Both) -> None:
    assert both.consumer.process.terminate() == 0
    for _ in range(5):
        since = time.monotonic()
        assert timed(both.get(both.post(), {"Prefer": "wait=20"}), since, 5).status == 200
    assert both.world.row_count() == 0


def test_one_alone_that_lost_its_rows_answers_no_404(running: Running) -> None:
    world = running.world
    posted = [running.post() for _ in range(5)]
    until("they can be read", lambda: all(running.get(identifier).status == 200 for identifier in posted))
    world.postgres.run(world.database, f"TRUNCATE {TABLE}")
    until("it is not ready", lambda: running.query.status("/ready") == 503)
    assert running.query.ask("GET", "/ready").json()["detail"] == NOT_WHOLE
    since = time.monotonic()
    assert timed(running.get(posted[0]), since, 1).status == 503
    assert running.query.ask("GET", f"{PATH}?limit=1").status == 503

    rebuild = world.start_rebuild()
    assert rebuild.process.wait(60) == 0, rebuild.process.tail()

    running.query.wait_until_ready()
    assert all(running.get(identifier).status == 200 for identifier in posted)
    # A large one is judged by its size.
    world.postgres.run(world.database, f"UPDATE {COUNTS} SET records = 1000000 WHERE partition = 0")  # noqa: S608
    until("it is not ready", lambda: running.query.status("/ready") == 503)
    world.postgres.run(world.database, f"UPDATE {COUNTS} SET records = 0 WHERE partition = 0")  # noqa: S608
    running.query.wait_until_ready()


def test_a_database_from_before_is_read(running: Running) -> None:
    world = running.world
    identifier = running.post()
    until("it can be read", lambda: running.get(identifier).status == 200)
    world.postgres.run(world.database, f"ALTER TABLE {COUNTS} RENAME TO kept")
    try:
        query = world.start_query()
        query.wait_until_ready()
        assert query.ask("GET", f"/api/v1/timestamp/{identifier}").status == 200
    finally:
        world.postgres.run(
            world.database, f"DROP TABLE IF EXISTS {COUNTS}; ALTER TABLE kept RENAME TO {COUNTS}"
        )
