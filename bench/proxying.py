"""`make bench`: the cost of nginx with TLS on the running nodes: requests through it and directly, in turn.

The load comes from within the web node's network for both, so that only the server differs. It records
timestamps, which stay in the log of these nodes for ever: some hundred thousand a run.
"""

import argparse
import sys
import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path

from bench import apis, nodes, report, wrk
from bench.apis import Target
from bench.nodes import Nodes, NodesError
from bench.report import Sample
from cli.inventory import InventoryError, Service, read_service
from cli.units import APIS

# Each is posted and read by one client, before anything is measured.
_SEEDS = 1000


def main() -> None:
    """Measure, and print the table; on Ctrl-C the rows measured so far."""
    wanted = _arguments()
    try:
        service = read_service(wanted.inventory)
        on = nodes.find(service)
    except (InventoryError, NodesError) as error:
        sys.exit(str(error))
    print(report.machine(), flush=True)
    report.show(_measure(service, on, wanted))


def targets(service: Service, on: Nodes) -> tuple[Target, Target]:
    """Return how the service is reached within the web node's network: directly, and through nginx."""
    ports = {unit: port for port, unit in APIS.items()}
    command, query = (
        f"http://127.0.0.1:{ports[f'timestamp-{name}.service']}" for name in ("command", "query")
    )
    authority = str(service.certificate_authority)
    return (
        Target("direct", command, query, on.processes),
        Target("through nginx", service.url, service.url, on.processes, authority),
    )


def _measure(service: Service, on: Nodes, wanted: argparse.Namespace) -> Generator[Sample, None, None]:
    direct, proxied = targets(service, on)
    with tempfile.TemporaryDirectory(prefix="timestamp-service-bench-") as name:
        loads = apis.make_loads(Path(name), [proxied], _SEEDS)
        kinds = {"GET by id": loads.reads[proxied.name], "POST": loads.posts}
        for number in range(wanted.rounds + 1):
            # The first round warms up the broker's JVM. The order alternates, since the first load leaves
            # writes behind that slow down the second.
            seconds = wanted.seconds if number else 3 * wanted.seconds
            order = (direct, proxied) if number % 2 else (proxied, direct)
            for kind, load in kinds.items():
                measured = {
                    target.name: apis.watched(
                        target,
                        partial(_run, target, kind, load, wanted.connections, seconds, on.within),
                    )
                    for target in order
                }
                ruler = measured[direct.name][0].per_second
                for target in (direct, proxied) if number else ():
                    answered, cpu = measured[target.name]
                    row = f"{kind}, {wanted.connections}, {target.name}"
                    yield apis.sample(row, "req/s", answered, answered.per_second, ruler, cpu)


def _run(
    target: Target, kind: str, load: wrk.Load, connections: int, seconds: float, within: tuple[str, ...]
) -> wrk.Answered:
    url = target.command if kind == "POST" else target.query
    return wrk.run(url, load, connections, seconds, within)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.proxying", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inventory", required=True, help="the inventory of the running nodes")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each row, after a warm-up (5)")
    parser.add_argument("--seconds", type=float, default=4, help="seconds of load a row and round (4)")
    parser.add_argument("--connections", type=int, default=64, help="kept-alive connections (64)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
