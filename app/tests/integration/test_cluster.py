"""A cluster of three brokers of which some fail under a steady load: what is answered, and by when."""

import asyncio
import logging
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster
from tests.integration.kafka import Kafka
from tests.integration.postgres import Postgres
from tests.integration.processes import until
from tests.integration.service import World
from timestamp_service import settings
from timestamp_service.command.acknowledgements import NotPublishedError
from timestamp_service.command.publisher import Publisher
from timestamp_service.runtime.logs import Log

pytestmark = pytest.mark.integration

_RATE = 100
# Each of these is a bulk.
_BULK_EVERY = 50
_BULK_LENGTH = 20
# The defaults: how long a failover may take, and an answer in an outage.
FAILOVER_SECONDS = 15
OUTAGE_SECONDS = 6

_numbers = count(1)


@pytest.fixture(scope="module")
def cluster_of_all(workspace: Path) -> Iterator[Cluster]:
    cluster = Cluster(workspace / "cluster")
    yield cluster
    cluster.end()


@pytest.fixture
def cluster(cluster_of_all: Cluster) -> Cluster:
    """The brokers, whatever the test before has done to them."""
    cluster_of_all.repair()
    return cluster_of_all


@pytest.fixture
def world(cluster: Cluster, postgres: Postgres, tmp_path: Path) -> Iterator[World]:
    """A topic that all brokers have, each of which leads some of its partitions; and a database."""
    world = World(f"cluster{next(_numbers)}", cluster.brokers[0], postgres, tmp_path)
    world.make_topics()
    world.make_database()
    yield world
    world.end()


@dataclass
class Post:
    """A request: the keys of its records, when it was sent, and how long it took until its end."""

    keys: list[str]
    sent: float
    seconds: float | None = None
    acknowledged: bool = False


class Load:
    """Requests at a steady rate by a publisher of its own."""

    def __init__(self, world: World, **more: str) -> None:
        config = settings.read_command(
            {
                "SERVER_PORT": "1",
                "KAFKA_BROKER": world.kafka.bootstrap,
                "KAFKA_PUBLISH_TOPIC": world.topic,
                **more,
            }
        )
        self.publisher = Publisher(config, Log("load", logging.ERROR, lambda _line: None))
        self.posts: list[Post] = []
        self.missing: list[str | None] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, goes_on: Callable[[], bool], *, asks: bool = True) -> None:
        """Send as long as it `goes_on`, and wait for all answers; ask whether it is ready meanwhile."""
        asking = asyncio.create_task(self._ask()) if asks else None
        while goes_on():
            self.post()
            await asyncio.sleep(1 / _RATE)
        await asyncio.gather(*self._tasks)
        if asking is not None:
            asking.cancel()

    def post(self) -> Post:
        """Send a request: with a key or without, and sometimes a bulk."""
        length = _BULK_LENGTH if len(self.posts) % _BULK_EVERY == 0 else 1
        post = Post([str(uuid.uuid4()) for _ in range(length)], time.monotonic())
        self.posts.append(post)
        task = asyncio.create_task(self._publish(post, by_key=len(self.posts) % 2 == 0))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return post

    async def ready(self) -> None:
        """Wait until the topic can be written."""
        for _ in range(300):
            if await self.publisher.check() is None:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the topic cannot be written")

    async def _publish(self, post: Post, *, by_key: bool) -> None:
        try:
            if len(post.keys) > 1:
                await self.publisher.publish_all([(key, b"") for key in post.keys], [], by_key=by_key)
            else:
                await self.publisher.publish(post.keys[0], b"", [], by_key=by_key)
            post.acknowledged = True
        except NotPublishedError:
            pass
        finally:
            post.seconds = time.monotonic() - post.sent

    async def _ask(self) -> None:
        while True:
            self.missing.append(await self.publisher.check())
            await asyncio.sleep(0.5)


async def eventually(holds: Callable[[], object]) -> None:
    """Wait until `holds` returns something true."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it does not come to this")


def check_log(world: World, posts: list[Post]) -> Counter[str]:
    """Fail unless the log has each record that was acknowledged; return how often it has each."""
    kept = Counter(message.key().decode() for message in world.read_topic(world.topic))
    acknowledged = {key for post in posts if post.acknowledged for key in post.keys}
    assert acknowledged <= set(kept)
    return kept


def a_leader(cluster: Cluster, world: World) -> Kafka:
    """Return a broker that leads a partition and is not the active controller."""
    controller = cluster.controller()
    leaders = (cluster.leader(world.topic, partition) for partition in range(3))
    return next(leader for leader in leaders if leader is not controller)


def a_leader_dies(cluster: Cluster, world: World) -> None:
    a_leader(cluster, world).kill()


def the_controller_dies(cluster: Cluster, _world: World) -> None:
    cluster.controller().kill()


def a_leader_freezes(cluster: Cluster, world: World) -> None:
    a_leader(cluster, world).freeze()


@pytest.mark.parametrize(
    "fault",
    [
        a_leader_dies,
        pytest.param(the_controller_dies, marks=pytest.mark.slow),
        pytest.param(a_leader_freezes, marks=pytest.mark.slow),
    ],
)
def test_one_broker_of_three_fails(
    cluster: Cluster, world: World, fault: Callable[[Cluster, World], None]
) -> None:
    """All requests wait until the others have taken over, and all are acknowledged."""

    async def scenario() -> Load:
        # Less than the others need to take over.
        load = Load(world, KAFKA_ACKNOWLEDGE_SECONDS="1")
        await load.ready()
        faulty: list[float] = []

        def waits() -> bool:
            """Go on until all that was sent before and during the failover has been answered."""
            fresh = [post for post in load.posts if faulty and post.sent > faulty[0]]
            return len(fresh) < _RATE or any(post.seconds is None for post in load.posts[: -_RATE // 2])

        # The library learns from each question who leads: where it has to ask by itself, nobody else does.
        running = asyncio.create_task(load.run(waits, asks=fault is not a_leader_freezes))
        await eventually(lambda: any(post.acknowledged for post in load.posts[_RATE:]))
        await asyncio.to_thread(fault, cluster, world)
        faulty.append(time.monotonic())
        async with asyncio.timeout(60):
            await running
        await load.publisher.close()
        return load

    load = asyncio.run(scenario())
    assert [post for post in load.posts if not post.acknowledged] == []
    assert max(post.seconds or 0 for post in load.posts) < FAILOVER_SECONDS
    assert set(load.missing) <= {None}
    # What is sent again to another leader is not recorded twice.
    assert set(check_log(world, load.posts).values()) == {1}


@pytest.mark.slow
def test_two_brokers_of_three_die_and_return(cluster: Cluster, world: World) -> None:
    """Nothing can be acknowledged: first a failover is waited for, and then no longer."""

    async def scenario() -> Load:
        load = Load(world)
        await load.ready()
        begin: list[float] = []

        def waits() -> bool:
            return not begin or time.monotonic() < begin[0] + FAILOVER_SECONDS + OUTAGE_SECONDS

        running = asyncio.create_task(load.run(waits))
        await eventually(lambda: any(post.acknowledged for post in load.posts[_RATE:]))
        for broker in cluster.brokers[1:]:
            broker.kill()
        begin.append(time.monotonic())
        await running

        failed = [post for post in load.posts if not post.acknowledged]
        assert any(post.sent > begin[0] + FAILOVER_SECONDS for post in failed)
        for post in failed:
            assert post.seconds is not None
            assert post.seconds < OUTAGE_SECONDS or post.sent + post.seconds < begin[0] + FAILOVER_SECONDS + 1
        # Those that were sent first have waited for a failover.
        assert max(post.seconds or 0 for post in failed) > FAILOVER_SECONDS - 1
        assert load.missing[-1] == "kafka"

        await asyncio.to_thread(cluster.repair)
        first = load.post()
        before = len(load.posts) - 1
        await eventually(lambda: first.seconds is not None)
        await load.run(lambda: len(load.posts) < before + _RATE)
        assert [post for post in load.posts[before:] if not post.acknowledged] == []
        assert load.missing[-1] is None
        await load.publisher.close()
        return load

    check_log(world, asyncio.run(scenario()).posts)


@pytest.mark.slow
def test_all_brokers_die(cluster: Cluster, world: World) -> None:
    """A failover is not waited for where nobody is left to take over."""

    async def scenario() -> Load:
        load = Load(world)
        await load.ready()
        for broker in cluster.brokers:
            broker.kill()
        end = time.monotonic() + OUTAGE_SECONDS
        await load.run(lambda: time.monotonic() < end)
        await load.publisher.close()
        return load

    load = asyncio.run(scenario())
    assert not any(post.acknowledged for post in load.posts)
    assert max(post.seconds or 0 for post in load.posts) < OUTAGE_SECONDS
    assert load.missing[-1] == "kafka"


@pytest.mark.parametrize("fault", ["freeze", pytest.param("kill", marks=pytest.mark.slow)])
def test_all_goes_on_without_the_broker_that_coordinates_the_consumers(
    cluster: Cluster, world: World, fault: str
) -> None:
    command, consumer = world.start_command(), world.start_consumer(KAFKA_GROUP_INSTANCE_ID="one")
    for service in (command, consumer):
        service.wait_until_ready(60)

    def post() -> str:
        before = time.monotonic()
        answer = command.ask("POST", "/app")
        assert answer.status == 200, answer
        assert time.monotonic() - before < FAILOVER_SECONDS
        identifier: str = answer.json()["id"]
        return identifier

    posted = {post() for _ in range(20)}
    until("rows are written", lambda: posted <= set(world.rows()))
    getattr(cluster.leader("__consumer_offsets", 0), fault)()
    with ThreadPoolExecutor(20) as pool:
        posting = [pool.submit(post) for _ in range(20)]
        assert command.status("/ready") == 200
        # What is on its way is finished first.
        time.sleep(0.5)
        command.process.send(signal.SIGTERM)
        posted |= {each.result() for each in posting}
    assert command.process.wait(30) == 0
    command = world.start_command()
    command.wait_until_ready()
    posted |= {post() for _ in range(20)}
    until("rows are written without it", lambda: posted <= set(world.rows()), 60)
    until("offsets are committed without it", lambda: sum(world.committed().values()) >= len(posted), 60)
    assert consumer.status("/ready") == 200
