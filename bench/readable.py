"""The end-to-end rows: how soon a posted record can be read, when idle and while many others post."""

import threading
import time
from collections.abc import Iterator
from statistics import median, quantiles

from bench import usage, wrk
from bench.apis import Loads, Target
from bench.client import Client
from bench.report import Sample

_INSTANT = "2009-09-28T19:03:12.123Z"
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
    before = {name: usage.cpu_seconds(pid) for name, pid in target.processes.items()}
    answered: list[wrk.Answered] = []
    posting = threading.Thread(
        target=lambda: answered.append(wrk.run(target.command, loads.posts, 64, seconds))
    )
    posting.start()
    while posting.is_alive():
        latencies.append(_probe(command, query))
        posting.join(1 / _PROBES_PER_SECOND)
    ended = time.monotonic()
    # Partitions are read in turn: several records meet the end of each.
    for _ in range(12):
        _probe(command, query)
        time.sleep(0.01)
    after = (time.monotonic() - ended) * 1000
    used = {name: usage.cpu_seconds(pid) - before[name] for name, pid in target.processes.items()}
    posts = answered[0]
    yield Sample(
        f"POST, 64, with consumer @ {target.name}",
        "req/s",
        posts.per_second,
        p50=posts.p50,
        p99=posts.p99,
        cpu={name: cpu * 1e6 / posts.requests for name, cpu in used.items()},
        failed=posts.failed,
    )
    yield Sample(
        f"posted to readable, loaded @ {target.name}",
        "ms most",
        max(latencies),
        p50=median(latencies),
        p99=quantiles(latencies, n=100)[-1],
    )
    yield Sample(f"all readable after the end @ {target.name}", "ms", after)


def _probe(command: Client, query: Client) -> float:
    started = time.monotonic()
    query.get(command.post(_INSTANT))
    return (time.monotonic() - started) * 1000


def memory(target: Target) -> Iterator[Sample]:
    """The resident memory of the largest process of each kind, now."""
    for name, pid in target.processes.items():
        yield Sample(f"memory of {name}", "MiB", usage.memory_mib(pid))
