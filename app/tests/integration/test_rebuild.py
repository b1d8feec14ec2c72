"""The rebuild: the table is recreated from the log and proved, while the service goes on."""

import hashlib
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from confluent_kafka import TopicPartition

from tests.integration.postgres import PASSWORDS
from tests.integration.processes import until
from tests.integration.service import Running, Service, World
from tests.integration.test_consumer import BAD, Message, command, start
from timestamp_service import instants
from timestamp_service.database.schema import COUNTS, TABLE
from timestamp_service.rebuild.table import NEW

pytestmark = pytest.mark.integration

Session = psycopg2.extensions.cursor


def rebuild(world: World, **settings: str) -> dict[str, Any]:
    """Rebuild, which must succeed, and return what its last line says."""
    done = world.start_rebuild(**settings)
    assert done.process.wait(60) == 0, done.process.tail()
    assert tables(world) == {TABLE}
    line: dict[str, Any]
    (line,) = done.events("rebuilt")
    assert line["checksum_log"] == line["checksum_table"]
    assert line["messages"] == line["rows"] + line["duplicates"] + line["dead_letters"]
    return line


def refusal(world: World, process: Service) -> str:
    """Wait for the end of a rebuild that must fail without a trace, and return why it did."""
    assert process.process.wait(60) == 1, process.process.tail()
    assert tables(world) == {TABLE}
    (line,) = process.events("rebuild_failed")
    message: str = line["message"]
    return message


def tables(world: World) -> set[str]:
    found = world.postgres.run(world.database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in found} - {COUNTS}


def count(world: World, table: str) -> int:
    found: int = world.postgres.run(world.database, f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608
    return found


def objects(world: World) -> list[tuple[object, ...]]:
    """Return all that belongs to the table, with names, definitions, owner and rights."""
    return world.postgres.run(
        world.database,
        """
        SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = 'timestamp_records'::regclass
        UNION ALL SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'timestamp_records'
        UNION ALL SELECT relowner::regrole::text, coalesce(relacl::text, '') || coalesce(reloptions::text, '')
        FROM pg_class WHERE oid = 'timestamp_records'::regclass
        UNION ALL SELECT attname, attacl::text FROM pg_attribute
        WHERE attrelid = 'timestamp_records'::regclass AND attacl IS NOT NULL
        ORDER BY 1, 2
        """,
    )


def checksum(rows: dict[str, tuple[str, int, str]]) -> str:
    """Return the checksum as docs/rebuild.md defines it."""
    total = 0
    for identifier, (event, nanoseconds, created) in rows.items():
        values = identifier, instants.from_columns(event, nanoseconds), instants.from_columns(created, 0)
        digest = hashlib.sha256("\n".join(values).encode()).digest()
        total += int.from_bytes(digest[:8], "big", signed=True)
    return f"{total % 2**64:016x}"


@contextmanager
def session(world: World) -> Iterator[Session]:
    """Give a superuser's open transaction, which is rolled back at the end."""
    connection = psycopg2.connect(
        host="127.0.0.1",
        port=world.postgres.port,
        dbname=world.database,
        user="postgres",
        password=PASSWORDS["postgres"],
    )
    try:
        yield connection.cursor()
    finally:
        connection.close()


def waiting(world: World, lock: str) -> bool:
    """Tell whether somebody waits for a lock of that kind."""
    query = "SELECT count(*) FROM pg_locks WHERE mode = %s AND NOT granted"
    return bool(world.postgres.run("postgres", query, (lock,))[0][0])


@contextmanager
def held_before_the_swap(world: World, **settings: str) -> Iterator[tuple[Service, Session]]:
    """Give a rebuild that has loaded everything and cannot swap, and the session that keeps it from that."""
    with session(world) as holder:
        holder.execute(f"LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE")
        process = world.start_rebuild(**settings)

        def waits() -> bool:
            process.process.check_running()
            return waiting(world, "ShareRowExclusiveLock")

        until("the rebuild waits for the writers", waits)
        yield process, holder


def mixed(count: int) -> list[Message]:
    """Return messages of which some have the same id, with instants of all forms."""
    return [
        command(number % (count * 2 // 3), f"{number % 9000 + 1:04d}-02-03T04:05:06.{number:09d}Z")
        for number in range(count)
    ]


def test_the_same_rows_come_back(world: World) -> None:
    good = mixed(3000)
    world.produce([*good[:1500], *(message for message, _ in BAD), *good[1500:]])
    start(world)
    until("all is written", lambda: sum(world.committed().values()) == 3000 + len(BAD))
    rows, kept = world.rows(), objects(world)
    assert len(rows) == 2000
    world.postgres.run(world.database, f"TRUNCATE {TABLE}")

    line = rebuild(world)

    assert world.rows() == rows
    assert objects(world) == kept
    assert line["messages"] == 3000 + len(BAD)
    assert (line["rows"], line["duplicates"], line["dead_letters"]) == (2000, 1000, len(BAD))
    assert line["checksum_table"] == checksum(rows)
    # And over what it has made itself.
    assert rebuild(world)["checksum_table"] == line["checksum_table"]
    assert world.rows() == rows
    assert objects(world) == kept


def test_an_empty_log_and_a_database_that_was_dropped(bare_world: World) -> None:
    world = bare_world
    world.make_topics()
    world.make_database()
    assert rebuild(world)["messages"] == 0
    world.produce([command(number) for number in range(700)])
    consumer = start(world)
    until("all is written", lambda: world.row_count() == 700)
    rows = world.rows()
    world.postgres.run("postgres", f"DROP DATABASE {world.database} WITH (FORCE)")
    world.postgres.make_database(world.database)

    assert rebuild(world)["rows"] == 700

    assert world.rows() == rows
    # The consumer, whose places in the log stayed, goes on.
    world.produce([command(number) for number in range(700, 800)])
    until("the consumer writes on", lambda: world.row_count() == 800, 60)
    consumer.process.check_running()


def test_the_service_goes_on_meanwhile(running: Running) -> None:
    world = running.world
    old = [running.post(f"2009-09-28T19:03:12.{number}Z") for number in range(1, 60)]
    until("all is written", lambda: world.row_count() >= len(old))
    posted: list[str] = []
    failed: list[object] = []
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            posted.append(running.post())

    def read() -> None:
        while not ended.is_set():
            answer = running.get(old[len(posted) % len(old)])
            if answer.status != 200:
                failed.append(answer)

    threads = [threading.Thread(target=work) for work in (write, write, read, read)]
    for thread in threads:
        thread.start()
    lines = [rebuild(world) for _ in range(3)]
    count = len(posted)
    until("some are posted after the last swap", lambda: len(posted) > count + 50)
    ended.set()
    for thread in threads:
        thread.join()

    assert not failed
    assert lines[0]["rows"] < lines[2]["rows"]
    until("all rows are there", lambda: world.row_count() == len(old) + len(posted))
    assert set(world.rows()) == {*old, *posted}
    # Connections and prepared statements went on with the new table.
    assert not running.consumer.events("database_write_failed")
    assert not running.query.events("database_connection_lost")
    assert running.get(posted[-1]).status == 200


def test_a_failing_proof_swaps_nothing(world: World) -> None:
    world.produce([command(number) for number in range(500)])
    consumer = start(world)
    until("all is written", lambda: world.row_count() == 500)
    rows = world.rows()
    tampering = (
        "UPDATE timestamp_records_rebuild SET event_nanoseconds = 1 WHERE id = %s",
        "UPDATE timestamp_records_rebuild SET created_at = '2020-01-01' WHERE id = %s",
        "DELETE FROM timestamp_records_rebuild WHERE id = %s",
    )
    assert consumer.process.terminate() == 0
    for change in tampering:
        # A message that the consumer has not seen keeps the rebuild from its proof.
        world.produce([BAD[0][0]])
        process = world.start_rebuild()
        until("all is loaded", lambda: NEW in tables(world) and count(world, NEW) == 500)
        world.postgres.run(world.database, change, (str(uuid.UUID(int=7)),))
        consumer = start(world)
        assert "the proof fails, and nothing was swapped" in refusal(world, process)
        assert not process.events("swap_postponed")
        assert world.rows() == rows
        assert consumer.process.terminate() == 0
    assert rebuild(world)["rows"] == 500


def test_nobody_else_writes_to_what_is_proved(world: World) -> None:
    world.produce([command(number) for number in range(500)])
    start(world)
    until("all is written", lambda: world.row_count() == 500)
    with held_before_the_swap(world) as (process, _):
        assert count(world, NEW) == 500
        with session(world) as other, pytest.raises(psycopg2.errors.LockNotAvailable):
            other.execute(f"SET lock_timeout = '500ms'; DELETE FROM {NEW}")  # noqa: S608
    assert process.process.wait(60) == 0, process.process.tail()
    assert world.row_count() == 500


def test_the_rest_is_proved_too_and_each_message_counts_once(world: World) -> None:
    """What comes after the first proof, also where a swap has to be repeated."""
    world.produce([command(number) for number in range(500)])
    start(world)
    until("all is written", lambda: world.row_count() == 500)
    with held_before_the_swap(world) as (process, _):
        # Some of these are there already.
        world.produce([command(number) for number in range(450, 600)])
        until("the writers' lock was tried in vain", lambda: process.events("swap_postponed"))
        world.produce([command(number) for number in range(550, 700)])
    assert process.process.wait(60) == 0, process.process.tail()
    (line,) = process.events("rebuilt")
    assert (line["messages"], line["rows"], line["duplicates"]) == (800, 700, 100)
    until("all is written", lambda: world.row_count() == 700)
    assert line["checksum_table"] == checksum(world.rows()) == line["checksum_log"]


def test_records_that_the_log_lacks_are_not_lost(world: World) -> None:
    world.produce([command(number) for number in range(100)])
    start(world)
    until("all is written", lambda: world.row_count() == 100)
    foreign = str(uuid.UUID(int=2**100))
    world.postgres.run(
        world.database, "INSERT INTO timestamp_records VALUES (%s, now(), 0, now())", (foreign,)
    )

    assert foreign in refusal(world, world.start_rebuild())

    assert world.row_count() == 101
    assert rebuild(world, REBUILD_DROP_UNKNOWN="true")["rows"] == 100


def test_it_is_cancelled_and_started_again(world: World) -> None:
    world.produce([command(number) for number in range(500)])
    start(world)
    until("all is written", lambda: world.row_count() == 500)
    rows = world.rows()

    with held_before_the_swap(world) as (process, _):
        assert process.process.terminate() == 0
        assert process.events("cancelled")
        assert not process.events("rebuilt")
        assert tables(world) == {TABLE}
    with held_before_the_swap(world) as (process, _):
        process.process.send(signal.SIGKILL)
        process.process.wait()
        assert tables(world) == {TABLE, NEW}

    assert rebuild(world)["rows"] == 500
    assert world.rows() == rows


def test_one_at_a_time(world: World) -> None:
    world.produce([command(1)])
    start(world)
    with held_before_the_swap(world) as (first, _):
        second = world.start_rebuild()
        assert second.process.wait(60) == 1
        assert "another rebuild is going on" in second.events("rebuild_failed")[0]["message"]
        assert tables(world) == {TABLE, NEW}
    assert first.process.wait(60) == 0, first.process.tail()


def test_readers_are_waited_for(world: World) -> None:
    world.produce([command(number) for number in range(500)])
    start(world)
    until("all is written", lambda: world.row_count() == 500)
    with session(world) as reader:
        reader.execute("SELECT count(*) FROM timestamp_records")
        process = world.start_rebuild()
        until("the readers are waited for", lambda: waiting(world, "AccessExclusiveLock"))
        # Others read all the while.
        assert world.row_count() == 500
        process.process.check_running()
    assert process.process.wait(60) == 0, process.process.tail()
    assert tables(world) == {TABLE}


def test_strict_mode_stops_at_what_was_never_dead_lettered(world: World) -> None:
    world.produce([command(number) for number in range(50)])
    consumer = start(world)
    until("all is written", lambda: world.row_count() == 50)
    assert consumer.process.terminate() == 0
    (bad, reason), *_ = BAD
    world.produce([bad])
    place = world.read_topic(world.topic)
    where = next(message for message in place if message.value() == bad[1])

    message = refusal(world, world.start_rebuild(REBUILD_DEAD_LETTERS_SECONDS="2"))

    assert f"partition {where.partition()}, offset {where.offset()}" in message
    assert reason in message
    assert world.row_count() == 50
    assert not world.read_topic(world.dead_letter_topic)
    # Not strict: it gets its dead letter.
    line = rebuild(world, REBUILD_STRICT="false")
    assert (line["rows"], line["dead_letters"]) == (50, 1)
    (letter,) = world.read_topic(world.dead_letter_topic)
    assert (letter.key(), letter.value()) == bad[:2]
    # Now it has one.
    assert rebuild(world)["dead_letters"] == 1


def test_a_bad_message_that_the_consumer_has_not_come_to_is_waited_for(world: World) -> None:
    world.produce([command(1), *(message for message, _ in BAD)])
    process = world.start_rebuild()
    until("the rebuild has begun", lambda: process.events("started"))
    start(world)
    assert process.process.wait(60) == 0, process.process.tail()
    assert process.events("rebuilt")[0]["dead_letters"] == len(BAD)


def test_a_log_that_has_lost_its_beginning_is_refused(world: World) -> None:
    world.produce([command(number) for number in range(500)])
    start(world)
    until("all is written", lambda: world.row_count() == 500)
    admin = world.kafka.admin()
    for deleted in admin.delete_records([TopicPartition(world.topic, 3, 5)]).values():
        deleted.result(30)

    assert f"{world.topic}[3] begins at offset 5" in refusal(world, world.start_rebuild())

    assert world.row_count() == 500


def test_the_drill_of_the_original(running: Running) -> None:
    world = running.world
    recorded = {running.post(f"2009-09-28T19:03:12.{number:04d}Z") for number in range(1001)}
    until("all rows are there", lambda: recorded <= set(world.rows()))
    before = {identifier: row for identifier, row in world.rows().items() if identifier in recorded}
    assert running.consumer.process.terminate() == 0
    world.postgres.run(world.database, f"TRUNCATE {TABLE}, {COUNTS}")

    # Nothing else is another one.
    world.start_consumer(KAFKA_GROUP_ID=f"{world.group}-drill").wait_until_ready()

    until("all 1001 are back", lambda: recorded <= set(world.rows()), 60)
    assert {identifier: row for identifier, row in world.rows().items() if identifier in recorded} == before
    assert all(running.get(identifier).status == 200 for identifier in list(recorded)[:50])
