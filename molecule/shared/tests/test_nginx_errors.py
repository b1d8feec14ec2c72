"""What nginx answers by itself is a problem too: on each port, by each version of HTTP, whatever was sent.

Some answers have no body: an HTTP/2 connection that breaks the protocol (GOAWAY), a TLS handshake that fails,
444 and 499 (the connection is closed without an answer), and HTTP/0.9, whose answers have a body alone.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import uuid
from dataclasses import dataclass

import pytest
from conftest import Client, connect, logged_requests, service

from cli.units import ACCESS_LOG

PROBLEM = "application/problem+json"
ID = "{id}"
HEAD = f"Host: web\r\ncorrelationId: {ID}\r\n"


def ask(
    address: str, request: str, port: int = 443, tls: bool = True
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Send `request` as it is; return status, headers (names in lower case), and body of the answer."""
    with socket.create_connection((address, port), timeout=20) as plain:
        if tls:
            context = ssl.create_default_context(cafile=str(service().certificate_authority))
            connection: socket.socket = context.wrap_socket(plain, server_hostname=address)
        else:
            connection = plain
        connection.sendall(request.encode("latin-1"))
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
            head, end, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)^content-length: ([0-9]+)", head, re.MULTILINE)
            if end and length is not None and len(body) >= int(length[1]):
                break
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return int(first.split(" ")[1]), headers, body


# Of those whose request line cannot be read, nginx reads no header: their id is its own.
LINES = {
    "a percent sign": (
        f"POST /api/v1/timestamp/100% HTTP/1.1\r\n{HEAD}\r\n",
        400,
        "/api/v1/timestamp/100%",
        False,
    ),
    "a NUL": (f"POST /%00 HTTP/1.1\r\n{HEAD}\r\n", 400, "/%00", False),
    "above the root": (f"GET /../x HTTP/1.1\r\n{HEAD}\r\n", 400, "/../x", False),
    "a space": (f"GET /a b HTTP/1.1\r\n{HEAD}\r\n", 400, "/a", False),
    "a long path": (f"GET /{'a' * 9000} HTTP/1.1\r\n{HEAD}\r\n", 414, "/", False),
    "a small method": (f"get / HTTP/1.1\r\n{HEAD}\r\n", 400, "/", False),
    "CONNECT": (f"CONNECT web:443 HTTP/1.1\r\n{HEAD}\r\n", 400, "/", False),
    "HTTP/0.8": (f"GET /x HTTP/0.8\r\n{HEAD}\r\n", 400, "/x", False),
    "HTTP/2.0": (f"GET /x HTTP/2.0\r\n{HEAD}\r\n", 400, "/x", False),
    "HTTP/9.9": (f"GET /x HTTP/9.9\r\n{HEAD}\r\n", 400, "/x", False),
    "no HTTP": ("hello\r\n\r\n", 400, "/", False),
    "TRACE": (f"TRACE /app HTTP/1.1\r\n{HEAD}\r\n", 405, "/app", True),
    "a large header": (f"GET /health HTTP/1.1\r\n{HEAD}X: {'a' * 9000}\r\n\r\n", 431, "/health", True),
    "no host": (f"GET /health HTTP/1.1\r\ncorrelationId: {ID}\r\n\r\n", 400, "/health", True),
    "a bad host": (f"GET /health HTTP/1.1\r\ncorrelationId: {ID}\r\nHost: a/b\r\n\r\n", 400, "/health", True),
    "two hosts": (f"GET /health HTTP/1.1\r\n{HEAD}Host: b\r\n\r\n", 400, "/health", True),
    "a NUL in a header": (f"GET /health HTTP/1.1\r\n{HEAD}X: a\0b\r\n\r\n", 400, "/health", True),
    "a coding": (f"POST /app HTTP/1.1\r\n{HEAD}Transfer-Encoding: gzip\r\n\r\n", 400, "/app", True),
    "two lengths": (
        f"POST /app HTTP/1.1\r\n{HEAD}Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        400,
        "/app",
        True,
    ),
    "a bad length": (f"POST /app HTTP/1.1\r\n{HEAD}Content-Length: x\r\n\r\n", 400, "/app", True),
}
HTTPS_ONLY = {
    "a large body": (f"POST /app HTTP/1.1\r\n{HEAD}Content-Length: 99999999\r\n\r\n", 413, "/app", True),
    "no such path": (f"GET /nothing('x')?a=b HTTP/1.1\r\n{HEAD}\r\n", 404, "/nothing('x')", True),
    "HTTP/1.0": ("GET /nothing HTTP/1.0\r\ncorrelationId: {id}\r\n\r\n", 404, "/nothing", True),
    "no such method": (f"DELETE /app HTTP/1.1\r\n{HEAD}\r\n", 405, "/app", True),
    "an internal path": (f"GET /problem HTTP/1.1\r\n{HEAD}\r\n", 404, "/problem", True),
    # What nginx passes on, and the parser of the API refuses.
    "a control character": (f"POST /app HTTP/1.1\r\n{HEAD}X: a\x01b\r\n\r\n", 400, "/app", True),
    "DEL": (f"GET /api/v1/timestamps HTTP/1.1\r\n{HEAD}X: a\x7fb\r\n\r\n", 400, "/api/v1/timestamps", True),
    "beyond ASCII": (
        f"POST /api/v1/timestamp/\xc3\xa4 HTTP/1.1\r\n{HEAD}\r\n",
        400,
        "/api/v1/timestamp/%C3%A4",
        True,
    ),
    # It is asked of both APIs, and only one is to judge the client's headers.
    "health as text": (f"GET /health HTTP/1.1\r\n{HEAD}Accept: text/plain\r\n\r\n", 406, "/health", True),
    "health for a bad id": (
        "GET /health HTTP/1.1\r\nHost: web\r\ncorrelationId: x\r\n\r\n",
        400,
        "/health",
        False,
    ),
    "health for a bad agent": (
        f"GET /health HTTP/1.1\r\n{HEAD}User-Agent: a\x01b\r\n\r\n",
        400,
        "/health",
        True,
    ),
}
HTTP_ONLY = {
    "no host by HTTP/1.0": ("GET /x HTTP/1.0\r\ncorrelationId: {id}\r\n\r\n", 400, "/x", True),
    "TLS": ("\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "/", False),
}
CASES = {
    **{f"443 {name}": (443, True, *case) for name, case in {**LINES, **HTTPS_ONLY}.items()},
    **{f"80 {name}": (80, False, *case) for name, case in {**LINES, **HTTP_ONLY}.items()},
    "443 plain HTTP": (443, False, f"GET /x HTTP/1.1\r\n{HEAD}\r\n", 400, "/x", True),
}


@dataclass(frozen=True)
class Asked:
    """What was sent to a node with an id of its own, and what came back."""

    node: str
    identifier: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes


@pytest.fixture(scope="module")
def asked() -> dict[str, list[Asked]]:
    """Send all requests to each web node, and give the answers by the names of the requests."""
    answers: dict[str, list[Asked]] = {}
    for name, (port, tls, text, *_) in CASES.items():
        for node in (node for node in service().nodes if "web" in node.groups):
            identifier = str(uuid.uuid4())
            answer = ask(node.address, text.replace(ID, identifier), port, tls)
            answers.setdefault(name, []).append(Asked(node.name, identifier, *answer))
    return answers


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_sent_is_answered_by_a_problem(asked: dict[str, list[Asked]], name: str) -> None:
    _, _, _, status, instance, identified = CASES[name]
    for answer in asked[name]:
        assert answer.status == status, answer
        names, headers = [name for name, _ in answer.headers], dict(answer.headers)
        problem = json.loads(answer.body)
        assert headers["content-type"] == PROBLEM
        assert (problem["status"], problem["instance"]) == (status, instance)
        assert problem["title"]
        assert problem["detail"]
        assert uuid.UUID(problem["correlationId"])
        assert (problem["correlationId"] == answer.identifier) == identified
        assert headers["correlationid"] == problem["correlationId"]
        for once in ("correlationid", "retry-after", "allow", "content-type"):
            assert names.count(once) <= 1, answer
        assert ("allow" in names) == (status == 405)


def test_each_has_one_line_in_the_access_log(asked: dict[str, list[Asked]]) -> None:
    answers = [answer for found in asked.values() for answer in found]
    for name in {answer.node for answer in answers}:
        identifiers = [dict(answer.headers)["correlationid"] for answer in answers if answer.node == name]
        # Lines are written every second.
        logged_requests(connect(name), identifiers[-1])
        lines = connect(name).check_output(f"cat {ACCESS_LOG}")
        assert {
            identifier: lines.count(f'"correlationId":"{identifier}"') for identifier in identifiers
        } == dict.fromkeys(identifiers, 1)


def test_a_bad_path_by_http_2() -> None:
    command = ["curl", "--silent", "--http2", "--include", "--cacert", str(service().certificate_authority)]
    for node in (node for node in service().nodes if "web" in node.groups):
        for target in ("/100%", "x", "/%00"):
            url = f"https://{node.address}/"
            answer = subprocess.run(
                [*command, "--request-target", target, url], capture_output=True, text=True, check=True
            ).stdout
            head, _, body = answer.partition("\n\n")
            assert head.startswith("HTTP/2 400")
            assert f"content-type: {PROBLEM}" in head.lower()
            assert json.loads(body)["status"] == 400


def test_an_answer_of_an_api_has_each_header_once(request_https: Client) -> None:
    answer = request_https("GET", "/api/v1/timestamp/00000000-0000-4000-8000-000000000000")
    assert answer.status == 404
    for name in ("Retry-After", "correlationId"):
        assert len(answer.headers.get_all(name) or []) == 1
