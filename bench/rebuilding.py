"""`make bench-rebuild`: a rebuild from a topic full of messages, proof and swap included, on loopback."""

import argparse

from tests.integration.processes import until
from timestamp_service.database.schema import TABLE

from bench import report, usage
from bench.consuming import preload
from bench.stage import stage


def main() -> None:
    """Rebuild several times, each time after TRUNCATE, and print how long each rebuild took."""
    parser = argparse.ArgumentParser(prog="python -m bench.rebuilding", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="messages in the log (1000000)")
    parser.add_argument("--rounds", type=int, default=3, help="rebuilds (3)")
    wanted = parser.parse_args()
    print(report.machine(), flush=True)
    with stage() as on:
        world = on.world
        consumer = world.start_consumer()
        consumer.wait_until_ready()
        consumer.process.terminate()
        preload(world, wanted.records)
        for number in range(1, wanted.rounds + 1):
            world.postgres.run(world.database, f"TRUNCATE {TABLE}; CHECKPOINT")
            others = {"broker": on.kafka.process.pid, "database": on.postgres.process.pid}
            before = {name: usage.cpu_seconds(pid) for name, pid in others.items()}
            rebuild = world.start_rebuild()
            until("the rebuild has ended", lambda: not rebuild.process.running(), 300)  # noqa: B023
            if rebuild.process.wait() != 0:
                raise RuntimeError(rebuild.process.tail())
            (done,) = rebuild.events("rebuilt")
            cpu = ", ".join(
                f"{name} {usage.cpu_seconds(pid) - before[name]:.1f} s" for name, pid in others.items()
            )
            print(
                f"rebuild {number}: {done['messages']:,} messages in {done['seconds']:.1f} s,"
                f" {done['messages'] / done['seconds']:,.0f}/s;"
                f" writers held for {done['writers_held_seconds']:.1f} s; CPU: {cpu}",
                flush=True,
            )


if __name__ == "__main__":
    main()
