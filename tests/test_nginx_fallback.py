"""Two real nginx on loopback, whose APIs refuse, break off or freeze: who answers, and what is sent twice.

They have the configuration and the certificates that the roles make; the APIs are small servers.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from rendered import CONTRACT, WEB
from web_nodes import Answer, Node, listens, make_certificates, render, wait

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")

NETWORK = f"127.78.{os.getpid() % 250}"
ADDRESSES = {host: f"{NETWORK}.{number}" for number, host in enumerate(WEB, start=1)}
# Of a client that is none of the nodes.
CLIENT = f"{NETWORK}.99"
PORT = 8443
PEER_PORT, RELAY_PORT = CONTRACT["contract_peer_port"], CONTRACT["contract_relay_port"]
TIMEOUT_SECONDS = 1
CLIENTS = 6
KILLS = 3
ONE = "/api/v1/timestamp/2009-09-28T19:03:12Z"
KEY = {"Idempotency-Key": "a-key"}


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """Give both nodes, with nginx running and without APIs."""
    folder = tmp_path_factory.mktemp("fallback")
    make_certificates(folder, ADDRESSES)
    texts = render(tmp_path_factory.mktemp("rendered"), ADDRESSES, nginx_api_timeout_seconds=TIMEOUT_SECONDS)
    nodes, processes = [], []
    try:
        for host, address in ADDRESSES.items():
            node = Node(host, address, folder / host, folder / "ca.crt", PORT, CLIENT)
            node.folder.mkdir()
            # Two nginx on one computer need addresses of their own for their ports.
            replaced = {
                "listen 80 ": f"listen {address}:8080 ",
                "listen 443 ": f"listen {address}:{PORT} ",
                f"listen {PEER_PORT} ": f"listen {address}:{PEER_PORT} ",
                f"127.0.0.1:{RELAY_PORT}": f"{address}:{RELAY_PORT}",
                # On loopback, packets to each of its addresses come from this one.
                "set_real_ip_from ": "set_real_ip_from 127.0.0.1;\n    set_real_ip_from ",
            }
            command = node.write_settings(texts[host]["nginx/nginx.conf.j2"], replaced)
            processes.append(subprocess.Popen(command))
            nodes.append(node)
        for node in nodes:
            wait(lambda node=node: listens(node.address, PORT))  # type: ignore[misc]
        yield nodes[0], nodes[1]
    finally:
        for process in processes:
            process.terminate()
            process.wait(30)


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
    # The line is written after the answer.
    wait(lambda: bool(here.log()))
    assert [line["correlationId"] for line in here.log()] == [correlation]
    asked = behaviour == "refuse" or request_name in SAFE
    wait(lambda: len(there.log()) == asked)


def test_no_other_node_is_asked_after_a_node_that_has_no_api_either(nodes: tuple[Node, Node]) -> None:
    """What the listener for the other nodes gets is answered there, or nowhere."""
    here, there = nodes
    there.behave("refuse")
    answer = there.ask_at(PEER_PORT, "GET", ONE, certificate=here.certificate("peer"))
    assert answer.status == 502
    assert here.log() == []
    assert here.requests() == []


@pytest.mark.parametrize("service", ["", "kafka", "own peer"])
def test_only_other_web_nodes_may_use_the_listener_for_them(nodes: tuple[Node, Node], service: str) -> None:
    here, there = nodes
    shown = {
        "": None,
        "kafka": here.certificate("kafka"),
        # Nobody asks himself.
        "own peer": there.certificate("peer"),
    }[service]
    answer = there.ask_at(PEER_PORT, "GET", ONE, certificate=shown)
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert "client certificate" in answer.body["detail"]
    assert there.requests() == []


def test_certificate_for_clients_is_none_of_a_web_node(nodes: tuple[Node, Node]) -> None:
    """OpenSSL refuses it, as it is for servers only."""
    here, there = nodes
    answer = there.ask_at(PEER_PORT, "GET", ONE, certificate=here.certificate("nginx"))
    assert answer.status == 400
    assert there.requests() == []


def test_relay_speaks_to_web_nodes_alone(nodes: tuple[Node, Node]) -> None:
    """Somebody with a certificate of the same authority listens where the other node should."""
    here, there = nodes
    here.behave("refuse")
    text = (there.folder / "nginx.conf").read_text()
    other = text.replace(f"{there.name}-peer.", f"{there.name}-nginx.")
    with configured(there, other):
        answer = here.ask("GET", ONE)
        assert (answer.status, there.requests()) == (502, [])
    assert here.ask("GET", ONE).status == 200


@contextmanager
def configured(node: Node, text: str) -> Iterator[None]:
    """Let a node's nginx have another configuration meanwhile."""
    file = node.folder / "nginx.conf"
    before = file.read_text()
    file.write_text(text)
    node.reload()
    try:
        yield
    finally:
        file.write_text(before)
        node.reload()


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


@pytest.mark.parametrize("api", ["command", "query"])
def test_health_is_that_of_the_node_itself(nodes: tuple[Node, Node], api: str) -> None:
    here, there = nodes
    assert here.ask("GET", "/health").status == 200
    here.apis.pop(api).stop()
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


def test_single_web_node_asks_nobody(tmp_path: Path) -> None:
    text = render(tmp_path, {WEB[0]: ADDRESSES[WEB[0]]})[WEB[0]]["nginx/nginx.conf.j2"]
    for word in ("backup", "repeatable", "418", "peer", "X-Real-IP", str(PEER_PORT), "own_query"):
        assert word not in text
    assert "proxy_next_upstream off;" in text
