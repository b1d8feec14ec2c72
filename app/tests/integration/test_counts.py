"""What is counted as written is what is in the table, whatever happens meanwhile."""

import signal

import pytest
from psycopg2 import errors

from tests.integration.processes import until
from tests.integration.service import World
from tests.integration.test_consumer import BAD, command, start
from tests.integration.test_rebuild import held_before_the_swap, rebuild
from timestamp_service.database.schema import BEFORE, COUNTS, ROW_BYTES, TABLE

pytestmark = pytest.mark.integration


def counted(world: World) -> int:
    """Return how many rows must be in the table."""
    count: int = world.postgres.run(world.database, f"SELECT sum(records)::bigint FROM {COUNTS}")[0][0]  # noqa: S608
    return count


def offsets(world: World) -> dict[int, tuple[int, int]]:
    """Return the first and the next offset, by partition."""
    rows = world.postgres.run(world.database, f"SELECT partition, first_offset, next_offset FROM {COUNTS}")  # noqa: S608
    return {partition: (first, following) for partition, first, following in rows}


def test_each_row_is_counted_once(world: World) -> None:
    """COPY, INSERT, duplicates within a batch and beyond, bad messages, a killed consumer, another group."""
    # COPY takes batches of 200 records and more, as long as none of them is there already.
    world.produce([command(number) for number in range(1000, 3000)])
    consumer = start(world, CONSUMER_BATCH_MAX="300")
    for number in range(20):
        world.produce([command(one) for one in range(number * 50, number * 50 + 150)])
        if number % 5 == 4:
            world.produce([BAD[number % len(BAD)][0]])
    consumer.process.send(signal.SIGKILL)
    consumer.process.wait()
    consumer = start(world)
    until("all is written", lambda: sum(world.committed().values()) == 20 * 150 + 4 + 2000)
    assert world.row_count() == counted(world) == 3000
    assert {partition: span[1] for partition, span in offsets(world).items()} == world.committed()
    assert {span[0] for span in offsets(world).values()} == {0}
    assert consumer.process.terminate() == 0

    world.group += "-again"
    start(world)
    until("all is read again", lambda: sum(world.committed().values()) == 20 * 150 + 4 + 2000)
    assert world.row_count() == counted(world) == 3000


def test_several_consumers_count_together(world: World) -> None:
    consumers = [world.start_consumer(CONSUMER_BATCH_MAX="500") for _ in range(3)]
    for consumer in consumers:
        consumer.wait_until_ready()
    world.produce([command(number) for number in range(5000)])
    until("one has begun", lambda: world.row_count() > 0)
    assert consumers[0].process.terminate() == 0
    until("all rows are written", lambda: world.row_count() == 5000)
    assert counted(world) == 5000


def test_a_database_that_was_never_counted_is_counted_once(world: World) -> None:
    world.produce([command(number) for number in range(500)])
    consumer = start(world)
    until("all is written", lambda: world.row_count() == 500)
    assert consumer.process.terminate() == 0
    world.postgres.run(world.database, f"DROP TABLE {COUNTS}")

    consumers = [world.start_consumer() for _ in range(2)]
    for consumer in consumers:
        consumer.wait_until_ready()

    assert counted(world) == 500
    assert offsets(world) == {BEFORE: (0, 0)}
    world.produce([command(number) for number in range(400, 700)])
    until("all is written", lambda: world.row_count() == 700)
    assert counted(world) == 700
    assert {span[0] for span in offsets(world).values()} == {0}


def test_a_database_that_begins_in_the_middle_of_the_log_says_so(world: World) -> None:
    """As after a DROP DATABASE: the consumer goes on where it was, and is not behind."""
    world.produce([command(number) for number in range(1000)])
    consumer = start(world)
    until("all is written", lambda: sum(world.committed().values()) == 1000)
    assert consumer.process.terminate() == 0
    world.postgres.run(world.database, f"DROP TABLE {TABLE}, {COUNTS}")
    start(world)
    world.produce([command(number) for number in range(1000, 2000)])
    until("all is written", lambda: world.row_count() == 1000)
    assert counted(world) == 1000
    assert all(first > 0 for first, _ in offsets(world).values())


def test_a_rebuild_counts_what_it_swaps_in(world: World) -> None:
    world.produce([command(number % 400) for number in range(600)])
    start(world)
    until("all is written", lambda: world.row_count() == 400)
    world.postgres.run(world.database, f"TRUNCATE {TABLE}")
    with held_before_the_swap(world) as (process, _):
        # The consumer writes these to the old table and counts them, before or after the swap.
        world.produce([command(number) for number in range(350, 500)])
    world.produce([command(number) for number in range(450, 600)])
    assert process.process.wait(60) == 0, process.process.tail()
    until("all is written", lambda: sum(world.committed().values()) == 900)
    assert world.row_count() == counted(world) == 600
    assert {span[0] for span in offsets(world).values()} == {0}
    followed = {partition: span[1] for partition, span in offsets(world).items() if span[1]}
    assert followed == world.committed()


def test_rebuilds_while_the_consumer_writes(world: World) -> None:
    start(world, CONSUMER_BATCH_MAX="50")
    for number in range(3):
        world.produce([command(one) for one in range(number * 2000, number * 2000 + 2000)])
        rebuild(world)
        until("all is written", lambda: world.row_count() == number * 2000 + 2000)  # noqa: B023
        assert counted(world) == number * 2000 + 2000


def test_the_rights_to_the_counts_are_the_least(world: World) -> None:
    start(world)
    world.produce([command(1)])
    until("it is written", lambda: world.row_count() == 1)
    refused = (
        ("timestamp_consumer", f"DELETE FROM {COUNTS}"),  # noqa: S608
        ("timestamp_consumer", f"UPDATE {COUNTS} SET first_offset = 0"),  # noqa: S608
        ("timestamp_consumer", f"TRUNCATE {COUNTS}"),
        ("timestamp_query", f"UPDATE {COUNTS} SET records = 0"),  # noqa: S608
        ("timestamp_query", f"INSERT INTO {COUNTS} VALUES (1, 0, 0, 0)"),  # noqa: S608
    )
    for role, statement in refused:
        with pytest.raises(errors.InsufficientPrivilege):
            world.postgres.run(world.database, f"SET ROLE {role}; {statement}")
    rows = world.postgres.run(world.database, f"SET ROLE timestamp_query; SELECT * FROM {COUNTS}")  # noqa: S608
    assert len(rows) == 1


def test_no_row_takes_less_than_is_taken_for_granted(world: World) -> None:
    start(world)
    (size,) = world.postgres.run(
        world.database,
        f"INSERT INTO {TABLE} SELECT gen_random_uuid(), now(), 0, now() FROM generate_series(1, 20000);"  # noqa: S608
        f" SELECT pg_relation_size('{TABLE}')",
    )[0]
    assert 20000 * ROW_BYTES <= size < 20000 * ROW_BYTES * 1.02
