import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from tests.integration.kafka import Kafka, Plan
from tests.integration.kafka_proxy import KafkaProxy
from tests.integration.postgres import Postgres
from tests.integration.processes import serving, until
from tests.integration.service import Running, Service, World

pytestmark = pytest.mark.integration


@pytest.fixture
def started(world: World) -> Iterator[Running]:
    """All three processes, of one test alone. Broker and server run again afterwards."""
    running = Running(world, world.start_command(), world.start_query(), _consumer(world))
    for service in (running.command, running.query, running.consumer):
        service.wait_until_ready()
    yield running
    for server in (world.kafka, world.postgres):
        if server.process.running():
            server.thaw()
        else:
            server.start()


def _consumer(world: World) -> Service:
    # As on the nodes: the same member when it comes back, so that the group need not miss it first.
    return world.start_consumer(KAFKA_GROUP_INSTANCE_ID="one")


def check_all_work(running: Running) -> None:
    """Fail unless an instant passes end to end, through the same processes as before."""
    for service in (running.command, running.query, running.consumer):
        service.wait_until_ready(60)
    identifier = running.post("2009-09-28T19:03:12Z")
    until("the record can be read", lambda: running.get(identifier).status == 200)


def check_all_rows(running: Running, posted: list[str]) -> None:
    """Fail unless exactly what was answered 200 has a row; what was answered 503 may have one."""
    until("all rows are written", lambda: set(posted) <= set(running.world.rows()), 60)


def test_kafka_dies_and_returns(started: Running, kafka: Kafka) -> None:
    posted = [started.post() for _ in range(50)]
    kafka.kill()
    before = time.monotonic()
    answer = started.command.ask("POST", "/app")
    waited = time.monotonic() - before

    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    assert "127.0.0.1" not in answer.body.decode()
    assert 4.5 <= waited < 7
    assert started.command.status("/health") == 200
    assert started.command.status("/ready") == 503
    until("the consumer says so too", lambda: started.consumer.status("/ready") == 503)
    assert "kafka" in started.consumer.ask("GET", "/ready").json()["detail"]
    # Who reads does not need it.
    assert started.get(posted[0]).status == 200
    assert started.query.status("/ready") == 200

    kafka.start()

    check_all_work(started)
    check_all_rows(started, posted)


def test_kafka_freezes(started: Running, kafka: Kafka) -> None:
    posted = [started.post() for _ in range(50)]
    kafka.freeze()
    before = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: started.command.ask("POST", "/app"), range(50)))
    assert {answer.status for answer in answers} == {503}
    assert time.monotonic() - before < 8
    assert started.command.status("/health") == 200

    kafka.thaw()

    check_all_work(started)
    check_all_rows(started, posted)


def test_too_many_in_flight_are_refused_at_once(world: World) -> None:
    command = world.start_command(KAFKA_IN_FLIGHT_MAX="10")
    command.wait_until_ready()
    world.kafka.freeze()
    try:
        with ThreadPoolExecutor(30) as pool:
            before = time.monotonic()
            first = [pool.submit(command.ask, "POST", "/app") for _ in range(10)]
            time.sleep(0.5)
            second = [pool.submit(command.ask, "POST", "/app") for _ in range(10)]
            refused = [answer.result() for answer in second]
            assert time.monotonic() - before < 3
            assert {answer.status for answer in refused} == {503}
            assert "on their way" in refused[0].json()["detail"]
            assert refused[0].headers["retry-after"] == "1"
            assert {answer.result().status for answer in first} == {503}
    finally:
        world.kafka.thaw()
    # They are counted until the library lets go of them.
    until("there is room again", lambda: command.ask("POST", "/app").status == 200)


def test_clients_that_learned_that_there_are_no_brokers_are_replaced(
    postgres: Postgres, tmp_path: Path
) -> None:
    """A broker that stops may say so in its last moment, and librdkafka may never connect again then."""
    plan = Plan.of(1)
    proxy = KafkaProxy(plan.ports[0][0])
    with serving(partial(Kafka, plan=plan, advertised_port=proxy.port), tmp_path / "kafka") as kafka:
        kafka.bootstrap = f"127.0.0.1:{proxy.port}"
        world = World("brokerless", kafka, postgres, tmp_path)
        try:
            world.make_topics()
            world.make_database()
            running = Running(world, world.start_command(), world.start_query(), _consumer(world))
            services = (running.command, running.query, running.consumer)
            for service in services:
                service.wait_until_ready()

            def all_were_replaced() -> bool:
                # Chance decides in each round whether the library begins anew.
                proxy.away = True
                time.sleep(3)
                proxy.away = False
                for service in services:
                    service.wait_until_ready(60)
                return bool(
                    running.command.events("kafka_producer_failed")
                    and running.consumer.events("consumer_lost")
                )

            until("the library knew no broker any more", all_were_replaced, 240)
            check_all_work(running)
        finally:
            world.end()
            proxy.end()


def test_postgres_stops_and_returns(started: Running, postgres: Postgres) -> None:
    posted = [started.post() for _ in range(50)]
    check_all_rows(started, posted)
    postgres.stop()

    before = time.monotonic()
    answer = started.get(posted[0])
    # For so long it might only restart.
    assert time.monotonic() - before < 7
    before = time.monotonic()
    assert started.get(posted[0]).status == 503
    assert time.monotonic() - before < 1
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "127.0.0.1" not in answer.body.decode()
    assert "timestamp_records" not in answer.body.decode()
    assert started.query.status("/health") == 200
    assert "database" in started.query.ask("GET", "/ready").json()["detail"]
    # Who writes does not need it.
    posted += [started.post() for _ in range(50)]
    assert started.command.status("/ready") == 200
    until("the consumer says so too", lambda: started.consumer.status("/ready") == 503)
    assert "database" in started.consumer.ask("GET", "/ready").json()["detail"]
    assert sum(started.world.committed().values()) <= 50

    postgres.start()

    check_all_work(started)
    check_all_rows(started, posted)
    assert not started.world.read_topic(started.world.dead_letter_topic)


def test_a_consumer_that_was_paused_when_it_lost_its_partitions_goes_on(
    started: Running, kafka: Kafka, postgres: Postgres
) -> None:
    """The library forgets the assignment but not which partitions are paused: nothing would be read again."""
    posted = [started.post() for _ in range(20)]
    check_all_rows(started, posted)
    postgres.freeze()
    # One batch waits for the database, and the next one for that batch.
    posted += [started.post() for _ in range(20)]
    until("the consumer has paused", lambda: started.consumer.events("paused"), 60)
    kafka.freeze()
    until("it has lost its partitions", lambda: started.consumer.events("lost"), 60)
    postgres.thaw()
    until("it has written what it had", lambda: started.consumer.events("resumed"), 60)

    kafka.thaw()

    check_all_work(started)
    check_all_rows(started, posted)


def test_reads_wait_while_postgres_restarts(started: Running, postgres: Postgres) -> None:
    identifier = started.post()
    until("the record can be read", lambda: started.get(identifier).status == 200)
    ended = threading.Event()

    def read() -> set[int]:
        statuses = set()
        while not ended.is_set():
            statuses.add(started.get(identifier).status)
        return statuses

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for _ in range(2):
                postgres.stop()
                postgres.start()
                time.sleep(1)
        finally:
            ended.set()
        assert [reader.result() for reader in readers] == [{200}] * 4


def test_postgres_freezes(started: Running, postgres: Postgres) -> None:
    posted = [started.post() for _ in range(20)]
    check_all_rows(started, posted)
    postgres.freeze()

    before = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(started.get, posted))
    assert {answer.status for answer in answers} == {503}
    assert time.monotonic() - before < 6
    assert started.query.status("/health") == 200
    posted += [started.post() for _ in range(20)]

    postgres.thaw()

    check_all_work(started)
    check_all_rows(started, posted)


def test_a_long_outage_of_postgres_costs_nothing(started: Running, postgres: Postgres) -> None:
    """Longer than the group's patience (10 s): the consumer must go on polling, and hold little."""
    postgres.stop()
    posted = [started.post() for _ in range(200)]
    until("fetching has stopped", lambda: started.consumer.events("paused"))
    time.sleep(12)
    posted += [started.post() for _ in range(200)]
    assert not started.world.committed()
    assert not started.consumer.events("lost")
    assert len(started.consumer.events("assigned")) == 1

    postgres.start()

    check_all_rows(started, posted)
    assert started.consumer.events("resumed")
    assert len(started.consumer.events("assigned")) == 1
    until("offsets are committed", lambda: sum(started.world.committed().values()) >= len(posted))


@pytest.mark.parametrize("server", ["kafka", "postgres"])
@pytest.mark.parametrize("fault", ["down", "frozen"])
def test_sigterm_ends_all_in_an_outage(started: Running, server: str, fault: str) -> None:
    posted = [started.post()]
    victim: Kafka | Postgres = getattr(started.world, server)
    if fault == "frozen":
        victim.freeze()
    elif isinstance(victim, Kafka):
        victim.kill()
    else:
        victim.stop()
    if server == "postgres":
        # So that the consumer has something that it cannot write.
        posted += [started.post() for _ in range(20)]
    time.sleep(1)
    before = time.monotonic()
    services = (started.command, started.query, started.consumer)
    for service in services:
        service.process.send(signal.SIGTERM)
    codes = [service.process.wait(40) for service in services]
    assert codes == [0, 0, 0]
    # The units give 45 s.
    assert time.monotonic() - before < 30
    if fault == "frozen":
        victim.thaw()
    else:
        victim.start()
    # A batch that was given up is read again.
    _consumer(started.world).wait_until_ready(60)
    check_all_rows(started, posted)


def test_sigterm_ends_a_consumer_whose_commit_meets_a_frozen_broker(started: Running, kafka: Kafka) -> None:
    """The library alone would wait for ever; what is not committed is read again, and changes nothing."""
    posted = [started.post() for _ in range(20)]
    check_all_rows(started, posted)
    kafka.freeze()
    started.consumer.process.send(signal.SIGTERM)
    assert started.consumer.process.wait(30) == 0
    assert started.consumer.events("left_without_the_broker")
    kafka.thaw()
    _consumer(started.world).wait_until_ready(60)
    until("all is committed", lambda: sum(started.world.committed().values()) == len(posted))
    assert set(started.world.rows()) == set(posted)


def test_sigterm_finishes_what_is_in_flight(started: Running, kafka: Kafka) -> None:
    kafka.freeze()
    connection = HTTPConnection("127.0.0.1", started.command.port, timeout=20)
    connection.request("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z")
    time.sleep(0.5)
    started.command.process.send(signal.SIGTERM)
    time.sleep(0.5)
    kafka.thaw()
    assert connection.getresponse().status == 200
    assert started.command.process.wait(20) == 0


@pytest.mark.parametrize("waited", [False, True])
def test_sigterm_closes_no_connection_under_a_request(started: Running, waited: bool) -> None:
    """Who keeps a connection (nginx) hears that it is the last answer there, instead of none."""
    connection = HTTPConnection("127.0.0.1", started.command.port, timeout=20)

    def post() -> HTTPResponse:
        connection.request("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z", body=b"" if waited else None)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        return answer

    assert post().getheader("connection") != "close"
    started.command.process.send(signal.SIGTERM)
    time.sleep(1.5 if waited else 0)
    while post().getheader("connection") != "close":
        assert not waited
    # Nobody else keeps it from ending.
    assert started.command.process.wait(3) == 0


def test_sigterm_ends_waiting(started: Running) -> None:
    fresh = f"{time.time_ns() // 1_000_000:012x}"
    connection = HTTPConnection("127.0.0.1", started.query.port, timeout=20)
    connection.request(
        "GET",
        f"/api/v1/timestamp/{fresh[:8]}-{fresh[8:]}-7000-8000-000000000000",
        headers={"Prefer": "wait=30"},
    )
    time.sleep(0.3)
    before = time.monotonic()
    started.query.process.send(signal.SIGTERM)
    assert connection.getresponse().status == 404
    # Who waits for less gets what comes.
    assert 2 < time.monotonic() - before < 6
    assert started.query.process.wait(20) == 0
