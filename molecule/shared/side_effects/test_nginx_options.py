"""The options of nginx that are off by default, turned on together on a real node and put back at the end."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from disturbed import run, try_play, until

from cli.inventory import PROJECT, Host, Service

INVENTORY = os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "molecule/shared/inventory"))
ORIGIN = "https://app.example.com"
METRICS_PORT = 9444
RATE, BURST = 1, 20
RECORD = "/api/v1/timestamp/00000000-0000-4000-8000-000000000000"
RULE = "/etc/timestamp-service/firewall.d/metrics-trial.nft"


@dataclass(frozen=True)
class Answer:
    """What an HTTP request was answered with."""

    status: int
    headers: Message
    body: bytes


Send = Callable[..., Answer]


def openssl(*arguments: str) -> None:
    """Run openssl; it must succeed."""
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_authority(folder: Path, name: str) -> None:
    """Make a CA, and a client's certificate that it signed: NAME-ca.crt, NAME.crt and NAME.key."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    authority, client = folder / f"{name}-ca", folder / name
    openssl("req", "-x509", *key, "-subj", f"/CN={name} CA", "-days", "1",
            "-keyout", f"{authority}.key", "-out", f"{authority}.crt")  # fmt: skip
    openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{client}.key", "-out", f"{client}.csr")
    openssl("x509", "-req", "-in", f"{client}.csr", "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key",
            "-CAcreateserial", "-days", "1", "-out", f"{client}.crt")  # fmt: skip


def set_up(node: Host, folder: Path, settings: dict[str, Any]) -> None:
    """Write nginx's configuration on one node with these settings, and take it into use."""
    book = folder / "play.yml"
    tasks = [
        {"ansible.builtin.import_role": {"name": role, "tasks_from": part}}
        for role, part in (("base", "facts"), ("nginx", "configure"), ("nginx", "service"))
    ]
    play = {"hosts": node.name, "become": True, "gather_facts": False, "tasks": tasks}
    book.write_text(yaml.safe_dump([play]))
    done = try_play(INVENTORY, str(book), "--extra-vars", json.dumps(settings))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the CAs of clients, of a Prometheus, and of a stranger."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("client", "prometheus", "stranger"):
        make_authority(folder, name)
    return folder


@pytest.fixture(scope="module")
def send(service: Service, certificates: Path) -> Send:
    """Give an HTTPS client that may show a certificate; it closes its connection after each answer."""

    def context(shown: str) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(service.certificate_authority))
        if shown:
            made.load_cert_chain(certificates / f"{shown}.crt", certificates / f"{shown}.key")
        return made

    contexts = {name: context(name) for name in ("", "client", "prometheus", "stranger")}
    host = service.url.removeprefix("https://")

    def answer(
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        shown: str = "client",
        port: int = 443,
    ) -> Answer:
        connection = http.client.HTTPSConnection(host, port, timeout=20, context=contexts[shown])
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    return answer


@pytest.fixture(scope="module", autouse=True)
def options(
    service: Service, certificates: Path, send: Send, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Turn all options on, and off again."""
    node = next(one for one in service.nodes if "web" in one.groups)
    folder = tmp_path_factory.mktemp("play")
    settings = {
        "http_cors_origins": [ORIGIN],
        "nginx_rate_limit_per_second": RATE,
        "nginx_rate_limit_burst": BURST,
        "nginx_client_ca": str(certificates / "client-ca.crt"),
        "nginx_metrics_port": METRICS_PORT,
        "nginx_metrics_client_ca": str(certificates / "prometheus-ca.crt"),
    }

    def on() -> bool:
        return send("GET", RECORD, shown="").status == 400

    try:
        set_up(node, folder, settings)
        # A worker from before the reload may take one more connection.
        assert until(on, 10)
        yield
    finally:
        # Before the play, which lets nginx take over that they are gone.
        run(node, f"rm -f {RULE} /etc/nginx/clients-ca.crt /etc/nginx/metrics-ca.crt")
        set_up(node, folder, {})
        run(node, "systemctl reload timestamp-firewall")
        assert until(lambda: not on(), 10)


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """Check that an answer is an RFC 9457 problem with a correlationId; returns it."""
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    body: dict[str, Any] = json.loads(answer.body)
    assert set(body) == {"type", "title", "status", "detail", "instance", "correlationId"}
    assert body["status"] == status
    assert answer.headers.get_all("correlationId") == [body["correlationId"]]
    uuid.UUID(body["correlationId"])
    return body


def test_preflight_of_a_known_origin_is_answered_once(send: Send) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    # A browser shows no certificate for a preflight.
    answer = send("OPTIONS", RECORD, asked, shown="")
    assert answer.status == 204
    assert answer.headers.get_all("Access-Control-Allow-Origin") == [ORIGIN]
    assert answer.headers.get_all("Access-Control-Allow-Methods") == ["GET, HEAD, POST, OPTIONS"]
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert {"correlationid", "idempotency-key", "prefer"} <= set(allowed.split(", "))
    assert answer.headers["Access-Control-Max-Age"] == "7200"
    assert answer.headers.get_all("Vary") == ["Origin"]


def test_answers_and_errors_may_be_read_by_pages_of_a_known_origin(send: Send) -> None:
    for answer in (send("POST", "/app", {"Origin": ORIGIN}), send("GET", "/nothing", {"Origin": ORIGIN})):
        assert answer.headers.get_all("Access-Control-Allow-Origin") == [ORIGIN]
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Access-Control-Allow-Methods"] is None


def test_another_origin_is_allowed_nothing(send: Send) -> None:
    asked = {"Origin": "https://app.example.com.example.net", "Access-Control-Request-Method": "POST"}
    for answer in (send("OPTIONS", RECORD, asked, shown=""), send("POST", "/app", asked)):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
        assert answer.headers.get_all("Vary") == ["Origin"]


@pytest.mark.parametrize("shown", ["", "stranger", "prometheus"])
def test_client_without_a_good_certificate_is_refused(send: Send, shown: str) -> None:
    for method, path in (("POST", "/app"), ("GET", RECORD), ("GET", "/docs")):
        assert "client certificate" in problem(send(method, path, shown=shown), 400)["detail"]


def test_client_with_a_certificate_is_served(send: Send) -> None:
    posted = send("POST", "/app")
    assert posted.status == 200
    identity = json.loads(posted.body)["id"]
    read = send("GET", f"/api/v1/timestamp/{identity}", {"Prefer": "wait=15"})
    assert json.loads(read.body)["id"] == identity


def test_health_needs_no_certificate(send: Send) -> None:
    assert json.loads(send("GET", "/health", shown="").body) == {"status": "UP"}


def test_above_the_rate_there_is_429(send: Send) -> None:
    answers = [send("GET", "/api/v1/openapi.json")]
    # One more is let through each second.
    while answers[-1].status == 200 and len(answers) < 20 * BURST:
        answers.append(send("GET", "/api/v1/openapi.json"))
    problem(answers[-1], 429)
    assert answers[-1].headers.get_all("Retry-After") == ["1"]
    assert len(answers) > 1
    assert until(lambda: send("GET", "/api/v1/openapi.json").status == 200, 5)


def test_figures_are_for_who_shows_a_certificate(service: Service, send: Send) -> None:
    node = next(one for one in service.nodes if "web" in one.groups)
    with pytest.raises(TimeoutError):
        http.client.HTTPSConnection(node.address, METRICS_PORT, timeout=2).connect()
    # As docs/api.md says.
    accept = f"add rule inet timestamp_service input tcp dport {METRICS_PORT} accept"
    run(node, f"echo '{accept}' > {RULE} && systemctl reload timestamp-firewall")

    for name in ("command", "query", "consumer"):
        answer = send("GET", f"/{name}/metrics", shown="prometheus", port=METRICS_PORT)
        assert (answer.status, answer.headers.get_content_type()) == (200, "text/plain")
        assert f"\ntimestamp_{name}_".encode() in answer.body
    for shown in ("", "client", "stranger"):
        refused = send("GET", "/command/metrics", shown=shown, port=METRICS_PORT)
        assert "client certificate" in problem(refused, 400)["detail"]
    problem(send("GET", "/app", shown="prometheus", port=METRICS_PORT), 404)
    wrong = send("POST", "/command/metrics", shown="prometheus", port=METRICS_PORT)
    problem(wrong, 405)
    assert wrong.headers.get_all("Allow") == ["GET, HEAD"]


@pytest.mark.parametrize("path", ["/metrics", "/command/metrics", "/query/metrics", "/consumer/metrics"])
def test_figures_never_go_through_the_port_of_the_api(send: Send, path: str) -> None:
    problem(send("GET", path), 404)
