"""Fixtures: one broker and one server for all tests of a worker; topic, database and processes for each."""

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.integration.kafka import Kafka
from tests.integration.postgres import Postgres
from tests.integration.processes import serving
from tests.integration.service import Running, World

_numbers = count(1)


@pytest.fixture(scope="session")
def workspace() -> Iterator[Path]:
    """A folder that other users may enter: PostgreSQL's data are in it."""
    folder = Path(tempfile.mkdtemp(prefix="timestamp-service-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def kafka(workspace: Path) -> Iterator[Kafka]:
    """The broker."""
    with serving(Kafka, workspace / "kafka") as kafka:
        yield kafka


@pytest.fixture(scope="session")
def postgres(workspace: Path) -> Iterator[Postgres]:
    """The server."""
    with serving(Postgres, workspace / "postgres") as postgres:
        yield postgres


@pytest.fixture
def bare_world(kafka: Kafka, postgres: Postgres, tmp_path: Path) -> Iterator[World]:
    """A world whose topic and database are not there yet."""
    world = World(f"world{next(_numbers)}", kafka, postgres, tmp_path)
    yield world
    world.end()


@pytest.fixture
def world(bare_world: World) -> World:
    """A world with topic and database, and no process yet."""
    bare_world.make_topics()
    bare_world.make_database()
    return bare_world


@pytest.fixture(scope="module")
def running(kafka: Kafka, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A world with all three processes, shared by a module's tests."""
    world = World(f"world{next(_numbers)}", kafka, postgres, tmp_path_factory.mktemp("running"))
    world.make_topics()
    world.make_database()
    services = [world.start_command(), world.start_query(), world.start_consumer()]
    try:
        for service in services:
            service.wait_until_ready()
        yield Running(world, *services)
    finally:
        world.end()
