"""How far a projection is behind, as the command API tells it."""

import json
import time
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from tests.integration.kafka import Kafka
from tests.integration.postgres import Postgres
from tests.integration.processes import serving, until
from tests.integration.service import Service, World
from tests.integration.test_metrics import value

pytestmark = pytest.mark.integration

_numbers = count(1)


@pytest.fixture
def own_world(workspace: Path, postgres: Postgres, tmp_path: Path) -> Iterator[World]:
    """A world with a broker of its own, which may be stopped."""
    with serving(Kafka, workspace / f"kafka-lag-{next(_numbers)}") as kafka:
        world = World(f"lag{next(_numbers)}", kafka, postgres, tmp_path)
        world.make_topics()
        yield world
        world.end()


def lag(command: Service, group: str) -> tuple[float, float]:
    """Return how many messages are unread, and the age of the oldest."""
    return (
        value(command, "timestamp_projection_unread_messages", projection=group),
        value(command, "timestamp_projection_oldest_unread_seconds", projection=group),
    )


def checked(command: Service) -> float:
    return value(command, "timestamp_projection_lag_checked_seconds")


def commit(world: World, ends: dict[int, int]) -> None:
    """Commit these offsets, as a consumer of the first group that has read so far."""
    places = [TopicPartition(world.topic, partition, end) for partition, end in ends.items()]
    # What it has begun ends with it.
    admin = world.kafka.admin()

    def committed() -> bool:
        wanted = ConsumerGroupTopicPartitions(world.group, places)
        (answer,) = admin.alter_consumer_group_offsets([wanted]).values()
        return answer.exception(30) is None

    # A new broker may have no coordinator yet.
    until("the offsets are committed", committed)


def test_the_lag_of_projections_is_seen_from_outside(own_world: World) -> None:
    world, never = own_world, f"{own_world.group}-never"
    commit(world, dict.fromkeys(range(12), 0))
    command = world.start_command(KAFKA_PROJECTION_GROUPS=f"{world.group},{never}", WORKERS="2")
    command.wait_until_ready()
    until("the log and the groups were compared", lambda: checked(command) > 0)
    assert lag(command, world.group) == lag(command, never) == (0, 0)

    body = json.dumps({"event_timestamp": "2009-09-28T19:03:12Z"}).encode()
    world.produce([(str(uuid.uuid4()).encode(), body, []) for _ in range(30)])
    until("they are unread", lambda: lag(command, world.group)[0] == lag(command, never)[0] == 30)
    until("they grow old", lambda: lag(command, world.group)[1] > 4)
    assert checked(command) == pytest.approx(time.time(), abs=15)

    ends: dict[int, int] = {}
    for message in world.read_topic(world.topic):
        ends[message.partition()] = message.offset() + 1
    commit(world, ends)
    until("one has caught up", lambda: lag(command, world.group) == (0, 0))
    assert lag(command, never)[0] == 30
    assert lag(command, never)[1] > 4

    world.kafka.process.terminate()
    time.sleep(12)
    at, before = checked(command), lag(command, never)
    time.sleep(6)
    assert checked(command) == at
    assert lag(command, never) == before
    assert command.status("/health") == 200
    world.kafka.start()
    until("they are compared again", lambda: checked(command) > at, 60)
    assert lag(command, never)[0] == 30
    assert command.process.terminate() == 0
