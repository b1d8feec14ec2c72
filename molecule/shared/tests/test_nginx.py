"""nginx: TLS, one path for reading and writing, one place for errors."""

from __future__ import annotations

import time
import uuid

import pytest
import yaml
from conftest import Answer, Client, logged_requests
from testinfra.host import Host

from cli.inventory import PROJECT
from cli.units import ACCESS_LOG

GROUP = "web"
EXPOSURE_CEILING = 2.3
RECORD = "/api/v1/timestamp/00000000-0000-4000-8000-000000000000"


def test_unit_runs(node: Host) -> None:
    assert node.service("nginx.service").is_running
    assert node.service("nginx.service").is_enabled
    assert node.check_output("systemctl show nginx.service --property=NRestarts --value") == "0"


@pytest.mark.parametrize("unit", ["nginx.service", "nginx-logrotate.service"])
def test_exposure_is_under_the_ceiling(node: Host, unit: str) -> None:
    line = node.run(f"systemd-analyze security --no-pager {unit}").stdout.strip().splitlines()[-1]
    assert float(line.split("exposure level for")[1].split(":")[1].split()[0]) <= EXPOSURE_CEILING, line


def test_key_is_for_root_alone(node: Host) -> None:
    file = node.file("/etc/nginx/timestamp-service.key")
    assert (file.user, file.mode) == ("root", 0o600)


@pytest.mark.parametrize(
    "cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256", "eNULL", "aNULL"]
)
def test_weak_ciphers_are_refused(node: Host, cipher: str) -> None:
    command = f"echo | openssl s_client -connect 127.0.0.1:443 -tls1_2 -cipher '{cipher}:@SECLEVEL=0'"
    assert node.run(command).rc != 0


def test_plain_http_only_redirects(request_https: Client, web_address: str) -> None:
    answer = request_https("POST", "/app?x=1", scheme="http")
    assert answer.status == 308
    assert answer.headers["Location"] == f"https://{web_address}/app?x=1"


def test_health_is_that_of_both_apis(request_https: Client) -> None:
    answer = request_https("GET", "/health")
    assert answer.status == 200
    assert answer.json() == {"status": "UP"}


@pytest.mark.parametrize("path", ["/metrics", "/ready", "/nothing", "/"])
def test_other_paths_are_not_found(request_https: Client, path: str) -> None:
    problem(request_https("GET", path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", RECORD, "GET, HEAD, POST, OPTIONS"),
        ("PUT", RECORD, "GET, HEAD, POST, OPTIONS"),
        ("PUT", "/api/v1/timestamps", "GET, HEAD, POST, OPTIONS"),
        ("POST", "/api/v1/openapi.json", "GET, HEAD, OPTIONS"),
        ("POST", "/docs", "GET, HEAD, OPTIONS"),
        ("GET", "/app", "POST, OPTIONS"),
        ("GET", "/api/v1/timestamp", "POST, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
    ],
)
def test_other_methods_are_not_allowed(request_https: Client, method: str, path: str, allow: str) -> None:
    answer = request_https(method, path)
    problem(answer, 405)
    assert answer.headers.get_all("Allow") == [allow]


def test_options_are_answered_in_one_place(request_https: Client) -> None:
    answer = request_https("OPTIONS", RECORD)
    assert answer.status == 204
    assert answer.headers.get_all("Allow") == ["GET, HEAD, POST, OPTIONS"]


def test_too_large_a_body_is_a_problem(request_https: Client) -> None:
    problem(request_https("POST", "/api/v1/timestamps", body=b" " * (1024 * 1024 + 1)), 413)


def test_no_other_origin_may_use_it_by_default(request_https: Client) -> None:
    asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    for answer in (request_https("OPTIONS", "/app", asked), request_https("GET", "/health", asked)):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_the_description_and_its_page_are_served(request_https: Client) -> None:
    described = request_https("GET", "/api/v1/openapi.json")
    assert described.status == 200
    assert described.json()["openapi"] == "3.1.0"
    page = request_https("GET", "/docs")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_security_headers(request_https: Client) -> None:
    headers = request_https("GET", "/health").headers
    assert headers["Strict-Transport-Security"] == "max-age=63072000"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] == "nginx"


def test_http2_is_offered(node: Host) -> None:
    # Frames of HTTP/2 follow the handshake on its output: only the one line is text.
    command = "echo | openssl s_client -connect 127.0.0.1:443 -alpn h2 2>/dev/null | grep --text ALPN"
    assert node.check_output(command) == "ALPN protocol: h2"


@pytest.mark.parametrize(("version", "offered"), [("tls1_1", False), ("tls1_2", True), ("tls1_3", True)])
def test_tls_versions(node: Host, version: str, offered: bool) -> None:
    # SECLEVEL 0 lets the client offer what the server must refuse.
    command = f"echo | openssl s_client -connect 127.0.0.1:443 -{version} -cipher 'DEFAULT:@SECLEVEL=0'"
    assert (node.run(command).rc == 0) is offered


def test_access_log_is_json_in_a_file(node: Host, request_https: Client) -> None:
    sent = str(uuid.uuid4())
    request_https("GET", RECORD, {"correlationId": sent})
    (entry,) = logged_requests(node, sent)
    assert entry["correlationId"] == sent
    assert entry["status"] == 404
    assert entry["path"] == RECORD
    # Not in both.
    command = (
        f"journalctl --sync; journalctl --quiet --unit=nginx.service --output=cat --since=-1min --grep={sent}"
    )
    assert node.run(command).stdout == ""


def test_access_log_is_rotated_by_its_size(node: Host, request_https: Client) -> None:
    defaults = yaml.safe_load((PROJECT / "roles/nginx/defaults/main.yml").read_text())
    kept = defaults["nginx_access_log_files"]
    try:
        for _ in range(kept + 2):
            node.check_output(f"truncate --size=101M {ACCESS_LOG}")
            # Without its starts so far, of which systemd allows only some in ten seconds.
            node.check_output("systemctl reset-failed nginx-logrotate.service")
            node.check_output("systemctl start nginx-logrotate.service")
            assert node.file(ACCESS_LOG).size < 100_000_000
            goes_on(node, request_https)
        files = node.check_output(f"ls --sort=version {ACCESS_LOG}*").split()
        assert files == [ACCESS_LOG, *(f"{ACCESS_LOG}.{number}" for number in range(1, kept + 1))]
        file = node.file(ACCESS_LOG)
        assert (file.user, file.group, file.mode) == ("www-data", "adm", 0o660)
        # The master, which has no right to override permissions, can open the new file.
        node.check_output("systemctl reload nginx.service")
        goes_on(node, request_https)
    finally:
        # Each begins with a line of 101 MB.
        node.run(f"rm --force {ACCESS_LOG}.[0-9]*")


def test_access_log_is_looked_at_every_minute(node: Host) -> None:
    timer = node.service("nginx-logrotate.timer")
    assert timer.is_enabled
    assert timer.is_running
    asked = "systemctl show --property=TimersMonotonic nginx-logrotate.timer"
    assert "OnUnitActiveUSec=1min ;" in node.check_output(asked)
    asked = "systemctl show --property=ExecMainStartTimestampMonotonic --value nginx-logrotate.service"
    before = int(node.check_output(asked))
    # A restarted timer fires at once.
    node.check_output("systemctl restart nginx-logrotate.timer")
    end = time.monotonic() + 10
    while int(node.check_output(asked)) == before and time.monotonic() < end:
        time.sleep(0.2)
    assert int(node.check_output(asked)) > before
    assert node.check_output("systemctl show --property=Result --value nginx-logrotate.service") == "success"


def test_access_log_is_rotated_by_nothing_else(node: Host) -> None:
    looked_at = node.check_output("logrotate --debug /etc/logrotate.conf 2>&1")
    assert "/var/log/nginx/*.log" in looked_at
    assert ACCESS_LOG not in looked_at


def goes_on(node: Host, request_https: Client) -> None:
    """Check that nginx writes the line of a request into the file that is there now."""
    sent = str(uuid.uuid4())
    request_https("GET", RECORD, {"correlationId": sent})
    assert logged_requests(node, sent)
    assert node.run(f"grep --text --quiet {sent} {ACCESS_LOG}").rc == 0


def problem(answer: Answer, status: int) -> None:
    """Check that an answer is an RFC 9457 problem with a correlationId."""
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert set(body) == {"type", "title", "status", "detail", "instance", "correlationId"}
    assert answer.headers.get_all("correlationId") == [body["correlationId"]]
    uuid.UUID(body["correlationId"])
