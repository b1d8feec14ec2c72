"""The row of the consumer: from a full topic into the indexed table, compared with COPY of the same rows."""

import io
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import uuid_utils
from confluent_kafka import Producer
from psycopg2.extensions import connection
from tests.integration.postgres import PASSWORDS, Postgres
from tests.integration.processes import until
from tests.integration.service import World
from timestamp_service import instants
from timestamp_service.database.schema import TABLE
from timestamp_service.kafka import messages
from timestamp_service.kafka.messages import Command

from bench import usage
from bench.report import Sample
from bench.stage import Stage

_PARTITIONS = 12


def preload(world: World, count: int) -> list[Command]:
    """Send `count` messages to the topic, as the command API writes them; return their commands."""
    producer = Producer(
        {
            "bootstrap.servers": world.kafka.bootstrap,
            "linger.ms": 20,
            "queue.buffering.max.messages": 500_000,
            "log_level": 0,
        }
    )
    commands = []
    for number in range(count):
        command = Command(str(uuid_utils.uuid7()), instants.from_milliseconds(1_254_164_592_123 + number))
        commands.append(command)
        # One request each, as single POSTs make them.
        headers: messages.Headers = [("correlationId", str(uuid_utils.uuid4()).encode())]
        # A hundred at a time to one partition, as the API does.
        partition = number // 100 % _PARTITIONS
        while True:
            try:
                producer.produce(
                    world.topic, messages.encode(command), command.command_id, partition, headers=headers
                )
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("not all messages were delivered")
    return commands


def rounds(stage: Stage, count: int, records: int) -> Iterator[Sample]:
    """Measure COPY and the consumer `count` times in turn."""
    world = World("consuming", stage.kafka, stage.postgres, stage.folder / "services")
    world.make_topics()
    world.make_database()
    # It creates the table.
    consumer = world.start_consumer()
    consumer.wait_until_ready()
    consumer.process.terminate()
    commands = preload(world, records)
    text = _copy_text(commands)
    ends = [command.command_id for command in commands[-100 * _PARTITIONS :]]
    for number in range(count):
        _truncate(world)
        ruler = records / _copy(stage.postgres, world.database, text)
        yield Sample("COPY", "rows/s", ruler, ruler)
        _truncate(world)
        yield _consume(stage, world, f"{world.group}-{number}", ends, records, ruler)
    world.end()


def _consume(stage: Stage, world: World, group: str, ends: list[str], records: int, ruler: float) -> Sample:
    others = {"broker": stage.kafka.process.pid, "database": stage.postgres.process.pid}
    before = {name: usage.cpu_seconds(pid) for name, pid in others.items()}
    consumer = world.start_consumer(KAFKA_GROUP_ID=group)
    try:
        assigned = _event_time(consumer.process.log, b'"event":"assigned"')
        own = usage.cpu_seconds(consumer.process.pid)
        _wait_for(stage.postgres, world.database, ends)
        seconds = time.time() - assigned
        cpu = {name: usage.cpu_seconds(pid) - before[name] for name, pid in others.items()}
        cpu = {"consumer": usage.cpu_seconds(consumer.process.pid) - own, **cpu}
        until("all rows are there", lambda: world.row_count() == records, 10)
    finally:
        consumer.process.terminate()
        consumer.process.log.unlink()
    return Sample(
        f"consumer, {records:,} preloaded",
        "rows/s",
        records / seconds,
        ruler,
        cpu={name: used * 1e6 / records for name, used in cpu.items()},
    )


def _event_time(log: Path, mark: bytes) -> float:
    """Wait for the first line with `mark` in the log; return the time when it is there."""
    until("the consumer has its partitions", lambda: mark in log.read_bytes()[:100_000], 30)
    return time.time()


def _wait_for(postgres: Postgres, database: str, identifiers: list[str]) -> None:
    """Wait until all are in the table, one after the other: each query costs the server little."""
    left = list(identifiers)

    def all_written() -> bool:
        while left:
            cursor.execute(f"SELECT 1 FROM {TABLE} WHERE id = %s", (left[-1],))  # noqa: S608
            if cursor.fetchone() is None:
                return False
            left.pop()
        return True

    with closing(_connect(postgres, database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        until("the consumer has written all", all_written, 180)


def _truncate(world: World) -> None:
    world.postgres.run(world.database, f"TRUNCATE {TABLE}; CHECKPOINT")


def _copy_text(commands: list[Command]) -> bytes:
    created = "2026-01-01T00:00:00.123Z"
    lines = (f"{command.command_id}\t{command.event_timestamp}\t0\t{created}\n" for command in commands)
    return "".join(lines).encode()


def _copy(postgres: Postgres, database: str, text: bytes) -> float:
    """Return the seconds that COPY takes, in one transaction."""
    with closing(_connect(postgres, database)) as connection:
        source = io.BytesIO(text)
        started = time.monotonic()
        with connection, connection.cursor() as cursor:
            cursor.copy_expert(f"COPY {TABLE} FROM STDIN", source, size=1 << 20)
        return time.monotonic() - started


def _connect(postgres: Postgres, database: str) -> connection:
    connected: connection = psycopg2.connect(
        host="127.0.0.1",
        port=postgres.port,
        dbname=database,
        user="postgres",
        password=PASSWORDS["postgres"],
    )
    return connected
