import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.integration.processes import free_port, until
from tests.integration.service import COMMAND, CONSUMER, QUERY, Service, World

pytestmark = pytest.mark.integration


def test_all_serve_before_their_dependencies_are_there(bare_world: World) -> None:
    world = bare_world
    command, query = world.start_command(), world.start_query()
    services = [command, query, world.start_consumer()]
    for service in services:
        service.wait_until_serving()
        ready = service.ask("GET", "/ready")
        assert ready.status == 503
        assert ready.headers["retry-after"] == "1"
        assert ready.headers["content-type"] == "application/problem+json"
    assert "kafka" in command.ask("GET", "/ready").json()["detail"]
    assert "database" in query.ask("GET", "/ready").json()["detail"]
    assert command.ask("POST", "/app").status == 503
    assert query.ask("GET", "/api/v1/timestamp/00000000-0000-0000-0000-000000000000").status == 503
    until("they tell what they wait for", lambda: all(service.events("not_ready") for service in services))
    assert not any("READY=1" in state for service in services for state in service.notifications())

    world.make_database()
    world.make_topics()

    for service in services:
        service.wait_until_ready()
        until("systemd is notified", lambda: "READY=1\nSTATUS=Ready" in service.notifications())  # noqa: B023
    identifier = command.ask("POST", "/app").json()["id"]
    assert query.ask("GET", f"/api/v1/timestamp/{identifier}").status == 200
    for service in services:
        assert service.process.terminate() == 0


def test_the_query_api_waits_for_the_table(world: World) -> None:
    query = world.start_query()
    query.wait_until_serving()
    assert query.status("/ready") == 503
    world.start_consumer()
    query.wait_until_ready()


@pytest.mark.parametrize("api", ["command", "query", "consumer"])
def test_the_watchdog_is_fed(world: World, api: str) -> None:
    settings = {"WATCHDOG_USEC": "6000000"}
    service: Service = getattr(world, f"start_{api}")(**settings)
    until("the watchdog is fed twice", lambda: service.notifications().count("WATCHDOG=1") >= 2, 15)


@pytest.mark.parametrize(
    ("command", "settings", "name"),
    [
        (COMMAND, {}, "SERVER_PORT"),
        (COMMAND, {"SERVER_PORT": "1", "KAFKA_BROKER": "127.0.0.1:1"}, "KAFKA_PUBLISH_TOPIC"),
        (QUERY, {"SERVER_PORT": "1"}, "DB_URL"),
        (QUERY, {"SERVER_PORT": "1", "WORKERS": "many"}, "WORKERS"),
        (CONSUMER, {"SERVER_PORT": "1"}, "KAFKA_CONSUMER_TOPIC"),
        (CONSUMER, {"SERVER_PORT": "1", "LOG_LEVEL": "loud"}, "LOG_LEVEL"),
    ],
)
def test_a_bad_setting_ends_the_start_with_one_line(
    command: list[str], settings: dict[str, str], name: str
) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **settings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 78
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) == 1
    assert '"event":"bad_setting"' in lines[0]
    assert f'"message":"{name} ' in lines[0]


@pytest.mark.parametrize("process", ["command", "consumer", "rebuild", "backup", "restore"])
def test_another_number_of_partitions_ends_the_process_with_one_line(
    bare_world: World, tmp_path: Path, process: str
) -> None:
    world = bare_world
    world.make_database()
    begin: dict[str, Callable[[], Service]] = {
        "command": partial(world.start_command, WORKERS="2"),
        "consumer": world.start_consumer,
        "rebuild": world.start_rebuild,
        "backup": partial(world.start_backup, "backup", tmp_path),
        "restore": partial(world.start_backup, "restore", tmp_path),
    }
    if process in ("command", "consumer"):
        # It starts, is not ready, and goes on looking.
        service = begin[process]()
        service.wait_until_serving()
        assert service.status("/ready") == 503
    for topic in (world.topic, world.dead_letter_topic):
        world.kafka.make_topic(topic, 3, {})
    if process not in ("command", "consumer"):
        service = begin[process]()
    assert service.process.wait(30) == 78, service.process.tail()
    (line,) = service.events("wrong_partitions")
    assert line["message"].startswith(f"{world.topic} has 3 partitions, but KAFKA_PARTITIONS is 12.")
    if process in ("command", "consumer"):
        assert not any("READY=1" in state for state in service.notifications())


# It hands two sockets over as the descriptors 3 and 4, and names the process that they are for.
AS_SYSTEMD = """
import os, sys
first, second = (os.dup(int(text)) for text in sys.argv[1:3])
os.dup2(first, 3)
os.dup2(second, 4)
for descriptor in 3, 4:
    os.set_inheritable(descriptor, True)
os.execve(sys.argv[3], sys.argv[3:], {**os.environ, "LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid())})
"""


@pytest.mark.parametrize("api", ["command", "query", "consumer"])
def test_systemds_sockets_are_used(world: World, api: str, tmp_path: Path) -> None:
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "socket"))
    unix.listen()
    settings = {
        "command": {"KAFKA_BROKER": "127.0.0.1:1", "KAFKA_PUBLISH_TOPIC": "t"},
        "query": {"DB_URL": "postgresql://127.0.0.1:1/x", "DB_USERNAME": "x"},
        "consumer": {
            "KAFKA_BROKER": "127.0.0.1:1",
            "KAFKA_CONSUMER_TOPIC": "t",
            "KAFKA_GROUP_ID": "g",
            "DB_URL": "postgresql://127.0.0.1:1/x",
            "DB_USERNAME": "x",
        },
    }[api]
    process = subprocess.Popen(
        [sys.executable, "-c", AS_SYSTEMD, *(str(listener.fileno()) for listener in (tcp, unix))]
        + {"command": COMMAND, "query": QUERY, "consumer": CONSUMER}[api],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            # Not to be listened on.
            "SERVER_PORT": str(free_port()),
            **settings,
        },
        pass_fds=(tcp.fileno(), unix.fileno()),
        stderr=subprocess.DEVNULL,
    )
    try:
        for family, address in (
            (socket.AF_INET, tcp.getsockname()),
            (socket.AF_UNIX, str(tmp_path / "socket")),
        ):
            with socket.socket(family) as client:
                client.settimeout(10)
                client.connect(address)
                client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = b""
                while part := client.recv(1000):
                    answer += part
            assert answer.startswith(b"HTTP/1.1 200 OK")
        process.terminate()
        assert process.wait(20) == 0
        # The sockets are systemd's: the next process finds them open.
        assert (tmp_path / "socket").exists()
    finally:
        process.kill()
        process.wait()


def test_two_workers_serve(world: World) -> None:
    command = world.start_command(WORKERS="2")
    command.wait_until_ready()
    # A worker that is not ready yet may be asked first.
    until("both are ready", lambda: len(command.events("ready")) == 2)
    assert all(command.ask("POST", "/app").status == 200 for _ in range(20))
    assert command.process.terminate() == 0
    assert len(command.events("stopped")) == 2


@pytest.mark.parametrize(
    ("api", "method", "path", "status"),
    [
        ("command", "POST", "/app", 200),
        ("query", "GET", "/api/v1/timestamp/00000000-0000-0000-0000-000000000000", 404),
    ],
)
def test_the_first_request_waits_until_it_can_be_served(
    world: World, api: str, method: str, path: str, status: int
) -> None:
    """As those do that wait at systemd's socket while a process that was killed starts again."""
    world.start_consumer().wait_until_ready()
    service: Service = getattr(world, f"start_{api}")()
    until("gunicorn listens", lambda: socket.socket().connect_ex(("127.0.0.1", service.port)) == 0)
    assert service.ask(method, path).status == status
