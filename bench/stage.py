"""The service to measure and the servers that it needs, on loopback; each process is ended by its id."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from tests.integration.kafka import Kafka
from tests.integration.postgres import Postgres
from tests.integration.processes import Process, free_port, until
from tests.integration.service import World

from bench.apis import Target

# As on the nodes, for a shared machine.
_JVM = ("-Xms512m", "-Xmx512m", "-XX:+UseG1GC")
_POSTGRES = """\
shared_buffers = 256MB
max_wal_size = 4GB
"""


@dataclass(frozen=True)
class Stage:
    """A broker, a database server, a temporary folder, and a world that uses them."""

    folder: Path
    kafka: Kafka
    postgres: Postgres
    world: World


@contextmanager
def stage() -> Iterator[Stage]:
    """Start the broker and the server; end them, and all that the world has started, at the end."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="timestamp-service-bench-"))
        stack.callback(rmtree, folder)
        # The database server runs as another user.
        folder.chmod(0o755)
        for name in ("kafka", "postgres", "services"):
            (folder / name).mkdir()
        kafka = Kafka(folder / "kafka", _JVM)
        stack.callback(lambda: kafka.process.end())
        postgres = Postgres(folder / "postgres", _POSTGRES)
        stack.callback(lambda: postgres.process.end())
        world = World("bench", kafka, postgres, folder / "services")
        stack.callback(world.end)
        world.make_topics()
        world.make_database()
        yield Stage(folder, kafka, postgres, world)


@contextmanager
def bare_app(folder: Path) -> Iterator[Target]:
    """Start the ruler for HTTP."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--no-control-socket"]
    command += ["--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "1", "bench.bare:create_app()"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    process = Process("bare", command, folder, environment)
    try:
        until("the bare application serves", lambda: "startup complete" in process.tail())
        url = f"http://127.0.0.1:{port}"
        yield Target("bare", url, url, {"bare": (process.pid,)})
    finally:
        process.end()
