"""The end-to-end rows: how soon a posted record can be read, when idle and while many others post."""

import threading
import time
from collections.abc import Iterator
from statistics import median, quantiles

from bench import apis, usage, wrk
from bench.apis import INSTANT, Loads, Target
from bench.client import Client
from bench.report import Sample

_PROBES_PER_SECOND = 5


def idle(target: Target, count: int, probes: int) -> Iterator[Sample]:
    """Post a record and read it, repeatedly and with a pause: milliseconds from sending to reading."""
    command, query = (Client(url, target.authority) for url in (target.command, target.query))
    for _ in range(count):
        latencies = []
        for _ in range(probes):
            time.sleep(0.05)
            latencies.append(_probe(command, query))
        yield Sample(
            f"posted to readable, idle @ {target.name}",
            "ms",
            median(latencies),
            p50=median(latencies),
            p99=quantiles(latencies, n=100)[-1],
        )


def loaded(target: Target, loads: Loads, seconds: float) -> Iterator[Sample]:
    """The same while posts run at 64 connections: the longest, and how long it takes after their end."""
    command, query = (Client(url, target.authority) for url in (target.command, target.query))
    latencies: list[float] = []
    after: list[float] = []

    def post_and_probe() -> wrk.Answered:
        answered: list[wrk.Answered] = []
        posting = threading.Thread(
            target=lambda: answered.append(wrk.run(target.command, loads.posts, 64, seconds))
        )
        posting.start()
        while posting.is_alive():
            latencies.append(_probe(command, query))
            posting.join(1 / _PROBES_PER_SECOND)
        ended = time.monotonic()
        apis.catch_up(target)
        after.append((time.monotonic() - ended) * 1000)
        return answered[0]

    posts, cpu = apis.watched(target, post_and_probe)
    name = f"POST, 64, with consumer @ {target.name}"
    yield apis.sample(name, "req/s", posts, posts.per_second, cpu=cpu)
    yield Sample(
        f"posted to readable, loaded @ {target.name}",
        "ms most",
        max(latencies),
        p50=median(latencies),
        p99=quantiles(latencies, n=100)[-1],
    )
    yield Sample(f"all readable after the end @ {target.name}", "ms", after[0])


def _probe(command: Client, query: Client) -> float:
    started = time.monotonic()
    query.get(command.post(INSTANT))
    return (time.monotonic() - started) * 1000


def memory(target: Target) -> Iterator[Sample]:
    """The resident memory of the largest process of each kind, now."""
    for name, pids in target.processes.items():
        yield Sample(f"memory of {name}", "MiB", usage.memory_mib(*pids))
