"""What watches the nodes: who may read what is tried for real, from the node that watches and from here."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Answer, connect, service
from testinfra.host import Host

from cli.units import CONTRACT, DASHBOARD_USER, watch_units

GROUP = "monitoring"
PORT = CONTRACT["contract_exporters_port"]
FOLDER = CONTRACT["contract_monitoring_folder"].replace(
    "{{ contract_settings_folder }}", CONTRACT["contract_settings_folder"]
)
EXPOSURE_CEILING = 1.6
# An agent without rules has 10,000.
KAFKA_SERIES_MAX = 250
# Of all that watches, on a node that also serves.
MEMORY_MIB = 250
AUTHORITY = "/etc/timestamp-service/ca.crt"
WATCHED = [node for node in service().nodes if node.exporters]
UNITS = [
    (node.name, unit)
    for node in WATCHED
    for unit in watch_units(node.groups, canary=True)
    if unit.endswith(".service")
]


@pytest.fixture(params=UNITS, ids=lambda pair: f"{pair[0].partition('.')[0]}-{pair[1]}")
def unit(request: pytest.FixtureRequest) -> tuple[Host, str]:
    name, unit = request.param
    return connect(name), unit


def test_unit_runs_and_has_not_restarted(unit: tuple[Host, str]) -> None:
    node, name = unit
    assert node.service(name).is_running
    assert node.service(name).is_enabled
    assert node.check_output(f"systemctl show {name} --property=NRestarts --value") == "0"


def test_exposure_is_under_the_ceiling(unit: tuple[Host, str]) -> None:
    node, name = unit
    line = node.run(f"systemd-analyze security --no-pager {name}").stdout.strip().splitlines()[-1]
    assert float(line.split("exposure level for")[1].split(":")[1].split()[0]) <= EXPOSURE_CEILING, line


def scrape(node: Host, address: str, module: str, credential: str = "") -> tuple[int, str]:
    """Read a module through exporter-exporter, as Prometheus does; the status is 0 without an answer."""
    command = f"curl --silent --max-time 15 --cacert {AUTHORITY} -H 'Accept: application/openmetrics-text'"
    if credential:
        command += f" --cert {credential}.crt --key {credential}.key"
    done = node.run(
        f"{command} --write-out '\\n%{{http_code}}' https://{address}:{PORT}/proxy?module={module}"
    )
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


def test_prometheus_may_read_and_no_other_certificate_of_our_authority(node: Host) -> None:
    for one in WATCHED:
        assert scrape(node, one.address, "node")[0] == 0
        assert scrape(node, one.address, "node", f"{FOLDER}/node")[0] == 0
        assert scrape(node, one.address, "node", f"{FOLDER}/prometheus")[0] == 200


def test_certificate_of_a_broker_may_not_read() -> None:
    """It may be a client's too, so that its name alone is what is wrong."""
    kafka = next(one for one in WATCHED if "kafka" in one.groups)
    broker = connect(kafka.name)
    command = f"curl --silent --max-time 15 --cacert {AUTHORITY} --cert /etc/kafka/server.pem"
    done = broker.run(
        f"{command} --write-out '%{{http_code}}' https://{kafka.address}:{PORT}/proxy?module=node"
    )
    assert done.stdout.endswith("000")


def test_packets_of_others_are_dropped() -> None:
    for one in WATCHED:
        with pytest.raises(TimeoutError):
            socket.create_connection((one.address, PORT), timeout=2)


def ask(node: Host, path: str) -> Any:
    """Ask Prometheus on its node."""
    port = CONTRACT["contract_prometheus_port"]
    answer = json.loads(
        node.check_output("curl --silent --fail %s", f"http://127.0.0.1:{port}/api/v1/{path}")
    )
    assert answer["status"] == "success"
    return answer["data"]


def value(node: Host, query: str) -> float:
    """The one value of a query."""
    (result,) = ask(node, f"query?query={urllib.parse.quote(query)}")["result"]
    return float(result["value"][1])


def until(condition: Callable[[], bool], seconds: float = 90) -> bool:
    """Wait until something holds: what is read is read every half minute."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(2)
    return True


def test_prometheus_reads_every_target(node: Host) -> None:
    def errors() -> list[str]:
        active = ask(node, "targets?state=active")["activeTargets"]
        return [f"{one['labels']}: {one['lastError']}" for one in active if one["health"] != "up"]

    assert until(lambda: not errors()), errors()
    jobs = {one["labels"]["job"] for one in ask(node, "targets?state=active")["activeTargets"]}
    assert jobs == {"node", "postgresql", "kafka", "timestamp", "prometheus", "alertmanager"}


def test_kafka_has_few_series(node: Host) -> None:
    assert 60 < value(node, 'max(count by (instance) ({job="kafka"}))') < KAFKA_SERIES_MAX


@pytest.mark.parametrize(
    "metric",
    [
        "kafka_replicas_underminisrpartitioncount",
        "kafka_controller_offlinepartitionscount",
        "kafka_raft_state",
        "pg_settings_max_connections",
        "pg_stat_database_numbackends",
        "node_cpu_seconds_total",
        "node_memory_MemAvailable_bytes",
        "node_network_receive_bytes_total",
        "timestamp_volume_free_bytes",
        "timestamp_node_certificate_not_after_seconds",
        "timestamp_node_unit_restarts_total",
        "timestamp_node_release_info",
        "timestamp_node_security_updates",
        "timestamp_node_facts_seconds",
        "timestamp_http_request_duration_seconds_count",
    ],
)
def test_what_alerts_and_dashboard_ask_for_is_there(node: Host, metric: str) -> None:
    assert until(lambda: bool(ask(node, f"query?query={metric}")["result"])), metric


def test_collectors_of_the_exporters_work(node: Host) -> None:
    failed = "node_scrape_collector_success == 0 or pg_exporter_last_scrape_error == 1 or pg_up == 0"
    assert ask(node, f"query?query={urllib.parse.quote(failed)}")["result"] == []


def test_exporter_of_postgresql_may_read_no_row() -> None:
    for one in WATCHED:
        if "postgresql" in one.groups:
            told = connect(one.name).run(
                f"runuser -u prometheus -- psql --port={one.database_port} -XAtc 'SELECT 1' timestamps"
            )
            assert 'permission denied for database "timestamps"' in told.stderr


def test_the_alert_that_always_fires_has_reached_alertmanager(node: Host) -> None:
    port = CONTRACT["contract_alertmanager_port"]

    def fires() -> bool:
        alerts = json.loads(node.check_output("curl -sf %s", f"http://127.0.0.1:{port}/api/v2/alerts"))
        return "Watchdog" in {one["labels"]["alertname"] for one in alerts}

    assert until(fires, 120)


def test_canary_goes_the_whole_way(node: Host) -> None:
    assert node.service("timestamp-canary.timer").is_enabled
    begin = float(node.check_output("date +%s"))
    node.check_output("systemctl start timestamp-canary.service")
    text = node.file("/var/lib/prometheus/node-exporter/timestamp_canary.prom").content_string
    found = re.search(r"^timestamp_canary_last_success_seconds (\S+)$", text, re.MULTILINE)
    assert found
    assert float(found[1]) >= begin


def test_watching_takes_little_memory(node: Host) -> None:
    groups = next(one.groups for one in WATCHED if one.name == node.check_output("hostname --fqdn"))
    names = " ".join(one for one in watch_units(groups, canary=False))
    pids = node.check_output(f"systemctl show --property=MainPID --value {names}").split()
    kib = node.check_output(f"ps --no-headers -o rss --pid {','.join(pids)} --ppid {','.join(pids)}").split()
    assert len(kib) > len(pids) - 1
    assert sum(map(int, kib)) / 1024 <= MEMORY_MIB


@pytest.fixture
def dashboard() -> Callable[..., Answer]:
    """Give a client of the dashboard, which logs in unless it is told not to."""
    context = ssl.create_default_context(cafile=str(service().dashboard_authority))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    password = (service().secrets_folder / "dashboard_password").read_text().strip()

    def send(method: str, path: str, password: str = password) -> Answer:
        request = urllib.request.Request(f"{service().dashboards[0]}{path}", method=method)
        if password:
            told = base64.b64encode(f"{DASHBOARD_USER}:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {told}")
        try:
            with opener.open(request, timeout=20) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    return send


def test_dashboard_asks_for_the_password(dashboard: Callable[..., Answer]) -> None:
    for path in ("", "api/v1/alerts"):
        assert dashboard("GET", path, password="").status == 401
        assert dashboard("GET", path, password="A" * 40).status == 401
        assert dashboard("GET", path).status == 200


def test_dashboard_reads_four_paths_and_no_more(dashboard: Callable[..., Answer]) -> None:
    for path in ("query?query=up", "query_range?query=up&start=0&end=60&step=60", "alerts", "rules"):
        assert dashboard("GET", f"api/v1/{path}").json()["status"] == "success"
        assert dashboard("POST", f"api/v1/{path}").status == 405
    for path in ("api/v1/targets", "api/v1/status/config", "api/v1/query/", "metrics", "graph", "-/reload"):
        assert dashboard("GET", path).status == 404


def test_dashboard_lets_a_page_load_its_own_alone(dashboard: Callable[..., Answer]) -> None:
    answer = dashboard("GET", "")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
