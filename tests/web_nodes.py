"""Web nodes on this computer: real nginx with the configuration and the certificates that the roles make.

Their APIs are small servers of the tests, which refuse, break off or freeze.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import rendered
import yaml
from rendered import WEB

import playbooks

SLOW_SECONDS = 0.2


class Handler(BaseHTTPRequestHandler):
    """Answers with the name of the node, or does not, as its API is told."""

    protocol_version = "HTTP/1.1"
    # An answer is sent whole, as those of the APIs are: none is broken off after its headers.
    wbufsize = -1
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
        if self.server.behaviour == "be slow":
            time.sleep(SLOW_SECONDS)
        body = json.dumps({"node": self.server.node}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        for name in ("correlationId", "traceparent"):
            if name in self.headers:
                self.send_header(name, self.headers[name])
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
    address: str
    folder: Path
    authority: Path
    port: int = 443
    # From where clients send.
    client: str = ""
    apis: dict[str, Api] = field(default_factory=dict)

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
        return self.ask_at(self.port, method, path, headers, body)

    def ask_at(
        self,
        port: int,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        certificate: Path | None = None,
    ) -> Answer:
        """Send one request to a port, on a connection of its own, with a certificate if one is named."""
        context = ssl.create_default_context(cafile=self.authority)
        if certificate:
            context.load_cert_chain(certificate.with_suffix(".crt"), certificate.with_suffix(".key"))
        source = (self.client, 0) if self.client else None
        connection = http.client.HTTPSConnection(
            self.address, port, timeout=30, context=context, source_address=source
        )
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, json.loads(answer.read() or "{}"))
        finally:
            connection.close()

    def certificate(self, service: str) -> Path:
        """Return where a certificate and its key are, but for their endings."""
        return self.authority.parent / f"{self.name}-{service}.x"

    def write_settings(self, text: str, replaced: Mapping[str, str]) -> list[str]:
        """Write a configuration with folders of this node, which nginx must take; returns how it starts."""
        certificates = self.authority.parent
        for old, new in {
            "user www-data;": "user root;" if os.geteuid() == 0 else "",
            "worker_processes auto;": "worker_processes 1;",
            "pid /run/nginx.pid;": f"pid {self.folder}/nginx.pid;",
            "syslog:server=unix:/dev/log,nohostname,tag=nginx": f"{self.folder}/error.log",
            "/var/log/nginx/access.json json buffer=64k flush=1s": f"{self.folder}/access.json json",
            "/run/timestamp-service/nginx": str(self.folder),
            "/etc/nginx/timestamp-service.": f"{certificates}/{self.name}-nginx.",
            "/etc/timestamp-service/peer.": f"{certificates}/{self.name}-peer.",
            "/etc/timestamp-service/ca.crt": str(self.authority),
            **replaced,
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        parts = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        own = "".join(f"  {part}_temp_path {self.folder}/{part};\n" for part in parts)
        settings = self.folder / "nginx.conf"
        settings.write_text(text.replace("http {\n", f"http {{\n{own}", 1))
        command = ["nginx", "-e", f"{self.folder}/error.log", "-c", str(settings)]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "[warn]" not in checked.stderr
        return [*command, "-g", "daemon off;"]

    def reload(self) -> None:
        """Let nginx take what its files say now; returns when nobody answers as before."""
        master = (self.folder / "nginx.pid").read_text().strip()
        children = Path(f"/proc/{master}/task/{master}/children")
        before = set(children.read_text().split())
        os.kill(int(master), signal.SIGHUP)
        wait(lambda: bool(now := set(children.read_text().split())) and not now & before)

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the access log, which is written at once."""
        return [json.loads(line) for line in (self.folder / "access.json").read_text().splitlines()]


def make_certificates(folder: Path, addresses: Mapping[str, str], **settings: object) -> None:
    """Let the role make the certificates of web nodes, the first of which is a broker too."""
    hosts = {
        host: {"node_address": address, "ansible_connection": "local"} for host, address in addresses.items()
    }
    groups = {"web": {"hosts": hosts}, "kafka": {"hosts": {WEB[0]: None}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    play = {"hosts": "web", "gather_facts": False, "roles": ["certificates"]}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    settings |= {"certificates_folder": str(folder), "contract_ca_file": str(folder / "node/ca.crt")}
    done = playbooks.run(
        "--inventory=hosts.yml",
        *playbooks.LOCAL,
        f"--extra-vars={json.dumps(settings)}",
        "play.yml",
        folder=folder,
        ANSIBLE_ROLES_PATH=str(rendered.ROLES),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def render(
    folder: Path, addresses: Mapping[str, str], roles: Sequence[str] = ("nginx",), **settings: object
) -> rendered.Texts:
    """Return the files of these web nodes alone, for the release of Debian that this computer has."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(rendered, "ADDRESSES", {**rendered.ADDRESSES, **addresses})
        monkeypatch.setattr(rendered, "WEB", list(addresses))
        plays = rendered.plays(rendered.template_tasks, rendered.file_tasks, only=roles)
        release = platform.freedesktop_os_release()["VERSION_ID"]
        return rendered.run(folder, plays, settings, release=release)


def wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def listens(address: str, port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((address, port)) == 0
