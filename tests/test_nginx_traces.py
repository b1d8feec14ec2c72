"""A real nginx on loopback that takes part in traces: what it passes on, and what it writes of a request."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rendered import WEB
from web_nodes import SLOW_SECONDS, Node, listens, make_certificates, render, wait

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")

NETWORK = f"127.79.{os.getpid() % 250}"
PORT = 8443
PATH = "/api/v1/timestamp/2009-09-28T19:03:12Z"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
ASKED = f"00-{TRACE}-{PARENT}-01"
NOT_ASKED = f"00-{TRACE}-{PARENT}-00"
CORRELATION = "7c3f2aca-c5c9-45f0-a924-5c9ff1762c94"
OF_CORRELATION = CORRELATION.replace("-", "")


class Lines:
    """The socket of the consumer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.open()

    def open(self) -> None:
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))

    def close(self) -> None:
        self._socket.close()

    def next(self, seconds: float = 10) -> dict[str, Any]:
        """Return the next line."""
        self._socket.settimeout(seconds)
        line: dict[str, Any] = json.loads(re.sub(rb"^[^{]*", b"", self._socket.recv(4096)))
        return line


@contextmanager
def serving(folder: Path, share: float) -> Iterator[tuple[Node, Lines]]:
    """Give a web node that traces so many percent, and the lines of its nginx."""
    address = f"{NETWORK}.{1 + int(share)}"
    addresses = {WEB[0]: address}
    make_certificates(folder, addresses)
    (folder / "rendered").mkdir()
    text = render(
        folder / "rendered",
        addresses,
        timestamp_traces_url="http://127.0.0.1:9411/api/v2/spans",
        nginx_traces_share_percent=share,
        nginx_api_timeout_seconds=1,
    )[WEB[0]]["nginx/nginx.conf.j2"]
    node = Node(WEB[0], address, folder / WEB[0], folder / "ca.crt", PORT)
    node.folder.mkdir()
    lines = Lines(node.folder / "lines.sock")
    replaced = {
        "listen 80 ": f"listen {address}:8080 ",
        "listen 443 ": f"listen {address}:{PORT} ",
        "/run/timestamp-consumer/nginx.sock": f"{node.folder}/lines.sock",
    }
    # One alone knows no other.
    text += "\n# /etc/timestamp-service/peer. /etc/timestamp-service/ca.crt"
    process = subprocess.Popen(node.write_settings(text, replaced))
    try:
        node.start_apis()
        wait(lambda: listens(address, PORT))
        yield node, lines
    finally:
        process.terminate()
        process.wait(30)
        node.stop_apis()
        lines.close()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Lines]]:
    """Give one that traces those alone that ask for it."""
    with serving(tmp_path_factory.mktemp("traced"), 0) as both:
        yield both


@pytest.fixture
def node(traced: tuple[Node, Lines]) -> Iterator[Node]:
    yield traced[0]
    traced[0].behave("answer")


def passed_on(node: Node, **headers: str) -> str | None:
    """Ask with these headers; return the traceparent that the API got."""
    requests = node.apis["command"].requests
    before = len(requests)
    assert node.ask("POST", PATH, {"correlationId": CORRELATION, **headers}).status == 200
    (got,) = requests[before:]
    return got.headers["traceparent"]


def test_client_that_asks_is_traced(node: Node, traced: tuple[Node, Lines]) -> None:
    before = time.time()
    trace, span, flags = str(passed_on(node, traceparent=ASKED)).split("-")[1:]
    assert (trace, flags) == (TRACE, "01")
    assert re.fullmatch("[0-9a-f]{16}", span)
    assert span != PARENT
    line = traced[1].next()
    assert before - 0.01 <= line.pop("ended") <= time.time()
    assert 0 <= line.pop("seconds") < 5
    assert line == {
        "correlationId": CORRELATION,
        "traceparent": ASKED,
        "answered": f"00-{TRACE}-{span}-01",
        "span": span,
        "method": "POST",
        "path": PATH,
        "route": "command",
        "status": 200,
    }


@pytest.mark.parametrize(
    "traceparent", ["", NOT_ASKED, "nonsense", f"{NOT_ASKED}-00", NOT_ASKED.replace(TRACE, "0" * 32)]
)
def test_others_are_not_and_what_they_send_is_passed_on(
    node: Node, traced: tuple[Node, Lines], traceparent: str
) -> None:
    headers = {"traceparent": traceparent} if traceparent else {}
    assert passed_on(node, **headers) == (traceparent or None)
    with pytest.raises(TimeoutError):
        traced[1].next(0.3)


@pytest.mark.parametrize("traceparent", [f"cc{ASKED[2:]}", f"01{ASKED[2:]}-more"])
def test_later_version_is_read(node: Node, traced: tuple[Node, Lines], traceparent: str) -> None:
    assert str(passed_on(node, traceparent=traceparent)).startswith(f"00-{TRACE}-")
    assert traced[1].next()["traceparent"] == traceparent


@pytest.mark.parametrize(
    ("behaviour", "status", "seconds"),
    [("break off", 502, 0), ("freeze", 504, 1), ("be slow", 200, SLOW_SECONDS)],
)
def test_errors_and_slow_requests_are_written(
    node: Node, traced: tuple[Node, Lines], behaviour: str, status: int, seconds: float
) -> None:
    node.behave(behaviour)
    assert node.ask("GET", PATH, {"correlationId": CORRELATION}).status == status
    line = traced[1].next()
    assert (line["status"], line["path"], line["route"], line["answered"]) == (status, PATH, "query", "")
    assert line["correlationId"] == CORRELATION
    assert line["seconds"] >= seconds


def test_requests_are_answered_while_nobody_takes_the_lines(node: Node, traced: tuple[Node, Lines]) -> None:
    """The consumer ends, and another one takes its place."""
    lines = traced[1]
    lines.close()
    for _ in range(2):
        assert passed_on(node, traceparent=ASKED)
        # First there is nobody behind it, then no socket.
        (node.folder / "lines.sock").unlink(missing_ok=True)
    lines.open()
    sent = passed_on(node, traceparent=ASKED)
    assert lines.next()["answered"] == sent


def test_full_socket_keeps_no_request_waiting(node: Node) -> None:
    # More than the kernel keeps.
    for _ in range(int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 10):
        assert passed_on(node, traceparent=ASKED)


def test_share(tmp_path: Path) -> None:
    with serving(tmp_path, 50) as (node, lines):
        chosen = []
        for number in range(60):
            identifier = str(uuid.UUID(int=number * 0x1234567 + (4 << 76) + (8 << 60)))
            got = [passed_on(node, correlationId=identifier) for _ in range(2)]
            # By the trace id: always the same.
            assert (got[0] is None) == (got[1] is None)
            if got[0] is not None:
                chosen.append(got[0])
                assert got[0].split("-")[1] == identifier.replace("-", "")
                for one in got:
                    assert lines.next()["answered"] == one
        assert 15 < len(chosen) < 45
        # A UUID in capitals is no trace id.
        assert passed_on(node, correlationId=CORRELATION.upper()) is None
        # One that is not sampled may be, by its trace id.
        sampled = [passed_on(node, traceparent=NOT_ASKED.replace("4bf", f"{n:03x}")) for n in range(16, 48)]
        assert {one[-2:] for one in sampled if one} == {"00", "01"}


def test_nothing_of_it_is_there_where_traces_are_off(tmp_path: Path) -> None:
    text = render(tmp_path, {WEB[0]: f"{NETWORK}.1"})[WEB[0]]["nginx/nginx.conf.j2"]
    for word in ("trace_id", "split_clients", "span", "nginx.sock", "forwarded_traceparent"):
        assert word not in text
