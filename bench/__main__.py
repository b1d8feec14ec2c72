"""Measure the service next to rulers, and print the table.

`make bench-app` starts the service on loopback, and ends what it started. `make bench` measures the nodes of
an inventory from within the network of a web node: they must be containers on this computer, and this program
root. It records timestamps, which stay in the log of these nodes for ever: about a million in a run.
"""

import argparse
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import apis, consuming, costly, nodes, readable, report
from bench.apis import Loads, Target
from bench.nodes import NodesError
from bench.report import Sample
from bench.stage import Stage, bare_app, stage
from cli.inventory import InventoryError, read_service

_GROUPS = ("http", "consumer", "readable", "costly")
# Each is posted and read by one client, before anything is measured.
_SEEDS_OF_NODES = 1000


def main() -> None:
    """Measure what was asked for. On Ctrl-C and SIGTERM end what was started, and print what was measured."""
    wanted = _arguments()
    if wanted.inventory:
        try:
            direct, proxied = nodes.targets(read_service(wanted.inventory))
            nodes.enter_network(direct.processes["nginx"][0])
        except (InventoryError, NodesError, OSError) as error:
            sys.exit(str(error))
        samples = _measure_nodes(wanted, direct, proxied)
    else:
        samples = _measure(wanted)
    print(report.machine(), flush=True)
    report.show(samples)


def _measure(wanted: argparse.Namespace) -> Generator[Sample, None, None]:
    with stage() as on, ExitStack() as stack:
        if {"http", "readable", "costly"} & set(wanted.only):
            yield from _service(wanted, on, stack)
        if "consumer" in wanted.only:
            yield from consuming.rounds(on, 2 if wanted.quick else wanted.rounds, wanted.records)


def _service(wanted: argparse.Namespace, on: Stage, stack: ExitStack) -> Iterator[Sample]:
    bare = stack.enter_context(bare_app(on.folder))
    command, query = on.world.start_command(), on.world.start_query()
    consumer = on.world.start_consumer()
    for service in (command, query, consumer):
        service.wait_until_ready()
    processes = {"command": (command.process.pid,), "query": (query.process.pid,)}
    servers = {"broker": (on.kafka.process.pid,), "database": (on.postgres.process.pid,)}
    urls = f"http://127.0.0.1:{command.port}", f"http://127.0.0.1:{query.port}"
    service_target = Target("ours", *urls, {**processes, "consumer": (consumer.process.pid,), **servers})
    others = [_target(text, wanted.authority) for text in wanted.url]
    loads = apis.make_loads(on.folder, [service_target, *others])
    yield from _end_to_end(wanted, [service_target, *others], loads)
    if "readable" in wanted.only:
        yield from readable.memory(service_target)
    if "http" in wanted.only:
        # The consumer is measured alone, and must not slow down the APIs.
        consumer.process.terminate()
        ours = Target("ours", *urls, {**processes, **servers})
        yield from apis.rounds([ours, *others], loads, bare, on.kafka, wanted.rounds, wanted.seconds)
        yield from readable.memory(Target("ours", *urls, processes))
    for service in (command, query, consumer):
        service.process.terminate()


def _measure_nodes(
    wanted: argparse.Namespace, direct: Target, proxied: Target
) -> Generator[Sample, None, None]:
    with tempfile.TemporaryDirectory(prefix="timestamp-service-bench-") as name:
        folder = Path(name)
        loads = apis.make_loads(folder, [direct, proxied], _SEEDS_OF_NODES)
        if "http" in wanted.only:
            with bare_app(folder) as bare:
                yield from apis.rounds(
                    [direct, proxied], loads, bare, None, wanted.rounds, wanted.seconds, (64, 1)
                )
        yield from _end_to_end(wanted, [proxied], loads)


def _end_to_end(wanted: argparse.Namespace, targets: list[Target], loads: Loads) -> Iterator[Sample]:
    """Measure what needs the consumer."""
    if "readable" in wanted.only:
        for target in targets:
            yield from readable.idle(target, wanted.rounds, 20 if wanted.quick else 100)
            yield from readable.loaded(target, loads, 5 if wanted.quick else wanted.loaded_seconds)
    if "costly" in wanted.only:
        for target in targets:
            yield from costly.rounds(target, wanted.rounds, wanted.seconds)


def _target(text: str, authority: str | None) -> Target:
    """Return the target that `NAME=URL[,URL]` describes; the second URL is for reading."""
    name, _, urls = text.rpartition("=")
    command, _, query = urls.partition(",")
    return Target(name or urls, command, query or command, {}, authority)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inventory", help="measure the running nodes of this inventory (`make bench`)")
    parser.add_argument("--quick", action="store_true", help="only check that it works: short, two rounds")
    parser.add_argument("--rounds", type=int, help="rounds of each row (5)")
    parser.add_argument("--seconds", type=float, help="seconds of load a row and round (4)")
    parser.add_argument(
        "--loaded-seconds", type=float, default=60, help="seconds of posting while reading (60)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=_GROUPS, help="groups of rows (all; of nodes: http readable)"
    )
    loopback = parser.add_argument_group("not with --inventory")
    loopback.add_argument("--records", type=int, help="messages for the consumer (1000000)")
    loopback.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="NAME=URL[,URL]",
        help="measure the service there in turn with ours; the second URL, if any, is for reading",
    )
    loopback.add_argument("--authority", help="file with the CA certificate of such a service")
    wanted = parser.parse_args()
    if wanted.inventory and (wanted.records or wanted.url or wanted.authority):
        parser.error("--records, --url and --authority are for the service on loopback: use `make bench-app`")
    if wanted.inventory and "consumer" in (wanted.only or ()):
        parser.error("--only consumer empties the database: use `make bench-app`")
    wanted.rounds = wanted.rounds or (2 if wanted.quick else 5)
    wanted.seconds = 2 if wanted.quick else wanted.seconds or 4
    wanted.records = wanted.records or (50_000 if wanted.quick else 1_000_000)
    wanted.only = wanted.only or (("http", "readable") if wanted.inventory else _GROUPS)
    return wanted


if __name__ == "__main__":
    main()
