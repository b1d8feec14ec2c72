"""`make bench-app`: start the service on loopback, measure it, print the table, end what was started."""

import argparse
from collections.abc import Generator, Iterator
from contextlib import ExitStack

from bench import apis, consuming, costly, readable, report
from bench.apis import Target
from bench.report import Sample
from bench.stage import Stage, bare_app, stage

_GROUPS = ("http", "consumer", "readable", "costly")


def main() -> None:
    """Measure what was asked for. On Ctrl-C and SIGTERM end what was started, and print what was measured."""
    wanted = _arguments()
    print(report.machine(), flush=True)
    report.show(_measure(wanted))


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
    processes = {"command": command.process.pid, "query": query.process.pid}
    servers = {"broker": on.kafka.process.pid, "database": on.postgres.process.pid}
    urls = f"http://127.0.0.1:{command.port}", f"http://127.0.0.1:{query.port}"
    service_target = Target(
        "ours", urls[0], urls[1], {**processes, "consumer": consumer.process.pid, **servers}
    )
    others = [_target(text, wanted.authority) for text in wanted.url]
    loads = apis.make_loads(on.folder, [service_target, *others])
    if "readable" in wanted.only:
        for target in (service_target, *others):
            yield from readable.idle(target, wanted.rounds, 20 if wanted.quick else 100)
            yield from readable.loaded(target, loads, 5 if wanted.quick else wanted.loaded_seconds)
        yield from readable.memory(service_target)
    if "costly" in wanted.only:
        for target in (service_target, *others):
            yield from costly.rounds(target, wanted.rounds, 2 if wanted.quick else wanted.seconds)
    if "http" in wanted.only:
        # The consumer is measured alone, and must not slow down the APIs.
        consumer.process.terminate()
        ours = Target("ours", urls[0], urls[1], {**processes, **servers})
        seconds = 2 if wanted.quick else wanted.seconds
        yield from apis.rounds([ours, *others], loads, bare, on.kafka, wanted.rounds, seconds)
        yield from readable.memory(Target("ours", urls[0], urls[1], processes))
    for service in (command, query, consumer):
        service.process.terminate()


def _target(text: str, authority: str | None) -> Target:
    """Return the target that `NAME=URL[,URL]` describes; the second URL is for reading."""
    name, _, urls = text.rpartition("=")
    command, _, query = urls.partition(",")
    return Target(name or urls, command, query or command, {}, authority)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only check that it works: short, two rounds")
    parser.add_argument("--rounds", type=int, help="rounds of each row (5)")
    parser.add_argument("--seconds", type=float, default=4, help="seconds of load a row and round (4)")
    parser.add_argument(
        "--loaded-seconds", type=float, default=60, help="seconds of posting while reading (60)"
    )
    parser.add_argument("--records", type=int, help="messages for the consumer (1000000)")
    parser.add_argument("--only", nargs="+", choices=_GROUPS, default=_GROUPS, help="groups of rows")
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="NAME=URL[,URL]",
        help="measure the service there in turn with ours; the second URL, if any, is for reading",
    )
    parser.add_argument("--authority", help="file with the CA certificate of such a service")
    wanted = parser.parse_args()
    wanted.rounds = wanted.rounds or (2 if wanted.quick else 5)
    wanted.records = wanted.records or (50_000 if wanted.quick else 1_000_000)
    return wanted


if __name__ == "__main__":
    main()
