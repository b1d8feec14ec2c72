"""A request's way through the four services as Zipkin shows it, with the real one."""

import json
import os
import re
import shutil
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import serving, until
from tests.integration.service import Service, World
from tests.integration.zipkin import Nginx, Zipkin

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed"),
]

CLIENT = "00f067aa0ba902b7"


def figure(service: Service, name: str) -> float:
    """Return a figure of the metrics of a service."""
    (value,) = re.findall(rf"^{name} (\S+)$", service.ask("GET", "/metrics").body.decode(), re.MULTILINE)
    return float(value)


def test_one_trace_has_the_spans_of_the_four_services(world: World, workspace: Path) -> None:
    lines = workspace / "nginx-lines.sock"
    with serving(Zipkin, workspace / "zipkin") as zipkin:
        on = {"TRACES_URL": zipkin.url, "TRACES_SHARE": "0", "TRACES_PER_SECOND": "1000"}
        command, query = world.start_command(**on), world.start_query(**on)
        consumer = world.start_consumer(**on, TRACES_NGINX_SOCKET=str(lines))
        for service in (command, query, consumer):
            service.wait_until_ready()
        with serving(lambda folder: Nginx(folder, command, query, lines), workspace / "nginx") as nginx:

            def ask(method: str, path: str, headers: dict[str, str]) -> Any:
                connection = HTTPConnection("127.0.0.1", nginx.port, timeout=40)
                connection.request(method, path, headers=headers)
                answer = connection.getresponse()
                assert answer.status == 200
                body = json.loads(answer.read())
                connection.close()
                return body

            trace_id = os.urandom(16).hex()
            headers = {"traceparent": f"00-{trace_id}-{CLIENT}-01"}
            identifier = ask("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z", headers)["id"]
            ask("GET", f"/api/v1/timestamp/{identifier}", {**headers, "Prefer": "wait=20"})
            until("all spans are there", lambda: len(zipkin.trace(trace_id)) >= 6, 30)
            check_spans(zipkin.trace(trace_id), identifier)
            services = zipkin.get("/api/v2/services")
            assert services == ["nginx", "timestamp-command", "timestamp-consumer", "timestamp-query"]

            # One that nobody asked for: the command API sends no more than the two spans of the first one.
            unsampled = {"traceparent": f"00-{trace_id[::-1]}-{CLIENT}-00"}
            ask("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z", unsampled)
            # A collector that is away costs no request anything.
            zipkin.process.end()
            dropped = figure(command, "timestamp_traces_dropped_total")
            for _ in range(20):
                ask("POST", "/api/v1/timestamp/2009-09-28T19:03:12Z", headers)
            until(
                "spans are dropped",
                lambda: figure(command, "timestamp_traces_dropped_total") >= dropped + 40,
            )
            assert figure(command, "timestamp_traces_sent_total") == 2
            assert {line["event"] for line in command.log()} >= {"spans_not_sent"}
            for service in (command, query, consumer):
                assert service.process.terminate() == 0


def check_spans(spans: list[dict[str, Any]], identifier: str) -> None:
    """Check the tree: each span has the parent that called it, and none is there twice."""

    def one(service: str, kind: str, name: str) -> dict[str, Any]:
        (found,) = [
            span
            for span in spans
            if (span["localEndpoint"]["serviceName"], span["kind"], span["name"]) == (service, kind, name)
        ]
        return found

    assert len(spans) == 6
    for method, service in (("post", "timestamp-command"), ("get", "timestamp-query")):
        front = one("nginx", "SERVER", f"{method} {service.removeprefix('timestamp-')}")
        api = one(service, "SERVER", f"{method} /api/v1/timestamp/{{text}}")
        assert front["parentId"] == CLIENT
        assert api["parentId"] == front["id"]
        assert front["tags"]["correlationId"] == api["tags"]["correlationId"]
        assert api["tags"]["command_id"] == identifier
        # nginx' clock counts milliseconds.
        assert front["timestamp"] <= api["timestamp"] + 2_000
        assert front["duration"] + 2_000 >= api["duration"]
    sent = one("timestamp-command", "PRODUCER", "send")
    written = one("timestamp-consumer", "CONSUMER", "write")
    assert sent["parentId"] == one("timestamp-command", "SERVER", "post /api/v1/timestamp/{text}")["id"]
    assert written["parentId"] == sent["id"]
    assert written["timestamp"] >= sent["timestamp"]
    assert "error" not in "".join(tag for span in spans for tag in span.get("tags", ()))
