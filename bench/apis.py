"""The rows of the APIs: recording and reading, compared with the bare application in the same round."""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.integration.kafka import Kafka

from bench import kafka_ruler, usage, wrk
from bench.client import Client
from bench.report import Sample

INSTANT = "2009-09-28T19:03:12.123Z"
BULK = 1000
# The connections of the rows of GET, and of most others.
_MANY = 64
_SEEDS = 5000
# With fewer records the ruler's JVM does not get warm.
_RULER_RECORDS = 1_000_000
# Before that the broker's JVM still compiles its code, and needs three times as long for a request.
_WARM_SECONDS = 12.0


@dataclass(frozen=True)
class Target:
    """A service that is measured: its URLs, and the processes behind it that can be watched, by kind."""

    name: str
    command: str
    query: str
    processes: Mapping[str, tuple[int, ...]]
    authority: str | None = None


@dataclass(frozen=True)
class Loads:
    """The loads: posts, reads (by target, of its own records), and bulks."""

    posts: wrk.Load
    bulk: wrk.Load
    reads: Mapping[str, wrk.Load]


def make_loads(folder: Path, targets: list[Target], seeds: int = _SEEDS) -> Loads:
    """Write the files for wrk. The records to read are posted here, and can be read once this returns."""
    chance = random.Random(1)  # noqa: S311 (nothing secret)
    instants = [_instant(chance) for _ in range(1000)]
    posts = folder / "posts"
    posts.write_text("".join(f"/api/v1/timestamp/{instant}\n" for instant in instants))
    bulk, body = folder / "bulk", folder / "bulk.json"
    bulk.write_text("/api/v1/timestamps\n")
    body.write_text(json.dumps([_instant(chance) for _ in range(BULK)]))
    reads: dict[str, wrk.Load] = {}
    for target in targets:
        command, query = (Client(url, target.authority) for url in (target.command, target.query))
        identifiers = [command.post(instants[number % len(instants)]) for number in range(seeds)]
        for identifier in identifiers:
            query.get(identifier)
        command.close()
        query.close()
        chance.shuffle(identifiers)
        paths = folder / f"reads-{len(reads)}"
        paths.write_text("".join(f"/api/v1/timestamp/{identifier}\n" for identifier in identifiers))
        reads[target.name] = wrk.Load("GET", paths)
    return Loads(wrk.Load("POST", posts), wrk.Load("POST", bulk, body), reads)


def rounds(
    targets: list[Target],
    loads: Loads,
    bare: Target,
    kafka: Kafka | None,
    count: int,
    seconds: float,
    connections: Sequence[int] = (_MANY, 256, 1),
) -> Iterator[Sample]:
    """Measure all rows `count` times in turn, after a warm-up; POST with each number of connections.

    Bulks are measured only next to their ruler, which needs a broker of its own.
    """
    can_bulk = {target.name: kafka is not None and _can_bulk(target, loads) for target in targets}
    for target in targets:
        for many in (_MANY, 256):
            wrk.run(target.command, loads.posts, many, min(_WARM_SECONDS, 3 * seconds))
    for number in range(count + 1):
        length = seconds if number else 2
        # The order alternates: each load leaves writes behind that slow down the next one.
        order = targets if number % 2 else targets[::-1]
        for measured in _round(order, loads, bare, kafka, can_bulk, length, connections):
            if number:
                yield measured


def _round(
    targets: list[Target],
    loads: Loads,
    bare: Target,
    kafka: Kafka | None,
    can_bulk: Mapping[str, bool],
    seconds: float,
    connections: Sequence[int],
) -> Iterator[Sample]:
    rulers: dict[int, Sample] = {}
    for number in connections:
        answered, cpu = watched(bare, partial(wrk.run, bare.command, loads.posts, number, seconds))
        name = f"bare application, {number}"
        rulers[number] = sample(name, "req/s", answered, answered.per_second, cpu=cpu)
        yield rulers[number]
    for target in targets:
        for number in connections:
            answered, cpu = watched(target, partial(_post, target, loads.posts, number, seconds))
            name = f"POST, {number} @ {target.name}"
            yield compared(sample(name, "req/s", answered, answered.per_second, cpu=cpu), rulers[number])
        reads = loads.reads[target.name]
        answered, cpu = watched(target, partial(wrk.run, target.query, reads, _MANY, seconds))
        name = f"GET by id, {_MANY} @ {target.name}"
        yield compared(sample(name, "req/s", answered, answered.per_second, cpu=cpu), rulers[_MANY])
    if kafka is None or not any(can_bulk.values()):
        return
    ruler = kafka_ruler.records_per_second(kafka, _RULER_RECORDS)
    yield Sample("ProducerPerformance", "rec/s", ruler, ruler)
    for target in targets:
        if can_bulk[target.name]:
            answered, cpu = watched(target, partial(wrk.run, target.command, loads.bulk, 4, seconds))
            each = {name: value / BULK for name, value in cpu.items()}
            name = f"bulk of {BULK}, 4 @ {target.name}"
            yield sample(name, "rec/s", answered, answered.per_second * BULK, ruler, each)


def _post(target: Target, load: wrk.Load, connections: int, seconds: float) -> wrk.Answered:
    answered = wrk.run(target.command, load, connections, seconds)
    if "consumer" in target.processes:
        # What it costs to write a record into the database belongs to the record.
        catch_up(target)
    return answered


def catch_up(target: Target) -> None:
    """Wait until what was posted can be read."""
    command, query = (Client(url, target.authority) for url in (target.command, target.query))
    # Partitions are read in turn: several records meet the end of each.
    for _ in range(12):
        query.get(command.post(INSTANT))
        time.sleep(0.01)
    command.close()
    query.close()


def _can_bulk(target: Target, loads: Loads) -> bool:
    client = Client(target.command, target.authority)
    body = loads.bulk.body.read_bytes() if loads.bulk.body is not None else None
    status, _ = client.ask("POST", "/api/v1/timestamps", body)
    client.close()
    return status == 200


def watched(target: Target, measure: Callable[[], wrk.Answered]) -> tuple[wrk.Answered, dict[str, float]]:
    """Return the result of `measure`, and the CPU µs per request of each kind of process of the target."""
    before = {name: usage.cpu_seconds(*pids) for name, pids in target.processes.items()}
    answered = measure()
    used = {name: usage.cpu_seconds(*pids) - before[name] for name, pids in target.processes.items()}
    return answered, {name: seconds * 1e6 / max(answered.requests, 1) for name, seconds in used.items()}


def sample(
    row: str,
    unit: str,
    answered: wrk.Answered,
    value: float,
    ruler: float | None = None,
    cpu: Mapping[str, float] | None = None,
) -> Sample:
    """Return the sample of a row; `value` and `ruler` are in `unit`."""
    return Sample(row, unit, value, ruler, answered.p50, answered.p99, cpu or {}, answered.failed)


def compared(measured: Sample, ruler: Sample) -> Sample:
    """Return a sample with its ruler, of the same round."""
    return replace(measured, ruler=ruler.value, ruler_cpu=sum(ruler.cpu.values()))


def _instant(chance: random.Random) -> str:
    return (
        f"{chance.randint(1970, 2030)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
        f"T{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:{chance.randint(0, 59):02}"
        f".{chance.randint(0, 999):03}Z"
    )
