import socket
from pathlib import Path

import pytest

from timestamp_service.runtime import systemd
from timestamp_service.runtime.systemd import Notifier


@pytest.fixture
def listener(tmp_path: Path) -> "socket.socket":
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.bind(str(tmp_path / "notify"))
    bound.settimeout(1)
    return bound


def test_states(listener: socket.socket) -> None:
    notifier = Notifier(listener.getsockname(), watchdog_seconds=30)
    notifier.status("Waits for the kafka")
    notifier.ready()
    notifier.progress()
    notifier.stopping()

    assert [listener.recv(100) for _ in range(4)] == [
        b"STATUS=Waits for the kafka",
        b"READY=1\nSTATUS=Ready",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=Stopping",
    ]


def test_without_a_watchdog_there_is_no_progress_to_tell(listener: socket.socket) -> None:
    notifier = Notifier(listener.getsockname())
    notifier.progress()
    notifier.ready()
    assert listener.recv(100).startswith(b"READY=1")


def test_nobody_listens(tmp_path: Path) -> None:
    Notifier().ready()
    Notifier(str(tmp_path / "nobody")).ready()


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0timestamp-service-test")
        listener.settimeout(1)
        Notifier("@timestamp-service-test").ready()
        assert listener.recv(100).startswith(b"READY=1")


@pytest.mark.parametrize(
    ("environment", "notifier"),
    [
        ({}, Notifier()),
        ({"NOTIFY_SOCKET": "/run/notify"}, Notifier("/run/notify")),
        ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000"}, Notifier("/run/notify", 30.0)),
        ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "nonsense"}, Notifier("/run/notify")),
    ],
)
def test_environment(environment: dict[str, str], notifier: Notifier) -> None:
    assert systemd.from_environment(environment) == notifier
    systemd.hide(environment)
    assert "NOTIFY_SOCKET" not in environment
    assert systemd.from_environment(environment) == notifier
