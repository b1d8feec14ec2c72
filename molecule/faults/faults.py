"""The faults: each does something to the nodes under load, and returns when it is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from disturbed import ask, reboot, run, until
from nodes import (
    COMMAND,
    CONSUMER,
    KAFKA,
    NGINX,
    QUERY,
    Nodes,
    broker,
    cut_off,
    first_process,
    frozen,
    full,
    journal,
    kill,
    power_cut,
    processor_seconds,
    run_program,
    small_volume,
    stopped,
    workers,
)

DEAD_LETTERS = "timestamp.command.v1.dead-letter"
# A POST or GET that a fault does not concern is answered as ever.
NEVER: frozenset[str] = frozenset()
# What a client sees of a process that ends: nothing, half an answer, or nginx's word for it.
GONE = frozenset({"closed", "cut", "not_connected", "connect_timeout", "tls", "timeout"})
# nginx that reloads ends a kept connection, on which the client may be sending just then.
KEPT = frozenset({"closed"})
UNAVAILABLE = frozenset({"503"})
PROXY = frozenset({"502", "503", "504"})
# A record that is acknowledged and not yet projected.
BEHIND = frozenset({"404"})
POISON_COUNT = 1000
# A broker that does not answer costs a POST the 5 s of its acknowledgement, and a little.
ANSWER_SECONDS = 6.0
# Of a core, while all that a worker has to do is to say no.
SPIN_SHARE = 0.5


def nothing_around(_: Nodes) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Fault:
    """A fault: `do` returns when it is over, or when (monotonic) it was; the errors that a client may see.

    `around` sets the scene before the load begins. POSTs are answered in time where `in_time` is set.
    """

    name: str
    do: Callable[[Nodes], float | None]
    post: frozenset[str] = NEVER
    get: frozenset[str] = NEVER
    around: Callable[[Nodes], AbstractContextManager[None]] = nothing_around
    in_time: bool = False
    marks: list[pytest.MarkDecorator] = field(default_factory=list)


def kill_worker(unit: str) -> Callable[[Nodes], None]:
    """Return what kills one of gunicorn's workers."""

    def do(nodes: Nodes) -> None:
        run(nodes.web, f"kill -KILL {workers(nodes.web, unit)[0]}")

    return do


def kill_consumer_in_batch(nodes: Nodes) -> float:
    """Kill the consumer after it has committed rows, and before it has committed their offsets.

    It commits offsets twice a second and rows all the time, so that this is where it nearly always is. The
    next process must read those messages again, which shows that it was; else it is killed once more.
    """
    for _ in range(5):
        begun, end = time.time(), time.monotonic()
        kill(nodes.web, CONSUMER)
        assert until(lambda begun=begun: len(batches(nodes, begun)) > 1, 30), "the consumer does not go on"  # type: ignore[misc]
        if sum(line["duplicates"] for line in batches(nodes, begun)):
            return end
    raise AssertionError("no offset was left uncommitted: that was no fault")


def batches(nodes: Nodes, since: float) -> list[dict[str, Any]]:
    """Return what the consumer has logged of its batches since a time (Unix) by a process started since."""
    lines = [json.loads(line) for line in journal(nodes.web, CONSUMER, since) if line.startswith("{")]
    begins = [place for place, line in enumerate(lines) if line["event"] == "started"]
    return [line for line in lines[begins[-1] :] if line["event"] == "batch"] if begins else []


def stop_kafka(nodes: Nodes) -> None:
    """Stop Kafka for a minute: the workers stay, and do not spin."""

    with stopped(nodes.db, KAFKA):
        time.sleep(10)
        processes = workers(nodes.web, COMMAND)
        before, begun = processor_seconds(nodes.web, processes), time.monotonic()
        time.sleep(50)
        assert workers(nodes.web, COMMAND) == processes, "a worker was replaced"
        share = (processor_seconds(nodes.web, processes) - before) / (time.monotonic() - begun)
        assert share < SPIN_SHARE * len(processes), f"the workers took {share:.0%} of a core without a broker"


def for_seconds(
    seconds: float, fault: Callable[[Nodes], AbstractContextManager[None]]
) -> Callable[[Nodes], None]:
    """Return what makes a fault last."""

    def do(nodes: Nodes) -> None:
        with fault(nodes):
            time.sleep(seconds)

    return do


def fill_kafka(nodes: Nodes) -> None:
    """Fill the log's volume until Kafka stops, and free it."""
    with full(nodes.db, "/var/lib/kafka"):
        assert until(lambda: ask(nodes.db, f"systemctl is-active {KAFKA}").stdout != "active\n", 60), (
            "Kafka goes on with a full volume"
        )
        time.sleep(20)


def fill_postgresql(nodes: Nodes) -> None:
    """Fill the database's volume until nothing can be written, and free it."""
    begun = time.time()
    with full(nodes.db, "/var/lib/postgresql"):
        assert until(
            lambda: any("database_write_failed" in line for line in journal(nodes.web, CONSUMER, begun)), 60
        ), "the consumer goes on with a full volume"
        time.sleep(20)


def poison(nodes: Nodes) -> None:
    """Send bad messages among the good ones: each becomes a dead letter, and holds up nothing."""
    sent = run_program(nodes, "poison.py", broker(nodes), str(POISON_COUNT), "10")
    assert sent["taken"] == POISON_COUNT
    assert sent["refused"] == ["MSG_SIZE_TOO_LARGE"] * 10
    places = {tuple(place) for place in sent["places"]}

    def missing() -> set[tuple[int, ...]]:
        letters = run_program(nodes, "read_topic.py", broker(nodes), DEAD_LETTERS)
        headers = [letter["headers"] for letter in letters]
        return places - {(int(one["source.partition"]), int(one["source.offset"])) for one in headers}

    assert until(lambda: not missing(), 30), f"{len(missing())} of {POISON_COUNT} are no dead letters"


SECOND = "timestamp-consumer-second.service"


@contextmanager
def second_consumer(nodes: Nodes) -> Iterator[None]:
    """Prepare the settings of a second consumer, and see that none is left."""
    run(
        nodes.web,
        "sed -e s/^SERVER_PORT=.*/SERVER_PORT=7181/ -e '/^KAFKA_GROUP_INSTANCE_ID=/s/-7081$/-7181/'"
        " /etc/timestamp-service/timestamp-consumer.env > /run/second.env"
        " && grep -q '^KAFKA_GROUP_INSTANCE_ID=.*-7181$' /run/second.env",
    )
    try:
        yield
    finally:
        ask(
            nodes.web,
            f"systemctl kill --signal=KILL {SECOND}; systemctl reset-failed {SECOND}; rm /run/second.env",
        )


def rebalance(nodes: Nodes) -> None:
    """Have a second consumer come and be killed, and the first one killed meanwhile, in full flow."""
    begun = time.time()
    secrets = "/etc/timestamp-service/timestamp-consumer"
    run(
        nodes.web,
        f"systemd-run --quiet --collect --unit={SECOND} --property=EnvironmentFile=/run/second.env"
        f" --setenv=DB_PASSWORD_FILE={secrets}.db_password_file"
        f" --setenv=KAFKA_PASSWORD_FILE={secrets}.kafka_password_file"
        " /opt/timestamp-service/current/venv/bin/timestamp-consumer",
    )

    def partitions(unit: str) -> int:
        """Return how many partitions a consumer has been given and not had taken since the beginning."""
        held = 0
        for line in journal(nodes.web, unit, begun):
            said = json.loads(line) if line.startswith("{") else {}
            if said.get("event") in ("assigned", "revoked", "lost"):
                held += len(said["partitions"]) * (1 if said["event"] == "assigned" else -1)
        return held

    assert until(lambda: partitions(SECOND) == 6, 30), "the second consumer gets no half of the partitions"
    time.sleep(3)
    kill(nodes.web, CONSUMER)
    time.sleep(5)
    kill(nodes.web, SECOND)


def renew_certificates(nodes: Nodes) -> None:
    """Let the roles recreate every certificate."""
    folder = nodes.service.certificate_authority.parent
    authority = nodes.service.certificate_authority.name
    old = {path: path.read_bytes() for path in folder.glob("*.crt") if path.name != authority}
    assert len(old) >= 3
    for path in old:
        path.unlink()
    nodes.play("molecule/faults/renew.yml")
    assert all(path.read_bytes() != content for path, content in old.items())


def cut_power(name: str) -> Callable[[Nodes], None]:
    """Return what ends a machine at once and switches it on again."""

    def do(nodes: Nodes) -> None:
        node = nodes.db if name == "db" else nodes.web
        if first_process(nodes.service, node) is None:
            pytest.skip("only the machines of this computer can be ended so")
        power_cut(nodes, node)

    return do


SHORT = [pytest.mark.short]
FAULTS = (
    Fault("command-worker-killed", kill_worker(COMMAND), post=GONE | PROXY),
    Fault("query-worker-killed", kill_worker(QUERY), get=GONE | PROXY),
    Fault("command-master-killed", lambda nodes: kill(nodes.web, COMMAND), post=GONE | PROXY),
    Fault("query-master-killed", lambda nodes: kill(nodes.web, QUERY), get=GONE | PROXY),
    Fault("consumer-killed-in-a-batch", kill_consumer_in_batch, post=UNAVAILABLE, get=BEHIND, marks=SHORT),
    Fault("kafka-killed", lambda nodes: kill(nodes.db, KAFKA), post=UNAVAILABLE, get=BEHIND, marks=SHORT),
    Fault(
        "postgresql-killed",
        lambda nodes: kill(nodes.db, nodes.postgresql),
        get=UNAVAILABLE | BEHIND,
        marks=SHORT,
    ),
    Fault("nginx-killed", lambda nodes: kill(nodes.web, NGINX), post=GONE, get=GONE, marks=SHORT),
    Fault("db-rebooted", lambda nodes: reboot(nodes.db), post=UNAVAILABLE, get=UNAVAILABLE | BEHIND),
    Fault("web-rebooted", lambda nodes: reboot(nodes.web), post=GONE | PROXY, get=GONE | PROXY | BEHIND),
    Fault("db-without-power", cut_power("db"), post=UNAVAILABLE, get=UNAVAILABLE | BEHIND),
    Fault("web-without-power", cut_power("web"), post=GONE | PROXY, get=GONE | PROXY | BEHIND),
    Fault("nodes-cut-off-30-s", for_seconds(30, cut_off), post=UNAVAILABLE, get=UNAVAILABLE | BEHIND),
    Fault(
        "postgresql-stopped-60-s",
        for_seconds(60, lambda nodes: stopped(nodes.db, nodes.postgresql)),
        get=UNAVAILABLE | BEHIND,
    ),
    # What the consumer had not fetched in time waits for Kafka; all else is read as ever.
    Fault("kafka-stopped-60-s", stop_kafka, post=UNAVAILABLE, get=BEHIND, in_time=True),
    Fault(
        "postgresql-frozen-30-s",
        for_seconds(30, lambda nodes: frozen(nodes.db, nodes.postgresql)),
        get=UNAVAILABLE | BEHIND,
    ),
    Fault(
        "kafka-frozen-30-s",
        for_seconds(30, lambda nodes: frozen(nodes.db, KAFKA)),
        post=UNAVAILABLE,
        get=BEHIND,
        in_time=True,
    ),
    Fault(
        "kafka-volume-full",
        fill_kafka,
        post=UNAVAILABLE,
        get=BEHIND,
        around=lambda nodes: small_volume(nodes.db, KAFKA, "/var/lib/kafka"),
    ),
    Fault(
        "postgresql-volume-full",
        fill_postgresql,
        get=UNAVAILABLE | BEHIND,
        around=lambda nodes: small_volume(nodes.db, nodes.postgresql, "/var/lib/postgresql"),
    ),
    Fault("poison-messages", poison, get=BEHIND),
    Fault("two-consumers-and-a-rebalance", rebalance, get=BEHIND, around=second_consumer),
    Fault("certificates-renewed", renew_certificates, post=UNAVAILABLE | KEPT, get=BEHIND | KEPT),
)
