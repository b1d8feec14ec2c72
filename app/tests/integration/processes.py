"""Processes of a test: each is started on free ports, and ended by its id."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

_LOWEST_PORT = 10_000
_given: set[int] = set()


def free_port() -> int:
    """Return a port of loopback that nobody listens on, another each time.

    It stays free though it is not taken at once: it is none that the kernel gives to connections (a broker
    that was stopped needs its port again), and workers of pytest-xdist (`PYTEST_XDIST_WORKER` is gw0, gw1, …)
    choose among different ones.
    """
    lowest_of_connections = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = range(_LOWEST_PORT + worker, lowest_of_connections, workers)
    while True:
        port = random.choice(ports)  # noqa: S311 (nothing is kept secret by it)
        with socket.socket() as probe:
            # What was bound a moment ago and has ended is free, as it is to a server.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port


def until(what: str, holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait until `holds` returns something true; fail after `seconds`, saying `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Process:
    """A process that writes to a file."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid

    def running(self) -> bool:
        """Tell whether it has not ended."""
        return self._process.poll() is None

    def check_running(self) -> None:
        """Fail, with the end of what it wrote, when it has ended."""
        assert self.running(), f"{self.name} has ended with {self._process.returncode}:\n{self.tail()}"

    def tail(self) -> str:
        """Return the end of what it wrote."""
        return self.log.read_text(errors="replace")[-4000:]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        os.kill(self.pid, number)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to it and its children, which may have sessions of their own."""
        for pid in (self.pid, *self.children()):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def children(self) -> list[int]:
        """Return the ids of the processes that it has started."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def wait(self, seconds: float = 30) -> int:
        """Wait for its end and return its exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended within {seconds} s:\n{self.tail()}") from None

    def terminate(self, seconds: float = 30) -> int:
        """End it by SIGTERM and return its exit code."""
        if self.running():
            self.send(signal.SIGTERM)
        return self.wait(seconds)

    def end(self) -> None:
        """End it at once, and what it started, whatever state they are in."""
        if self.running():
            self.send_all(signal.SIGKILL)
        self._process.wait()


class Server:
    """A process whose data stay when it ends and is started again."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self._name = name
        self._command = command
        self._folder = folder
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The running process."""
        assert self._process is not None
        return self._process

    def answers(self) -> bool:
        """Tell whether it serves."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = Process(self._name, self._command, self._folder, os.environ)
        try:
            until(f"{self._name} answers", self._running_and_answering, 180)
        except BaseException:
            self.process.end()
            raise

    def _running_and_answering(self) -> bool:
        self.process.check_running()
        return self.answers()


S = TypeVar("S", bound=Server)


@contextmanager
def serving(make: Callable[[Path], S], folder: Path) -> Iterator[S]:
    """Give a server that `make` starts in a new folder, and end it."""
    folder.mkdir()
    server = make(folder)
    try:
        yield server
    finally:
        server.process.end()
