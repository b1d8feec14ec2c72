"""The rows of the APIs: recording and reading, compared with the bare application in the same round."""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.integration.kafka import Kafka

from bench import kafka_ruler, usage, wrk
from bench.client import Client
from bench.report import Sample

BULK = 1000
_SEEDS = 5000
# With fewer records the ruler's JVM does not get warm.
_RULER_RECORDS = 1_000_000
# Before that the broker's JVM still compiles its code, and needs three times as long for a request.
_WARM_SECONDS = 12.0


@dataclass(frozen=True)
class Target:
    """A service that is measured: its URLs, and the processes behind it that can be watched, by name."""

    name: str
    command: str
    query: str
    processes: Mapping[str, int]
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
    targets: list[Target], loads: Loads, bare: str, kafka: Kafka | None, count: int, seconds: float
) -> Iterator[Sample]:
    """Measure all rows `count` times in turn, after a warm-up."""
    can_bulk = {target.name: _can_bulk(target, loads) for target in targets}
    for target in targets:
        for connections in (64, 256):
            wrk.run(target.command, loads.posts, connections, min(_WARM_SECONDS, 3 * seconds))
    for number in range(count + 1):
        length = seconds if number else 2
        for measured in _round(targets, loads, bare, kafka, can_bulk, length):
            if number:
                yield measured


def _round(
    targets: list[Target],
    loads: Loads,
    bare: str,
    kafka: Kafka | None,
    can_bulk: Mapping[str, bool],
    seconds: float,
) -> Iterator[Sample]:
    rulers = {}
    for connections in (64, 256):
        answered = wrk.run(bare, loads.posts, connections, seconds)
        rulers[connections] = answered.per_second
        yield sample(f"bare application, {connections}", "req/s", answered, answered.per_second)
    for target in targets:
        for connections in (64, 256, 1):
            answered, cpu = watched(
                target, partial(wrk.run, target.command, loads.posts, connections, seconds)
            )
            name = f"POST, {connections} @ {target.name}"
            yield sample(name, "req/s", answered, answered.per_second, rulers.get(connections), cpu)
        answered, cpu = watched(target, partial(wrk.run, target.query, loads.reads[target.name], 64, seconds))
        name = f"GET by id, 64 @ {target.name}"
        yield sample(name, "req/s", answered, answered.per_second, rulers[64], cpu)
    if not any(can_bulk.values()):
        return
    ruler = kafka_ruler.records_per_second(kafka, _RULER_RECORDS) if kafka else None
    if ruler is not None:
        yield Sample("ProducerPerformance", "rec/s", ruler, ruler)
    for target in targets:
        if can_bulk[target.name]:
            answered, cpu = watched(target, partial(wrk.run, target.command, loads.bulk, 4, seconds))
            each = {name: value / BULK for name, value in cpu.items()}
            name = f"bulk of {BULK}, 4 @ {target.name}"
            yield sample(name, "rec/s", answered, answered.per_second * BULK, ruler, each)


def _can_bulk(target: Target, loads: Loads) -> bool:
    client = Client(target.command, target.authority)
    body = loads.bulk.body.read_bytes() if loads.bulk.body is not None else None
    status, _ = client.ask("POST", "/api/v1/timestamps", body)
    client.close()
    return status == 200


def watched(target: Target, measure: Callable[[], wrk.Answered]) -> tuple[wrk.Answered, dict[str, float]]:
    """Return the result of `measure`, and the CPU µs per request of each process of the target."""
    before = {name: usage.cpu_seconds(pid) for name, pid in target.processes.items()}
    answered = measure()
    used = {name: usage.cpu_seconds(pid) - before[name] for name, pid in target.processes.items()}
    each = {name: seconds * 1e6 / max(answered.requests, 1) for name, seconds in used.items()}
    return answered, {name: microseconds for name, microseconds in each.items() if microseconds >= 0.5}


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


def _instant(chance: random.Random) -> str:
    return (
        f"{chance.randint(1970, 2030)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
        f"T{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:{chance.randint(0, 59):02}"
        f".{chance.randint(0, 999):03}Z"
    )
