"""What nginx answered just before its end is in its access log, though workers hold lines for a second."""

from __future__ import annotations

import uuid

import pytest
from disturbed import ask, run

from cli.inventory import Service
from cli.units import ACCESS_LOG

REQUESTS = 50


@pytest.mark.parametrize("action", ["stop", "restart"])
def test_an_end_of_nginx_loses_no_line(service: Service, action: str) -> None:
    web = next(node for node in service.nodes if "web" in node.groups)
    trial = uuid.uuid4()
    try:
        # The node asks itself, so that the last request is not long ago when nginx ends.
        run(
            web,
            f"curl --silent --insecure 'https://127.0.0.1/{trial}/[1-{REQUESTS}]' --output /dev/null && "
            f"systemctl {action} nginx.service",
        )
        assert ask(web, f"grep --count {trial} {ACCESS_LOG}").stdout.split() == [str(REQUESTS)]
    finally:
        run(web, "systemctl start nginx.service")
