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
from typing import NamedTuple

import pytest
from conftest import Client, connect, logged_requests, service

from cli.units import ACCESS_LOG

PROBLEM = "application/problem+json"
ID = "{id}"


def ask(address: str, request: str, port: int, tls: bool) -> tuple[int, list[tuple[str, str]], bytes]:
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


class Case(NamedTuple):
    """Lines of a request, what it is answered with, and whether with the client's own id."""

    lines: tuple[str, ...]
    status: int
    instance: str
    identified: bool = True


HOST, CORRELATION = "Host: web", f"correlationId: {ID}"


def unreadable(first: str, status: int, instance: str) -> Case:
    """Return a request line that nginx cannot read: it reads no header then, and the id is its own."""
    return Case((first, HOST, CORRELATION), status, instance, identified=False)


def headed(first: str, status: int, *more: str) -> Case:
    """Return a request with headers `more`."""
    return Case((first, HOST, CORRELATION, *more), status, first.split(" ")[1].partition("?")[0])


GET, POST = "GET /health HTTP/1.1", "POST /app HTTP/1.1"
# By HTTP and by HTTPS.
BOTH = {
    "a percent sign": unreadable("POST /api/v1/timestamp/100% HTTP/1.1", 400, "/api/v1/timestamp/100%"),
    "a NUL": unreadable("POST /%00 HTTP/1.1", 400, "/%00"),
    "above the root": unreadable("GET /../x HTTP/1.1", 400, "/../x"),
    "a space": unreadable("GET /a b HTTP/1.1", 400, "/a"),
    "a long path": unreadable(f"GET /{'a' * 9000} HTTP/1.1", 414, "/"),
    "a small method": unreadable("get / HTTP/1.1", 400, "/"),
    "CONNECT": unreadable("CONNECT web:443 HTTP/1.1", 400, "/"),
    "HTTP/0.8": unreadable("GET /x HTTP/0.8", 400, "/x"),
    "HTTP/2.0": unreadable("GET /x HTTP/2.0", 400, "/x"),
    "HTTP/9.9": unreadable("GET /x HTTP/9.9", 400, "/x"),
    "no HTTP": unreadable("hello", 400, "/"),
    "TRACE": headed("TRACE /app HTTP/1.1", 405),
    "a large header": headed(GET, 431, f"X: {'a' * 9000}"),
    "no host": Case((GET, CORRELATION), 400, "/health"),
    "a bad host": Case((GET, CORRELATION, "Host: a/b"), 400, "/health"),
    "two hosts": headed(GET, 400, "Host: b"),
    "a NUL in a header": headed(GET, 400, "X: a\0b"),
    "a coding": headed(POST, 400, "Transfer-Encoding: gzip"),
    "two lengths": headed(POST, 400, "Content-Length: 1", "Content-Length: 2"),
    "a bad length": headed(POST, 400, "Content-Length: x"),
}
HTTPS = {
    "a large body": headed(POST, 413, "Content-Length: 99999999"),
    "no such path": headed("GET /nothing('x')?a=b HTTP/1.1", 404),
    "HTTP/1.0": Case(("GET /nothing HTTP/1.0", CORRELATION), 404, "/nothing"),
    "no such method": headed("DELETE /app HTTP/1.1", 405),
    "an internal path": headed("GET /problem HTTP/1.1", 404),
    # What nginx passes on, and the parser of the API refuses.
    "a control character": headed(POST, 400, "X: a\x01b"),
    "DEL": headed("GET /api/v1/timestamps HTTP/1.1", 400, "X: a\x7fb"),
    "beyond ASCII": Case(
        ("POST /api/v1/timestamp/\xc3\xa4 HTTP/1.1", HOST, CORRELATION), 400, "/api/v1/timestamp/%C3%A4"
    ),
    # Both APIs are asked, and only one is to judge the client's headers.
    "health as text": headed(GET, 406, "Accept: text/plain"),
    "health for a bad id": Case((GET, HOST, "correlationId: x"), 400, "/health", identified=False),
    "health for a bad agent": headed(GET, 400, "User-Agent: a\x01b"),
}
HTTP = {
    "no host by HTTP/1.0": Case(("GET /x HTTP/1.0", CORRELATION), 400, "/x"),
    "TLS": unreadable("\x16\x03\x01\x02\x00\x01", 400, "/"),
}
CASES = {
    **{f"443 {name}": (443, True, case) for name, case in {**BOTH, **HTTPS}.items()},
    **{f"80 {name}": (80, False, case) for name, case in {**BOTH, **HTTP}.items()},
    "443 plain HTTP": (443, False, headed("GET /x HTTP/1.1", 400)),
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
    for name, (port, tls, case) in CASES.items():
        text = "".join(f"{line}\r\n" for line in (*case.lines, ""))
        for node in (node for node in service().nodes if "web" in node.groups):
            identifier = str(uuid.uuid4())
            answer = ask(node.address, text.replace(ID, identifier), port, tls)
            answers.setdefault(name, []).append(Asked(node.name, identifier, *answer))
    return answers


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_sent_is_answered_by_a_problem(asked: dict[str, list[Asked]], name: str) -> None:
    _, status, instance, identified = CASES[name][2]
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
        counts = {identifier: lines.count(f'"correlationId":"{identifier}"') for identifier in identifiers}
        assert counts == dict.fromkeys(identifiers, 1)


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
