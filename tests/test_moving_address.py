"""Addresses that move for real: keepalived and nginx of two web nodes in two network namespaces on a bridge.

What runs in a namespace has the settings and the capabilities that the roles give it on a node.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from rendered import WEB, tasks
from web_nodes import Node, make_certificates, render, wait

PROGRAMS = ("ip", "nginx", "keepalived", "setpriv", "ss", "curl")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"one of {PROGRAMS} is not installed"),
]

BRIDGE = "ts-addr"
NETWORK = "10.199.0"
ADDRESSES = {host: f"{NETWORK}.1{number}" for number, host in enumerate(WEB, start=1)}
MOVED = [f"{NETWORK}.101", f"{NETWORK}.102"]
ROLES = ("virtual_address", "nginx")
DRAINED = "/run/timestamp-service-drained.conf"
# keepalived runs no program in a folder that others may write to, such as /tmp.
FOLDER = Path("/run") / BRIDGE
ONE = "/api/v1/timestamp/2009-09-28T19:03:12Z"
SECONDS = 60.0


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class WebNode:
    """A web node in its namespace."""

    node: Node
    number: int
    nginx_command: list[str]
    keepalived_command: list[str]
    # What the role runs to wait until clients have gone.
    wait_for_clients: str
    # What it runs on the node that holds this one's address meanwhile, before it comes home.
    leave: str
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return f"{BRIDGE}-{self.number}"

    @property
    def mark(self) -> Path:
        """What says that the node is drained."""
        return self.node.folder / "drained.conf"

    def within(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *command]

    def held(self) -> list[str]:
        """Return the addresses that this node has of those that move."""
        shown = run(*self.within("ip", "-4", "-oneline", "address", "show"))
        return [address for address in MOVED if f" {address}/" in shown]

    def start(self, name: str, command: list[str]) -> None:
        with (self.node.folder / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                self.within(*command), stdout=log, stderr=log, text=True, start_new_session=True
            )

    def start_nginx(self) -> None:
        self.start("nginx", self.nginx_command)

    def start_keepalived(self) -> None:
        # systemd removes them with the folder.
        for file in self.node.folder.glob("*.pid"):
            if file.name != "nginx.pid":
                file.unlink()
        self.start("keepalived", self.keepalived_command)

    def kill(self, name: str) -> None:
        """Kill a program with all its processes."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(30)
        self.running = {}


def make_network() -> None:
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for number, address in enumerate(ADDRESSES.values(), start=1):
        namespace, link = f"{BRIDGE}-{number}", f"{BRIDGE}{number}"
        run("ip", "netns", "add", namespace)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run("ip", "link", "set", link, "master", BRIDGE, "up")
        for command in (f"address add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            run("ip", "-netns", namespace, *command.split())


def remove_network() -> None:
    for number in range(1, len(ADDRESSES) + 1):
        subprocess.run(["ip", "netns", "delete", f"{BRIDGE}-{number}"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", f"{BRIDGE}{number}"], capture_output=True, check=False)
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)
    shutil.rmtree(FOLDER, ignore_errors=True)


def keepalived(node: Node, files: dict[str, str]) -> list[str]:
    """Write what keepalived and its checks read; returns how its unit starts it, with the unit's rights."""
    program = node.folder / "check"
    text = files["virtual_address/virtual_address_check.j2"]
    authority = FOLDER / "ca.crt"
    for old, new in (
        (DRAINED, f"{node.folder}/drained.conf"),
        ("/etc/timestamp-service/ca.crt", str(authority)),
    ):
        assert old in text
        text = text.replace(old, new)
    program.write_text(text)
    program.chmod(0o755)
    settings = node.folder / "keepalived.conf"
    settings.write_text(
        files["virtual_address/keepalived.conf.j2"]
        .replace("/usr/local/lib/timestamp-service/virtual_address_check", str(program))
        .replace("keepalived_script", "nobody")
    )
    unit = files["virtual_address/service.conf.j2"]
    (start,) = re.findall(r"^ExecStart=(.+)$", unit, re.M)
    (capabilities,) = re.findall(r"^CapabilityBoundingSet=(.+)$", unit, re.M)
    bounding = ",".join(["-all", *(f"+{one.removeprefix('CAP_').lower()}" for one in capabilities.split())])
    return [
        *("setpriv", "--no-new-privs", f"--bounding-set={bounding}", "--inh-caps=-all", "--"),
        *shlex.split(start.replace("/run/keepalived/", f"{node.folder}/")),
        *(f"--use-file={settings}", "--log-console"),
    ]


def scripts(files: dict[str, str]) -> tuple[str, str]:
    """Return the scripts by which the role drains a node, and lets clients leave another one."""
    drain, leave = (
        task["ansible.builtin.shell"]["cmd"]
        for name in ("drain", "leave")
        for task in tasks(yaml.safe_load(files[f"virtual_address/tasks/{name}.yml"]))
        if "ansible.builtin.shell" in task
    )
    return drain, leave


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[WebNode]]:
    """Give both web nodes, with all that runs there."""
    remove_network()
    certificates = tmp_path_factory.mktemp("certificates")
    make_certificates(certificates, ADDRESSES, virtual_address_addresses=MOVED)
    texts = render(tmp_path_factory.mktemp("rendered"), ADDRESSES, ROLES, virtual_address_addresses=MOVED)
    nodes: list[WebNode] = []
    try:
        make_network()
        FOLDER.mkdir()
        shutil.copy(certificates / "ca.crt", FOLDER)
        for number, (host, address) in enumerate(ADDRESSES.items(), start=1):
            node = Node(host, address, FOLDER / host, certificates / "ca.crt")
            node.folder.mkdir()
            replaced = {DRAINED: f"{node.folder}/drained.conf"}
            command = node.write_settings(texts[host]["nginx/nginx.conf.j2"], replaced)
            nodes.append(WebNode(node, number, command, keepalived(node, texts[host]), *scripts(texts[host])))
        for one in nodes:
            one.start_nginx()
            one.node.start_apis()
            one.start_keepalived()
        yield nodes
    finally:
        for one in nodes:
            one.stop()
            one.node.stop_apis()
        remove_network()


def are_home(nodes: list[WebNode]) -> bool:
    return [one.held() for one in nodes] == [[address] for address in MOVED]


@pytest.fixture
def nodes(started: list[WebNode]) -> list[WebNode]:
    """Give both web nodes, each with its own address."""
    wait(lambda: are_home(started), SECONDS)
    return started


@dataclass
class Clients:
    """Two clients of the first address: one with a new connection each time, and one that keeps its own."""

    authority: Path
    answered: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def send(self, stop: threading.Event, *, keep: bool) -> None:
        context = ssl.create_default_context(cafile=self.authority)
        connection = None
        while not stop.is_set():
            connection = connection or http.client.HTTPSConnection(MOVED[0], timeout=1, context=context)
            try:
                connection.request("GET", ONE)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.answered.append(time.monotonic())
                else:
                    self.failed[f"{'kept' if keep else 'new'}: {answer.status}"] += 1
                ended = answer.will_close
            except OSError as error:
                self.failed[f"{'kept' if keep else 'new'}: {type(error).__name__}"] += 1
                ended = True
            if ended or not keep:
                connection.close()
                connection = None
            time.sleep(0.01)

    @property
    def longest_gap(self) -> float:
        """Return the most seconds without an answer."""
        times = sorted(self.answered)
        return max(after - before for before, after in pairwise(times))


@contextmanager
def clients(nodes: list[WebNode], name: str) -> Iterator[Clients]:
    """Let clients ask all the while; says what they saw."""
    seen = Clients(nodes[0].node.authority)
    stop = threading.Event()
    threads = [
        threading.Thread(target=seen.send, args=(stop,), kwargs={"keep": keep}) for keep in (False, True)
    ]
    for thread in threads:
        thread.start()
    try:
        wait(lambda: len(seen.answered) > 50, SECONDS)
        yield seen
        so_far = len(seen.answered)
        wait(lambda: len(seen.answered) > so_far + 50, SECONDS)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    answered, failed = len(seen.answered), dict(seen.failed)
    print(f"{name}: {answered} answered, longest gap {seen.longest_gap:.1f} s, failed {failed}")


def wait_until_moved(nodes: list[WebNode]) -> None:
    """Wait until the second node has both addresses, and the first none."""
    wait(lambda: nodes[1].held() == MOVED and nodes[0].held() == [], SECONDS)


def test_each_address_is_at_home_and_serves_with_its_certificate(nodes: list[WebNode]) -> None:
    for address, one in zip(MOVED, nodes, strict=True):
        context = ssl.create_default_context(cafile=one.node.authority)
        connection = http.client.HTTPSConnection(address, timeout=30, context=context)
        connection.request("GET", ONE)
        assert one.node.name in connection.getresponse().read().decode()
        connection.close()


def test_addresses_move_from_a_node_whose_nginx_is_killed_and_come_home(nodes: list[WebNode]) -> None:
    with clients(nodes, "nginx killed"):
        nodes[0].kill("nginx")
        wait_until_moved(nodes)
        nodes[0].start_nginx()
        wait(lambda: are_home(nodes), SECONDS)


@pytest.mark.parametrize("behaviour", ["refuse", "freeze"])
def test_addresses_move_from_a_node_whose_apis_do_not_answer(nodes: list[WebNode], behaviour: str) -> None:
    node = nodes[0].node
    with clients(nodes, f"APIs {behaviour}") as seen:
        node.behave(behaviour)
        wait_until_moved(nodes)
        node.stop_apis()
        node.start_apis()
        wait(lambda: are_home(nodes), SECONDS)
    if behaviour == "refuse":
        # What is under way when the address moves, and no answer of an API that refuses.
        assert not [kind for kind in seen.failed if kind.endswith("502")], seen.failed


def test_addresses_stay_where_they_are_when_no_node_has_its_apis(nodes: list[WebNode]) -> None:
    """Then those that answer nevertheless, such as the other API, are reached."""
    for one in nodes:
        one.node.behave("refuse")
    try:
        # Each has noticed it.
        for one in nodes:
            log = one.node.folder / "keepalived.log"
            wait(lambda log=log: "apis" in log.read_text().rpartition("succeeded")[2], SECONDS)  # type: ignore[misc]
        wait(lambda: are_home(nodes), SECONDS)
        assert nodes[0].node.ask("GET", ONE).status == 502
    finally:
        for one in nodes:
            one.node.start_apis()


def test_drained_node_ends_connections_and_gives_its_addresses_up(nodes: list[WebNode]) -> None:
    first = nodes[0]
    with clients(nodes, "drained, and back") as seen:
        first.mark.write_text("keepalive_timeout 0;\nif ($uri = /health) {\n  return 503;\n}\n")
        try:
            first.node.reload()
            assert first.node.ask("GET", ONE).headers["Connection"] == "close"
            assert first.node.ask("GET", "/health").status == 503
            said = run(*first.within("bash", "-c", first.wait_for_clients))
            assert re.fullmatch(r"\d+ connections are left.\n", said)
            assert first.held() == []
            wait_until_moved(nodes)
            leave(first, nodes[1])
        finally:
            first.mark.unlink()
            first.node.reload()
        wait(lambda: are_home(nodes), SECONDS)
        assert first.node.ask("GET", "/health").status == 200
    assert sum(seen.failed.values()) < len(seen.answered) / 10


def leave(home: WebNode, holder: WebNode) -> None:
    """Let clients leave the node that holds another one's address: they learn it before they send again."""
    context = ssl.create_default_context(cafile=home.node.authority)
    kept = [
        http.client.HTTPSConnection(MOVED[home.number - 1], timeout=30, context=context) for _ in range(8)
    ]
    for connection in kept:
        connection.request("GET", ONE)
        connection.getresponse().read()
    leaving = Path(f"{holder.mark}.leave")
    reload = f"kill -HUP $(cat {holder.node.folder}/nginx.pid)"
    script = home.leave.replace("systemctl try-reload-or-restart nginx.service", reload)
    script = script.replace(DRAINED, str(holder.mark))
    try:
        said = run(*holder.within("bash", "-c", script))
        assert re.fullmatch(r"\d+ connections are left.\n", said)
        assert [connection.sock.recv(1) for connection in kept] == [b""] * len(kept)
        assert holder.node.ask("GET", ONE).headers["Connection"] == "close"
        assert holder.node.ask("GET", "/health").status == 200
        assert run(*home.within("bash", "-c", script)) == ""
        assert not Path(f"{home.mark}.leave").exists()
    finally:
        leaving.unlink()
        holder.node.reload()
        for connection in kept:
            connection.close()


def test_play_is_told_that_addresses_have_not_moved(nodes: list[WebNode]) -> None:
    script = re.sub(r"seq \d+", "seq 2", nodes[0].wait_for_clients)
    done = subprocess.run(nodes[0].within("bash", "-c", script), capture_output=True, text=True, check=False)
    assert done.returncode == 1


def test_addresses_move_from_a_node_that_is_cut_off(nodes: list[WebNode]) -> None:
    link = f"{BRIDGE}1"
    with clients(nodes, "cut off, and back"):
        run("ip", "link", "set", link, "down")
        wait(lambda: nodes[1].held() == MOVED, SECONDS)
        run("ip", "link", "set", link, "up")
        wait(lambda: are_home(nodes), SECONDS)


def test_keepalived_that_is_killed_takes_its_address_again(nodes: list[WebNode]) -> None:
    with clients(nodes, "keepalived killed, and back"):
        nodes[0].kill("keepalived")
        wait(lambda: nodes[1].held() == MOVED, SECONDS)
        nodes[0].start_keepalived()
        wait(lambda: are_home(nodes), SECONDS)


def test_nothing_is_refused_to_keepalived(nodes: list[WebNode]) -> None:
    for one in nodes:
        log = (one.node.folder / "keepalived.log").read_text()
        assert not re.findall(r"(?i).*(?:permitted|denied|unsafe|disabling|can't|cannot).*", log), log
