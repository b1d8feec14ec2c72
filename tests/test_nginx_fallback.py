"""Two real nginx on loopback, whose APIs refuse, break off or freeze: who answers, and what is sent twice.

They have the configuration and the certificates that the roles make; the APIs are small servers.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import platform
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import rendered
import yaml
from rendered import CONTRACT, WEB

import playbooks

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")

NETWORK = f"127.78.{os.getpid() % 250}"
ADDRESSES = {host: f"{NETWORK}.{number}" for number, host in enumerate(WEB, start=1)}
# Of a client that is none of the nodes.
CLIENT = f"{NETWORK}.99"
PORT = 8443
PEER_PORT = CONTRACT["contract_peer_port"]
TIMEOUT_SECONDS = 1
CLIENTS = 6
KILLS = 3
ONE = "/api/v1/timestamp/2009-09-28T19:03:12Z"
KEY = {"Idempotency-Key": "a-key"}


class Handler(BaseHTTPRequestHandler):
    """Answers with the name of the node, or does not, as its API is told."""

    protocol_version = "HTTP/1.1"
    server: Api

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def do_GET(self) -> None:
        if self.path != "/health":
            self.server.requests.append(self)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.behaviour == "break off":
            self.close_connection = True
            return
        if self.server.behaviour == "freeze":
            self.server.thaw.wait()
            self.close_connection = True
            return
        body = json.dumps({"node": self.server.node}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("correlationId", self.headers["correlationId"])
        if self.server.behaviour == "end":
            # The server does what this header says.
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True


class Api(socketserver.ThreadingUnixStreamServer):
    """One API of a node behind its unix socket."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, node: str, path: Path) -> None:
        self.node = node
        self.behaviour = "answer"
        self.thaw = threading.Event()
        self.requests: list[BaseHTTPRequestHandler] = []
        self.connections: list[socket.socket] = []
        self.path = path
        super().__init__(str(path), Handler)
        path.chmod(0o666)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Let the socket refuse, and end the connections that nginx keeps."""
        self.thaw.set()
        self.shutdown()
        self.server_close()
        self.path.unlink(missing_ok=True)
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: dict[str, Any]

    def check_problem(self, status: int, correlation: str) -> None:
        """Check that nginx itself said what is wrong, once."""
        assert (self.status, self.body["status"]) == (status, status)
        assert self.headers.get_all("Content-Type") == ["application/problem+json"]
        assert self.headers.get_all("correlationId") == [correlation]
        assert self.body["correlationId"] == correlation
        assert self.headers.get_all("Retry-After") == ["1"]


@dataclass
class Node:
    """A web node: its nginx, and its APIs by name."""

    name: str
    folder: Path
    authority: Path
    apis: dict[str, Api] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return ADDRESSES[self.name]

    def start_apis(self) -> None:
        for api in ("command", "query"):
            self.apis[api] = Api(self.name, self.folder / f"{api}.sock")

    def stop_apis(self) -> None:
        for api in self.apis.values():
            api.stop()
        self.apis = {}

    def behave(self, behaviour: str) -> None:
        """Let the APIs do so; those that refuse are stopped."""
        if behaviour == "refuse":
            self.stop_apis()
        for api in self.apis.values():
            api.behaviour = behaviour

    def requests(self) -> list[BaseHTTPRequestHandler]:
        return [one for api in self.apis.values() for one in api.requests]

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        """Send a request to the public port."""
        return ask(self.address, PORT, self.authority, method, path, headers or {}, body)

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the access log that are not about /health, as it is written at once."""
        lines = map(json.loads, (self.folder / "access.json").read_text().splitlines())
        return [line for line in lines if line["path"] != "/health"]


def ask(
    address: str,
    port: int,
    authority: Path,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes = b"",
    certificate: Path | None = None,
) -> Answer:
    """Send one request on a connection of its own, from the address of a client."""
    context = ssl.create_default_context(cafile=authority)
    if certificate:
        context.load_cert_chain(certificate.with_suffix(".crt"), certificate.with_suffix(".key"))
    connection = http.client.HTTPSConnection(
        address, port, timeout=30, context=context, source_address=(CLIENT, 0)
    )
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, json.loads(answer.read() or "{}"))
    finally:
        connection.close()


def make_certificates(folder: Path) -> None:
    """Let the role make the certificates of both nodes, one of which is a broker too."""
    hosts = {
        host: {"node_address": address, "ansible_connection": "local"} for host, address in ADDRESSES.items()
    }
    groups = {"web": {"hosts": hosts}, "kafka": {"hosts": {WEB[0]: None}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    play = {"hosts": "web", "gather_facts": False, "roles": ["certificates"]}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    settings = {"certificates_folder": folder, "contract_ca_file": folder / "node/ca.crt"}
    done = playbooks.run(
        "--inventory=hosts.yml",
        *playbooks.LOCAL,
        *(f"--extra-vars={name}={value}" for name, value in settings.items()),
        "play.yml",
        folder=folder,
        ANSIBLE_ROLES_PATH=str(rendered.ROLES),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def render(
    folder: Path, monkeypatch: pytest.MonkeyPatch, web: list[str], **settings: object
) -> dict[str, str]:
    """Return nginx.conf of each web node, for this computer's nginx."""
    monkeypatch.setattr(rendered, "ADDRESSES", rendered.ADDRESSES | ADDRESSES)
    monkeypatch.setattr(rendered, "WEB", web)
    plays = rendered.plays(rendered.template_tasks, only=("nginx",))
    release = platform.freedesktop_os_release()["VERSION_ID"]
    texts = rendered.run(folder, plays, settings, release=release)
    return {host: texts[host]["nginx/nginx.conf.j2"] for host in web}


def on_this_computer(text: str, node: Node, certificates: Path) -> str:
    """Return a configuration with the folders, ports and addresses that two nginx need on one computer."""
    for old, new in (
        ("user www-data;", "user root;" if os.geteuid() == 0 else ""),
        ("worker_processes auto;", "worker_processes 1;"),
        ("pid /run/nginx.pid;", f"pid {node.folder}/nginx.pid;"),
        ("syslog:server=unix:/dev/log,nohostname,tag=nginx", f"{node.folder}/error.log"),
        ("/var/log/nginx/access.json json buffer=64k flush=1s", f"{node.folder}/access.json json"),
        ("listen 80 ", f"listen {node.address}:8080 "),
        ("listen 443 ", f"listen {node.address}:{PORT} "),
        (f"listen {PEER_PORT} ", f"listen {node.address}:{PEER_PORT} "),
        (f"127.0.0.1:{CONTRACT['contract_relay_port']}", f"{node.address}:{CONTRACT['contract_relay_port']}"),
        ("/run/timestamp-service/nginx", str(node.folder)),
        ("/etc/nginx/timestamp-service.", f"{certificates}/{node.name}-nginx."),
        ("/etc/timestamp-service/peer.", f"{certificates}/{node.name}-peer."),
        ("/etc/timestamp-service/ca.crt", f"{certificates}/ca.crt"),
        # On loopback, packets to each of its addresses come from this one.
        ("set_real_ip_from ", "set_real_ip_from 127.0.0.1;\n    set_real_ip_from "),
    ):
        assert old in text, old
        text = text.replace(old, new)
    folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"  {name}_temp_path {node.folder}/{name};\n" for name in folders)
    return text.replace("http {\n", f"http {{\n{own}", 1)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """Give both nodes, with nginx running and without APIs."""
    folder = tmp_path_factory.mktemp("fallback")
    # Workers of another user go through it.
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)
    make_certificates(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        rendering = tmp_path_factory.mktemp("rendered")
        texts = render(rendering, monkeypatch, WEB, nginx_api_timeout_seconds=TIMEOUT_SECONDS)
    nodes, processes = [], []
    try:
        for host, text in texts.items():
            node = Node(host, folder / host, folder / "ca.crt")
            node.folder.mkdir()
            settings = node.folder / "nginx.conf"
            settings.write_text(on_this_computer(text, node, folder))
            command = ["nginx", "-e", f"{node.folder}/error.log", "-c", str(settings)]
            checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stderr
            assert "[warn]" not in checked.stderr
            processes.append(subprocess.Popen([*command, "-g", "daemon off;"]))
            nodes.append(node)
        for node in nodes:
            wait(lambda node=node: listens(node.address, PORT))  # type: ignore[misc]
        yield nodes[0], nodes[1]
    finally:
        for process in processes:
            process.terminate()
            process.wait(30)


def wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def listens(address: str, port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((address, port)) == 0


@pytest.fixture
def nodes(nginx: tuple[Node, Node]) -> Iterator[tuple[Node, Node]]:
    """Give both nodes with APIs that answer, and empty logs."""
    for node in nginx:
        node.start_apis()
        os.truncate(node.folder / "access.json", 0)
    yield nginx
    for node in nginx:
        node.stop_apis()


REQUESTS: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    "GET": ("GET", ONE, {}, b""),
    "POST": ("POST", ONE, {}, b""),
    "POST with a key": ("POST", ONE, KEY, b""),
    "bulk": ("POST", "/api/v1/timestamps", {}, b"[]" * 300_000),
    "bulk with a key": ("POST", "/api/v1/timestamps", KEY, b"[]" * 300_000),
}
SAFE = ("GET", "POST with a key", "bulk with a key")
each_request = pytest.mark.parametrize("request_name", REQUESTS)


@each_request
def test_the_node_itself_answers(nodes: tuple[Node, Node], request_name: str) -> None:
    here, there = nodes
    answer = here.ask(*REQUESTS[request_name])
    assert (answer.status, answer.body) == (200, {"node": here.name})
    assert len(here.requests()) == 1
    assert there.requests() == []


@each_request
def test_another_node_answers_all_that_was_not_sent(nodes: tuple[Node, Node], request_name: str) -> None:
    here, there = nodes
    here.behave("refuse")
    method, path, headers, body = REQUESTS[request_name]
    answer = here.ask(method, path, headers, body)
    assert (answer.status, answer.body) == (200, {"node": there.name})
    (got,) = there.requests()
    assert (got.command, got.path) == (method, path)
    assert got.headers.get("Idempotency-Key") == headers.get("Idempotency-Key")
    assert int(got.headers.get("Content-Length", 0)) == len(body)


@each_request
@pytest.mark.parametrize(("behaviour", "status"), [("break off", 502), ("freeze", 504)])
def test_what_was_sent_is_sent_again_only_if_that_is_the_same_record(
    nodes: tuple[Node, Node], request_name: str, behaviour: str, status: int
) -> None:
    here, there = nodes
    here.behave(behaviour)
    correlation = str(uuid.uuid4())
    method, path, headers, body = REQUESTS[request_name]
    answer = here.ask(method, path, {**headers, "correlationId": correlation}, body)
    assert len(here.requests()) == 1
    if request_name in SAFE:
        assert (answer.status, answer.body) == (200, {"node": there.name})
        assert len(there.requests()) == 1
    else:
        answer.check_problem(status, correlation)
        assert there.requests() == []


@each_request
@pytest.mark.parametrize(
    ("behaviour", "status"), [("refuse", {502}), ("break off", {502}), ("freeze", {504})]
)
def test_request_goes_no_further_than_once_to_each_node(
    nodes: tuple[Node, Node], request_name: str, behaviour: str, status: set[int]
) -> None:
    here, there = nodes
    for node in nodes:
        node.behave(behaviour)
    correlation = str(uuid.uuid4())
    method, path, headers, body = REQUESTS[request_name]
    answer = here.ask(method, path, {**headers, "correlationId": correlation}, body)
    assert answer.status in status
    answer.check_problem(answer.status, correlation)
    assert [line["correlationId"] for line in here.log()] == [correlation]
    asked = behaviour == "refuse" or request_name in SAFE
    wait(lambda: len(there.log()) == asked)


def test_no_other_node_is_asked_after_a_node_that_has_no_api_either(nodes: tuple[Node, Node]) -> None:
    """What the listener for the other nodes gets is answered there, or nowhere."""
    here, there = nodes
    there.behave("refuse")
    answer = ask(
        there.address, PEER_PORT, there.authority, "GET", ONE, {}, certificate=certificate(here, "peer")
    )
    assert answer.status == 502
    assert here.log() == []
    assert here.requests() == []


def certificate(node: Node, service: str) -> Path:
    return node.authority.parent / f"{node.name}-{service}.x"


@pytest.mark.parametrize("service", ["", "kafka", "own peer"])
def test_only_other_web_nodes_may_use_the_listener_for_them(nodes: tuple[Node, Node], service: str) -> None:
    here, there = nodes
    shown = {
        "": None,
        "kafka": certificate(here, "kafka"),
        # Nobody asks himself.
        "own peer": certificate(there, "peer"),
    }[service]
    answer = ask(there.address, PEER_PORT, there.authority, "GET", ONE, {}, certificate=shown)
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert "client certificate" in answer.body["detail"]
    assert there.requests() == []


def test_certificate_for_clients_is_none_of_a_web_node(nodes: tuple[Node, Node]) -> None:
    """OpenSSL refuses it, as it is for servers only."""
    here, there = nodes
    answer = ask(
        there.address, PEER_PORT, there.authority, "GET", ONE, {}, certificate=certificate(here, "nginx")
    )
    assert answer.status == 400
    assert there.requests() == []


def test_relay_speaks_to_web_nodes_alone(nodes: tuple[Node, Node]) -> None:
    """Somebody with a certificate of the same authority listens where the other node should."""
    here, there = nodes
    here.behave("refuse")
    text = (there.folder / "nginx.conf").read_text()
    other = text.replace(f"{there.name}-peer.", f"{there.name}-nginx.")
    with reloaded(there, other):
        answer = here.ask("GET", ONE)
        assert (answer.status, there.requests()) == (502, [])
    assert here.ask("GET", ONE).status == 200


class reloaded:  # noqa: N801
    """Let a node's nginx have another configuration meanwhile."""

    def __init__(self, node: Node, text: str) -> None:
        self.node, self.text = node, text
        self.file = node.folder / "nginx.conf"
        self.before = self.file.read_text()

    def __enter__(self) -> None:
        self.reload(self.text)

    def __exit__(self, *_: object) -> None:
        self.reload(self.before)

    def reload(self, text: str) -> None:
        self.file.write_text(text)
        master = (self.node.folder / "nginx.pid").read_text().strip()
        workers = self.workers(master)
        os.kill(int(master), 1)
        wait(lambda: bool(self.workers(master)) and not self.workers(master) & workers)

    def workers(self, master: str) -> set[str]:
        return set(Path(f"/proc/{master}/task/{master}/children").read_text().split())


def test_log_of_the_node_that_answers_names_the_client_and_the_correlation(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    here.behave("refuse")
    correlation = str(uuid.uuid4())
    answer = here.ask("POST", ONE, {"correlationId": correlation, "X-Real-IP": "192.0.2.66"})
    assert answer.headers.get_all("correlationId") == [correlation]
    for node in nodes:
        wait(lambda node=node: bool(node.log()))  # type: ignore[misc]
        (line,) = node.log()
        assert (line["correlationId"], line["remote_address"]) == (correlation, CLIENT)
        assert (line["method"], line["path"], line["status"]) == ("POST", ONE, 200)
    # One that nginx makes is the same too.
    made = here.ask("POST", ONE).headers["correlationId"]
    assert there.requests()[-1].headers["correlationId"] == made


@pytest.mark.parametrize("headers", [{}, KEY])
@pytest.mark.parametrize("text", ["2009-09-28T19%3A03:12%2B01:00", "a%2Fb", "a%252Fb?x=%41&y", "%E2%82%AC"])
def test_path_gets_to_another_node_as_it_came(
    nodes: tuple[Node, Node], text: str, headers: dict[str, str]
) -> None:
    here, there = nodes
    path = f"/api/v1/timestamp/{text}"
    here.ask("POST", path, headers)
    direct = [one.path for one in here.requests()]
    here.behave("refuse")
    here.ask("POST", path, headers)
    assert [one.path for one in there.requests()] == direct


def test_health_is_that_of_the_node_itself(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    assert here.ask("GET", "/health").status == 200
    here.behave("refuse")
    correlation = str(uuid.uuid4())
    here.ask("GET", "/health", {"correlationId": correlation}).check_problem(503, correlation)
    assert there.ask("GET", "/health").status == 200


@pytest.mark.parametrize("killed", [False, True])
def test_requests_while_the_apis_of_a_node_go_and_come_back(nodes: tuple[Node, Node], killed: bool) -> None:
    """None fails when the APIs end what is under way; what it costs to kill them is counted."""
    here, there = nodes
    stop = threading.Event()
    kinds = itertools.cycle(("GET", "POST", "POST with a key"))

    def send() -> list[tuple[str, Answer]]:
        answers = []
        while not stop.is_set():
            kind = next(kinds)
            answers.append((kind, here.ask(*REQUESTS[kind])))
        return answers

    def wait_for_requests(node: Node) -> None:
        so_far = len(node.requests())
        wait(lambda: len(node.requests()) > so_far + 20)

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(send) for _ in range(CLIENTS)]
        try:
            for _ in range(KILLS):
                wait_for_requests(here)
                if not killed:
                    here.behave("end")
                    for api in here.apis.values():
                        api.path.unlink()
                    wait_for_requests(there)
                here.stop_apis()
                wait_for_requests(there)
                here.start_apis()
        finally:
            stop.set()
        answers = [one for thread in running for one in thread.result()]
    failed = [(kind, answer.status) for kind, answer in answers if answer.status != 200]
    assert {answer.body["node"] for _, answer in answers if answer.status == 200} == {here.name, there.name}
    assert len(answers) > 100
    assert set(failed) <= ({("POST", 502)} if killed else set())
    assert len(failed) <= CLIENTS * KILLS


def test_single_web_node_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = render(tmp_path, monkeypatch, WEB[:1])[WEB[0]]
    for word in ("backup", "repeatable", "418", "peer", "X-Real-IP", str(PEER_PORT), "own_query"):
        assert word not in text
    assert "proxy_next_upstream off;" in text
