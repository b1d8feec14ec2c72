import json
import logging
import signal
import time
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.integration.kafka import Kafka
from tests.integration.processes import until
from tests.integration.service import Service, World
from timestamp_service.consumer.stall import Stall
from timestamp_service.runtime.logs import Log

pytestmark = pytest.mark.integration

Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]


def command(number: int, timestamp: str = "2009-09-28T19:03:12Z") -> Message:
    """Return a good message with an id that contains `number`."""
    identifier = str(uuid.UUID(int=number))
    value = {"command_id": identifier, "event_timestamp": timestamp}
    return identifier.encode(), json.dumps(value).encode(), []


def start(world: World, **settings: str) -> Service:
    """Start a consumer and wait until it is ready."""
    consumer = world.start_consumer(**settings)
    consumer.wait_until_ready()
    return consumer


def test_the_first_message_of_an_id_counts(world: World) -> None:
    years = range(2001, 2011)
    world.produce([command(7, f"{year}-01-01T00:00:00Z") for year in years])
    start(world)
    until("the row is there", lambda: world.row_count() == 1)
    # In later batches too.
    world.produce([command(7, "2020-01-01T00:00:00Z"), command(8, "2020-01-01T00:00:00Z")])
    until("the second row is there", lambda: world.row_count() == 2)
    rows = world.rows()
    assert rows[str(uuid.UUID(int=7))][0] == "2001-01-01 00:00:00+00"


def test_rows_hold_what_was_sent_and_when_it_was_appended(world: World) -> None:
    world.produce([command(1, "2009-09-28T19:03:12.123456789Z"), command(2, "0001-01-01T00:00:00Z")])
    start(world)
    until("the rows are there", lambda: world.row_count() == 2)

    rows = world.rows()

    assert rows[str(uuid.UUID(int=1))][:2] == ("2009-09-28 19:03:12.123456+00", 789)
    assert rows[str(uuid.UUID(int=2))][:2] == ("0001-01-01 00:00:00+00", 0)
    appended = {message.key().decode(): message.timestamp()[1] for message in world.read_topic(world.topic)}
    in_milliseconds = world.postgres.run(
        world.database,
        "SELECT id::text, (extract(epoch FROM created_at) * 1000)::bigint FROM timestamp_records",
    )
    assert dict(in_milliseconds) == appended


BAD: list[tuple[Message, str]] = [
    (
        (b"k1", b"not json", [("correlationId", b"01890a5d-ac96-774b-bcce-b302099a8057"), ("x", b"\xff")]),
        "JSON",
    ),
    ((None, None, []), "no value"),
    ((b"\xff\xfe", b"\xff", []), "UTF-8"),
    ((b"k4", b'{"event_timestamp": "2009-09-28T19:03:12Z"}', []), "command_id is missing"),
    (command(1, "2009-09-31T00:00:00Z"), "no day 2009-09-31"),
    (command(2, "yesterday"), "not an RFC 3339"),
    ((b"k7", b"[" * 500_000, []), "JSON"),
    ((b"k8", b"x" * 1_000_000, [("h", b"y" * 40_000)]), "JSON"),
]


def test_bad_messages_become_dead_letters_and_block_nothing(world: World) -> None:
    good = [command(number) for number in range(100, 150)]
    world.produce([*good[:25], *(message for message, _ in BAD), *good[25:]])
    consumer = start(world)
    until("the rows are there", lambda: world.row_count() == len(good))
    until("the dead letters are there", lambda: len(world.read_topic(world.dead_letter_topic)) == len(BAD))

    assert set(world.rows()) == {key.decode() for key, _, _ in good if key}
    letters = world.read_topic(world.dead_letter_topic)
    sources = {}
    for message in world.read_topic(world.topic):
        sources[message.partition(), message.offset()] = message
    reasons = {}
    for letter in letters:
        headers = letter.headers()
        own, added = headers[:-3], dict(headers[-3:])
        place = int(added["source.partition"]), int(added["source.offset"])
        source = sources[place]
        assert (letter.key(), letter.value(), own) == (source.key(), source.value(), source.headers() or [])
        reasons[letter.key()] = added["error"].decode()
    for (key, _, _), reason in BAD:
        assert reason in reasons[key]
    lines = consumer.events("dead_letter")
    assert len(lines) == len(BAD)
    assert "01890a5d-ac96-774b-bcce-b302099a8057" in [line.get("correlationId") for line in lines]


def test_readiness_names_the_dead_letter_topic(bare_world: World) -> None:
    world = bare_world
    world.kafka.make_topic(world.topic, 12, {"message.timestamp.type": "LogAppendTime"})
    world.make_database()
    consumer = start(world)
    world.produce([(b"key", b"not json", [])])
    until("it is not ready", lambda: consumer.status("/ready") == 503, 40)
    assert "dead-letter topic" in consumer.ask("GET", "/ready").json()["detail"]
    assert not any(world.committed().values())
    world.kafka.make_topic(world.dead_letter_topic, 1, {})
    consumer.wait_until_ready()
    until("the dead letter is there", lambda: len(world.read_topic(world.dead_letter_topic)) == 1)


def test_large_messages_do_not_take_the_memory(world: World) -> None:
    size, count = 1_000_000, 600
    for _ in range(0, count, 20):
        world.produce([(None, b"x" * size, [])] * 20)
    consumer = start(world)
    until("all are dead letters", lambda: sum(world.committed().values()) == count, 120)
    status = Path(f"/proc/{consumer.process.pid}/status").read_text()
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    # The unit's limit.
    assert peak < 384 * 1024, peak


def test_offsets_are_committed_once_rows_are_written(world: World) -> None:
    world.produce([command(number) for number in range(500)] + [message for message, _ in BAD])
    consumer = start(world)
    until("all offsets are committed", lambda: sum(world.committed().values()) == 500 + len(BAD))
    assert world.row_count() == 500
    assert consumer.process.terminate() == 0


def test_sigterm_commits_what_is_written(world: World) -> None:
    consumer = start(world)
    world.produce([command(number) for number in range(500)])
    until("the rows are there", lambda: world.row_count() == 500)
    # At once: what is committed twice a second is not yet.
    assert consumer.process.terminate() == 0
    assert sum(world.committed().values()) == 500
    assert consumer.events("stopped")
    assert any(state.startswith("STOPPING=1") for state in consumer.notifications())


def test_nothing_is_lost_or_doubled_when_it_is_killed(world: World) -> None:
    total = 30_000
    world.produce([command(number) for number in range(total)])
    for rounds in range(1, 4):
        # Small batches: there is something to interrupt.
        consumer = world.start_consumer(CONSUMER_BATCH_MAX="500", KAFKA_GROUP_INSTANCE_ID="one")
        consumer.wait_until_serving()
        until(
            "some rows are written",
            lambda: world.rows_so_far() >= min(total, total * rounds // 5),  # noqa: B023 (called at once)
            60,
        )
        consumer.process.send(signal.SIGKILL)
        consumer.process.wait()
    start(world, KAFKA_GROUP_INSTANCE_ID="one")
    until("all rows are written", lambda: world.row_count() == total, 60)
    until("all offsets are committed", lambda: sum(world.committed().values()) == total)


def test_a_new_group_gives_back_the_same_rows(world: World) -> None:
    messages = [
        command(number % 700, f"20{number % 90 + 10}-01-01T00:00:00.{number}Z") for number in range(2000)
    ]
    world.produce(messages)
    first = start(world)
    until("all rows are written", lambda: sum(world.committed().values()) == 2000)
    rows = world.rows()
    assert len(rows) == 700
    assert first.process.terminate() == 0
    world.postgres.run(world.database, "DROP TABLE timestamp_records")

    world.group += "-rebuild"
    start(world)
    until("all rows are written again", lambda: sum(world.committed().values()) == 2000)

    assert world.rows() == rows


def test_a_topic_that_took_the_place_of_another_is_read(world: World) -> None:
    """As after a restore beside a consumer that was not stopped."""
    start(world)
    world.produce([command(number) for number in range(60)])
    until("the rows are there", lambda: world.row_count() == 60)
    admin = world.kafka.admin()
    for future in admin.delete_topics([world.topic, world.dead_letter_topic]).values():
        future.result()
    until("it is gone", lambda: world.topic not in admin.list_topics(timeout=5).topics)
    world.make_topics()
    world.produce([command(number) for number in range(60, 90)])
    until("the rows of the new one are there too", lambda: world.row_count() == 90, 90)


def test_reading_the_log_again_changes_nothing(world: World) -> None:
    world.produce([command(number) for number in range(3000)])
    first = start(world)
    until("all rows are written", lambda: sum(world.committed().values()) == 3000)
    rows = world.rows()
    assert first.process.terminate() == 0

    world.group += "-again"
    again = start(world)
    until("all is read again", lambda: sum(world.committed().values()) == 3000)

    assert world.rows() == rows
    batches = again.events("batch")
    assert sum(batch["duplicates"] for batch in batches) == 3000
    assert sum(batch["written"] for batch in batches) == 0


def test_several_share_the_work(world: World) -> None:
    consumers = [world.start_consumer() for _ in range(3)]
    for consumer in consumers:
        consumer.wait_until_ready()
    until("the rows are there", world.has_table)
    assert sum(len(consumer.events("table_made")) for consumer in consumers) >= 1
    world.produce([command(number) for number in range(3000)])
    until("all rows are written", lambda: world.row_count() == 3000)
    assert sum(bool(consumer.events("recorded")) for consumer in consumers) >= 2
    # One goes: the others take over what it had.
    assert consumers[0].process.terminate() == 0
    world.produce([command(number) for number in range(3000, 4000)])
    until("all rows are written", lambda: world.row_count() == 4000)


def owned(consumer: Service) -> set[int]:
    """Return the partitions that it has by its log."""
    partitions: set[int] = set()
    for line in consumer.log():
        if line["event"] == "assigned":
            partitions |= set(line["partitions"])
        elif line["event"] in ("revoked", "lost"):
            partitions -= set(line["partitions"])
    return partitions


def test_one_that_no_next_process_follows_leaves_its_group_at_once(world: World, tmp_path: Path) -> None:
    drained = tmp_path / "drained"
    going, staying = (
        world.start_consumer(KAFKA_GROUP_INSTANCE_ID=name, KAFKA_GROUP_LEAVE_FILE=str(drained))
        for name in ("going", "staying")
    )
    until("they share the partitions", lambda: len(owned(going)) == len(owned(staying)) == 6, 60)
    world.produce([command(number) for number in range(500)])
    until("the rows are there", lambda: world.row_count() == 500)
    drained.touch()
    began = time.monotonic()
    assert going.process.terminate() == 0
    until("the other one has all partitions", lambda: len(owned(staying)) == 12)
    # It is missed after 10 s.
    assert time.monotonic() - began < 8
    assert going.events("left_the_group")
    # All that it has written is committed: nothing is read again.
    assert sum(batch["duplicates"] for batch in staying.events("batch")) == 0
    # Its name is free.
    again = world.start_consumer(KAFKA_GROUP_INSTANCE_ID="going")
    until("they share the partitions", lambda: len(owned(again)) == len(owned(staying)) == 6)


def test_rights_are_the_least(world: World) -> None:
    start(world)
    rights = world.postgres.run(
        world.database,
        """
        SELECT grantee, privilege_type FROM information_schema.role_table_grants
        WHERE table_name = 'timestamp_records' AND grantee NOT IN ('timestamp_owner')
        UNION SELECT grantee, privilege_type || '(' || column_name || ')'
        FROM information_schema.column_privileges
        WHERE table_name = 'timestamp_records' AND grantee = 'timestamp_consumer'
        AND privilege_type <> 'INSERT'
        """,
    )
    assert sorted(rights) == [
        ("timestamp_consumer", "INSERT"),
        ("timestamp_consumer", "SELECT(id)"),
        ("timestamp_query", "SELECT"),
    ]
    owner = world.postgres.run(
        world.database, "SELECT tableowner FROM pg_tables WHERE tablename = 'timestamp_records'"
    )
    assert owner == [("timestamp_owner",)]


_REFUSALS = {
    # PostgreSQL tells of the row that failed.
    "ALTER TABLE timestamp_records ADD CONSTRAINT refusal CHECK (event_timestamp < '2005-01-01Z')": "23514",
    # It tells of the value, and of the statement.
    """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM (NEW.id::text || chr(10) || 'x')::integer; RETURN NEW; END $$;
    CREATE TRIGGER refusal BEFORE INSERT ON timestamp_records FOR EACH ROW EXECUTE FUNCTION refuse()
    """: "22P02",
}


@pytest.mark.parametrize(("refusal", "code"), _REFUSALS.items(), ids=_REFUSALS.values())
def test_log_of_a_failed_write_holds_no_statement_and_no_row(world: World, refusal: str, code: str) -> None:
    consumer = start(world)
    world.postgres.run(world.database, refusal)
    world.produce([command(7)])
    until("it has failed", lambda: consumer.events("database_write_failed"))

    error = consumer.events("database_write_failed")[0]["error"]
    assert error.endswith(f"({code})")
    for word in ("\n", str(uuid.UUID(int=7)), "2009", "INSERT", "SELECT", "DETAIL", "CONTEXT"):
        assert word not in error, error
    assert str(uuid.UUID(int=7)) not in consumer.process.log.read_text()

    world.postgres.run(
        world.database,
        "ALTER TABLE timestamp_records DROP CONSTRAINT IF EXISTS refusal;"
        " DROP TRIGGER IF EXISTS refusal ON timestamp_records",
    )
    until("the row is there", lambda: world.row_count() == 1)


def test_a_record_is_read_soon_at_any_moment(world: World) -> None:
    # Also when the consumer asks Kafka where the partitions end, which it does each 10 s.
    start(world)
    begun = time.monotonic()
    number = 0
    while time.monotonic() - begun < 13:
        number += 1
        world.produce([command(number)])
        # Waiting for it ends before the next one is counted.
        until("the row is there", lambda: world.row_count() == number, 5)  # noqa: B023


def test_a_partition_that_is_not_read_is_noticed(
    world: World, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timestamp_service.consumer.stall._EVERY_SECONDS", 2.0)
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": world.group, "auto.offset.reset": "earliest"}
    )
    stall = Stall(kafka.admin, Log("test", logging.CRITICAL))

    read: list[int | None] = []
    found: list[int] = []

    def turn() -> int:
        read.extend(message.partition() for message in consumer.consume(100, 0.05))
        found.extend(stall.check(consumer, paused=False))
        return len(read)

    try:
        consumer.subscribe([world.topic])
        world.produce([command(number) for number in range(100)])
        until("all is read", lambda: turn() == 100)
        begun = time.monotonic()
        while time.monotonic() - begun < 5:
            turn()
        assert not found
        # The library does not fetch it, and nobody knows.
        consumer.pause([TopicPartition(world.topic, 3)])
        world.produce([command(number) for number in range(100, 200)])
        until("it is found", lambda: turn() and found)
        assert found == [3]
        assert set(read[100:]) == set(range(12)) - {3}
    finally:
        consumer.close()
