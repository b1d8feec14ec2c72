"""What Prometheus reads from the three processes."""

import json
import os
import signal
import time
import uuid

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.processes import until
from tests.integration.service import Running, Service, World

pytestmark = pytest.mark.integration

RECORD = "/api/v1/timestamp/{text}"


def value(service: Service, name: str, **labels: str) -> float:
    """Return the value of one sample; 0 when it is not there."""
    answer = service.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = [
        sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else 0.0


def requests(service: Service, method: str, route: str, status: str) -> float:
    """Return how many requests there were of a kind."""
    name = "timestamp_http_request_duration_seconds_count"
    return value(service, name, method=method, route=route, status=status)


def test_requests_are_counted_by_route_method_and_status(running: Running) -> None:
    identifier = running.post("2009-09-28T19:03:12Z")
    running.get(identifier)
    running.get(identifier)
    for path in ("/nowhere", f"/{uuid.uuid4()}"):
        running.query.ask("GET", path)
    running.command.ask("POST", "/api/v1/timestamp/x")

    assert requests(running.command, "POST", RECORD, "200") == 1
    assert requests(running.command, "POST", RECORD, "400") == 1
    assert requests(running.query, "GET", RECORD, "200") == 2
    # Whatever is asked for.
    assert requests(running.query, "GET", "none", "404") == 2


def test_what_the_command_api_sends(running: Running) -> None:
    before = value(running.command, "timestamp_command_produced_total")
    acknowledged = value(running.command, "timestamp_command_acknowledgement_seconds_count")
    running.post("2009-09-28T19:03:12Z")
    body = json.dumps(["2009-09-28T19:03:12Z"] * 50).encode()
    headers = {"Content-Type": "application/json"}
    assert running.command.ask("POST", "/api/v1/timestamps", headers, body).status == 200
    assert value(running.command, "timestamp_command_produced_total") == before + 51
    # A bulk is acknowledged as a whole.
    assert value(running.command, "timestamp_command_acknowledgement_seconds_count") == acknowledged + 2
    assert value(running.command, "timestamp_command_failed_total") == 0
    assert value(running.command, "timestamp_command_in_flight") == 0


def test_what_the_query_api_holds(running: Running) -> None:
    # Two for lookups, one for pages.
    assert value(running.query, "timestamp_query_database_connections") == 3
    assert value(running.query, "timestamp_query_waiting") == 0


def test_several_workers_give_one_sum(world: World) -> None:
    command = world.start_command(WORKERS="3")
    command.wait_until_ready()
    sent = 60

    def all_counted() -> bool:
        return requests(command, "POST", "/app", "200") == sent

    for _ in range(sent):
        until("it is acknowledged", lambda: command.ask("POST", "/app").status == 200)
    failed = requests(command, "POST", "/app", "503")
    assert failed < sent
    until("every worker tells the sum", all_counted, 5)
    # Each worker is asked sooner or later.
    assert all(all_counted() for _ in range(20))
    assert value(command, "timestamp_command_produced_total") == sent

    # A worker that ends takes nothing along.
    workers = command.process.children()
    assert len(workers) == 3
    os.kill(workers[0], signal.SIGTERM)
    until("there is another worker", lambda: set(command.process.children()) - set(workers), 20)
    until("all is counted", all_counted, 10)
    assert command.process.terminate() == 0


def test_what_the_consumer_does(world: World) -> None:
    good = [
        (identifier.encode(), json.dumps({"command_id": identifier, "event_timestamp": instant}).encode())
        for number in range(100)
        for identifier, instant in [(str(uuid.UUID(int=number % 60)), "2009-09-28T19:03:12Z")]
    ]
    world.produce([*((key, content, []) for key, content in good), *[(b"x", b"nonsense", [])] * 3])
    consumer = world.start_consumer()
    consumer.wait_until_ready()
    until("all are consumed", lambda: value(consumer, "timestamp_consumer_consumed_total") == len(good) + 3)
    assert value(consumer, "timestamp_consumer_written_total") == 60
    assert value(consumer, "timestamp_consumer_duplicates_total") == 40
    assert value(consumer, "timestamp_consumer_dead_letters_total") == 3
    assert value(consumer, "timestamp_consumer_batch_messages_sum") == len(good) + 3
    assert value(consumer, "timestamp_consumer_batch_seconds_count") >= 1
    until("there is no lag", lambda: value(consumer, "timestamp_consumer_lag_messages") == 0)
    assert value(consumer, "timestamp_consumer_lag_seconds") == 0


def test_the_lag_grows_while_nothing_can_be_written(world: World) -> None:
    consumer = world.start_consumer()
    consumer.wait_until_ready()
    world.postgres.run(world.database, "REVOKE INSERT ON timestamp_records FROM timestamp_consumer")
    world.produce(
        [
            (b"k", json.dumps({"command_id": str(uuid.uuid4()), "event_timestamp": t}).encode(), [])
            for t in ["2009-09-28T19:03:12Z"] * 5
        ]
    )
    until("there is a lag", lambda: value(consumer, "timestamp_consumer_lag_messages") == 5)
    time.sleep(1.5)
    assert value(consumer, "timestamp_consumer_lag_seconds") > 1
    assert value(consumer, "timestamp_consumer_seconds_since_progress") > 1
    world.postgres.run(world.database, "GRANT INSERT ON timestamp_records TO timestamp_consumer")
    until("the lag is gone", lambda: value(consumer, "timestamp_consumer_lag_messages") == 0)
    until("it goes on", lambda: value(consumer, "timestamp_consumer_seconds_since_progress") < 2.5)
    assert value(consumer, "timestamp_consumer_lag_seconds") == 0
