"""A node that boots anew comes back by itself, whichever goes first, and nothing recorded is lost."""

from __future__ import annotations

import pytest
from check import send_and_read_back
from disturbed import ask, failures, run, until
from inventory import Host, Service

READY_SECONDS = 90.0


def boot(node: Host) -> str:
    """Return when the node booted; empty while it does not answer."""
    said = ask(node, "systemctl show --property=UserspaceTimestampMonotonic")
    return said.stdout if said.returncode == 0 else ""


def reboot(node: Host) -> None:
    """Boot a node anew and wait until it answers from its new boot."""
    before = boot(node)
    assert before
    run(node, "systemctl --no-block reboot")
    assert until(lambda: boot(node) not in ("", before), READY_SECONDS), node.name


@pytest.mark.parametrize("first", ["db", "web"])
def test_everything_works_after_a_reboot(service: Service, first: str) -> None:
    kept = send_and_read_back(service.url, service.certificate_authority)
    for node in sorted(service.nodes, key=lambda node: first not in node.groups):
        reboot(node)
    assert until(lambda: not failures(service), READY_SECONDS), failures(service)
    web = next(node for node in service.nodes if "web" in node.groups)
    run(web, f"curl -sSf http://127.0.0.1:7082/api/v1/timestamp/{kept.id}")
