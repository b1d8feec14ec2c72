"""The nodes of an inventory as testinfra hosts, and an HTTPS client: for every inventory alike.

The inventory is named by the environment variable TIMESTAMP_INVENTORY (default: inventories/local).
"""

from __future__ import annotations

import json
import os
import shlex
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from functools import cache
from typing import Any

import node_programs
import pytest
import testinfra
from testinfra.host import Host

from cli.inventory import PROJECT, Service, read_service
from cli.units import ACCESS_LOG

INVENTORY = os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "inventories/local"))


@cache
def service() -> Service:
    """Read the inventory, as Ansible resolves it."""
    return read_service(INVENTORY)


def connect(name: str) -> Host:
    """Open a node by ssh, as Ansible does."""
    command = next(node.ssh for node in service().nodes if node.name == name)
    return testinfra.get_host(f"ssh://{command[-1]}", ssh_extra_args=shlex.join(command[1:-1]), sudo=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `node` once for each host of its module's GROUP."""
    if "node" in metafunc.fixturenames:
        names = [node.name for node in service().nodes if metafunc.module.GROUP in node.groups]
        metafunc.parametrize("node", names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest) -> Host:
    """Give the node that the test runs on."""
    return connect(request.param)


def address(group: str) -> str:
    """Return the address of the first node of a group."""
    return next(node.address for node in service().nodes if group in node.groups)


def run_program(node: Host, name: str, *arguments: str) -> Any:
    """Run a program of molecule/shared/programs on a web node; it prints JSON."""
    return json.loads(node.check_output(node_programs.command(name, *arguments)))


def logged_requests(node: Host, correlation_id: str, count: int = 1) -> list[dict[str, Any]]:
    """Return nginx's log lines of a correlationId, once there are so many: they are written every second."""
    end = time.monotonic() + 5
    while True:
        # What a test grew the file by is no text.
        output = node.run(
            f"grep --text --no-filename --no-messages {correlation_id} {ACCESS_LOG}.1 {ACCESS_LOG}"
        )
        lines = output.stdout.splitlines()
        if len(lines) >= count or time.monotonic() > end:
            return [json.loads(line[line.index("{") :]) for line in lines]
        time.sleep(0.2)


@dataclass(frozen=True)
class Answer:
    """What an HTTP request was answered with."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Answer a redirect instead of following it."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


Client = Callable[..., Answer]


@pytest.fixture(scope="session")
def web_address() -> str:
    """Give the address of the first web node."""
    return service().url.removeprefix("https://")


@pytest.fixture(scope="session")
def request_https(web_address: str) -> Client:
    """Give a client of nginx on the first web node that trusts the inventory's CA alone."""
    context = ssl.create_default_context(cafile=str(service().certificate_authority))
    opener = urllib.request.build_opener(
        NoRedirect, urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )

    def send(
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        scheme: str = "https",
        body: bytes | None = None,
    ) -> Answer:
        request = urllib.request.Request(
            f"{scheme}://{web_address}{path}", body, method=method, headers=headers or {}
        )
        try:
            with opener.open(request, timeout=40) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    return send
