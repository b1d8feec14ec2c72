"""A node that reboots comes back by itself, whichever goes first, and nothing recorded is lost."""

from __future__ import annotations

import pytest
from disturbed import failures, reboot, run, until

from cli.end_to_end import send_and_read_back
from cli.inventory import Service

READY_SECONDS = 90.0


@pytest.mark.parametrize("first", ["db", "web"])
def test_everything_works_after_a_reboot(service: Service, first: str) -> None:
    kept = send_and_read_back(service.url, service.certificate_authority)
    for node in sorted(service.nodes, key=lambda node: first not in node.groups):
        reboot(node)
    assert until(lambda: not failures(service), READY_SECONDS), failures(service)
    web = next(node for node in service.nodes if "web" in node.groups)
    run(web, f"curl -sSf http://127.0.0.1:7082/api/v1/timestamp/{kept.id}")
