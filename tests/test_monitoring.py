"""Role monitoring: what its templates become, which settings it refuses, and the canary."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rendered
import yaml
from rendered import ADDRESSES, DATABASES, KAFKA, PROJECT, ROLES, SECRET, WATCHING, WEB

import playbooks

UNITS = (
    "prometheus",
    "prometheus-alertmanager",
    "prometheus-exporter-exporter",
    "prometheus-node-exporter",
    "prometheus-postgres-exporter",
)
# What Debian's units say by themselves, as far as ours do not replace it.
DEBIAN = "[Unit]\nDescription=x\n[Service]\nUser=prometheus\nExecStart=/usr/bin/true $ARGS\n"
EXPOSURE_CEILING = 1.6
SPECIFICATION = importlib.util.spec_from_file_location("canary", ROLES / "monitoring/files/canary.py")


@pytest.fixture(scope="module", params=rendered.RELEASES)
def texts(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> rendered.Texts:
    """Each template, and the drop-in of each unit as `UNIT.conf`."""
    template = rendered.lookup(ROLES / "monitoring/templates/service.conf.j2")
    units = [
        rendered.debug("monitoring", {"monitoring_unit": unit}, {f"{unit}.conf": template}) for unit in UNITS
    ]
    plays = rendered.plays(rendered.template_tasks, only=("monitoring", "firewall", "kafka"))
    more = {"hosts": "nodes", "gather_facts": False, "roles": [{"role": "monitoring", "tags": "never"}]}
    folder = tmp_path_factory.mktemp("monitoring")
    return rendered.run(folder, [*plays, {**more, "post_tasks": units}], {}, release=request.param)


def targets(texts: rendered.Texts) -> list[tuple[str, str, str, str]]:
    """Job, address, module and host of each target that is read through exporter-exporter."""
    settings = yaml.safe_load(texts[WATCHING[0]]["monitoring/prometheus.yml.j2"])
    return [
        (job["job_name"], address, one["labels"]["__param_module"], one["labels"]["instance"])
        for job in settings["scrape_configs"]
        for one in job["static_configs"]
        for address in one["targets"]
        if job.get("scheme") == "https"
    ]


def test_every_process_of_every_node_is_read(texts: rendered.Texts) -> None:
    expected = [("node", host, "node") for host in ADDRESSES]
    expected += [("postgresql", host, "postgresql") for host in DATABASES]
    expected += [("kafka", host, "kafka") for host in KAFKA]
    processes = ("command", "query", "consumer", "consumer-kafka2")
    expected += [("timestamp", host, f"timestamp-{process}") for host in WEB for process in processes]
    assert sorted(targets(texts)) == sorted(
        (job, f"{ADDRESSES[host]}:9998", module, host) for job, host, module in expected
    )


def test_node_offers_what_is_read_from_it_and_nothing_else(texts: rendered.Texts) -> None:
    for host in ADDRESSES:
        modules = yaml.safe_load(texts[host]["monitoring/exporters.yml.j2"])["modules"]
        assert set(modules) == {module for _, _, module, instance in targets(texts) if instance == host}
        assert {one["http"]["address"] for one in modules.values()} == {"127.0.0.1"}
        ports = [one["http"]["port"] for one in modules.values()]
        assert len(ports) == len(set(ports))


def test_processes_are_told_apart_by_a_label(texts: rendered.Texts) -> None:
    settings = yaml.safe_load(texts[WATCHING[0]]["monitoring/prometheus.yml.j2"])
    (job,) = [one for one in settings["scrape_configs"] if one["job_name"] == "timestamp"]
    labels = [one["labels"] for one in job["static_configs"]]
    assert all(one["process"] == one["__param_module"] for one in labels)


def test_exporters_listen_where_their_modules_ask(texts: rendered.Texts) -> None:
    of_database = yaml.safe_load(texts[DATABASES[0]]["monitoring/exporters.yml.j2"])["modules"]
    for unit, module in (
        ("prometheus-node-exporter", "node"),
        ("prometheus-postgres-exporter", "postgresql"),
    ):
        port = of_database[module]["http"]["port"]
        assert f"--web.listen-address=127.0.0.1:{port}" in texts[DATABASES[0]][f"{unit}.conf"]
    port = of_database["kafka"]["http"]["port"]
    assert f"=127.0.0.1:{port}:/etc/kafka/jmx.yml" in texts[KAFKA[0]]["kafka/kafka.service.j2"]


@pytest.mark.parametrize("unit", UNITS)
def test_units_listen_on_loopback_but_for_the_one_port(texts: rendered.Texts, unit: str) -> None:
    for host in ADDRESSES:
        (command,) = re.findall(r"^ExecStart=(\S.*)$", texts[host][f"{unit}.conf"], re.MULTILINE)
        assert command.startswith(f"/usr/bin/{unit} ")
        addresses = re.findall(r"listen-address[ =](?!-)(\S*)", command)
        addresses = [one for one in addresses if one]
        if unit == "prometheus-exporter-exporter":
            assert addresses == [f"{ADDRESSES[host]}:9998"]
            assert "-web.listen-address= " in command
            assert command.endswith("-web.tls.verify -web.tls.certmatch ^prometheus@timestamp-service$$")
        else:
            assert [one.partition(":")[0] for one in addresses] == ["127.0.0.1"]
    if unit == "prometheus-alertmanager":
        assert "--cluster.listen-address= " in texts[WATCHING[0]][f"{unit}.conf"]


@pytest.mark.parametrize("unit", UNITS)
def test_units_may_do_little(texts: rendered.Texts, tmp_path: Path, unit: str) -> None:
    folder = tmp_path / "etc/systemd/system"
    (folder / f"{unit}.service.d").mkdir(parents=True)
    (folder / f"{unit}.service").write_text(DEBIAN)
    own = re.sub(r"^(Exec\w+=(?:-\+)?)/\S+", r"\1/bin/true", texts[WATCHING[0]][f"{unit}.conf"], flags=re.M)
    (folder / f"{unit}.service.d/ours.conf").write_text(own)
    (tmp_path / "usr").symlink_to("/usr")
    exposure(tmp_path, f"{unit}.service", EXPOSURE_CEILING)


@pytest.mark.parametrize(("unit", "ceiling"), [("dashboard", 1.6), ("canary", 2.6)])
def test_our_own_units_may_do_little(
    texts: rendered.Texts, tmp_path: Path, unit: str, ceiling: float
) -> None:
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    text = texts[WATCHING[0]][f"monitoring/{unit}.service.j2"]
    path = folder / f"timestamp-{unit}.service"
    path.write_text(re.sub(r"^(Exec\w+=(?:-\+)?)/\S+", r"\1/bin/true", text, flags=re.M))
    (tmp_path / "usr").symlink_to("/usr")
    exposure(tmp_path, path.name, ceiling)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def exposure(root: Path, unit: str, ceiling: float) -> None:
    """Check what systemd says of a unit below a root folder."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--root={root}", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    level = re.search(rf"exposure level for {re.escape(unit)}: (\S+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= ceiling, done.stdout


def test_firewall_lets_prometheus_alone_read(texts: rendered.Texts) -> None:
    for host in ADDRESSES:
        rules = texts[host]["firewall/firewall.nft.j2"]
        sources = re.findall(r"ip saddr \{ (.*) \} tcp dport 9998 accept", rules)
        assert sources == [", ".join(ADDRESSES[one] for one in WATCHING)]
        assert ("tcp dport 9443 accept" in rules) == (host in WATCHING)


def test_dashboard_passes_on_four_paths(texts: rendered.Texts) -> None:
    text = texts[WATCHING[0]]["monitoring/nginx.conf.j2"]
    (pattern,) = re.findall(r"location ~ (\S+) \{", text)
    paths = ("query", "query_range", "alerts", "rules", "targets", "admin/tsdb/snapshot", "status/config")
    assert [path for path in paths if re.search(pattern, f"/api/v1/{path}")] == list(paths[:4])
    assert text.count("proxy_pass ") == 1
    assert "auth_basic_user_file /run/credentials/timestamp-dashboard.service/users;" in text


def test_programs_read_their_settings(texts: rendered.Texts, tmp_path: Path) -> None:
    checks = {
        "prometheus.yml": ["promtool", "check", "config", "--syntax-only"],
        "alertmanager.yml": ["amtool", "check-config"],
    }
    for name, command in checks.items():
        path = tmp_path / name
        path.write_text(texts[WATCHING[0]][f"monitoring/{name}.j2"])
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_without_the_group_nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "WATCHING", [])
    plays = rendered.plays(rendered.template_tasks, only=("firewall", "kafka"))
    texts = rendered.run(tmp_path, plays, {})
    for host in KAFKA:
        assert not re.search("javaagent|jmx", texts[host]["kafka/kafka.service.j2"])
        assert "9998" not in texts[host]["firewall/firewall.nft.j2"]


def preflight(folder: Path, settings: Mapping[str, Any]) -> str:
    """Run the role's checks on the host that watches; returns what they said."""
    rendered.write_secrets(folder)
    described = rendered.inventory(folder)
    described["all"]["vars"] |= settings
    (folder / "hosts.yml").write_text(yaml.safe_dump(described))
    task = {"ansible.builtin.import_role": {"name": "monitoring", "tasks_from": "preflight"}}
    (folder / "check.yml").write_text(
        yaml.safe_dump([{"hosts": WATCHING[0], "gather_facts": False, "tasks": [task]}])
    )
    done = playbooks.run("-i", "hosts.yml", "check.yml", folder=folder, ANSIBLE_ROLES_PATH=str(ROLES))
    return "" if done.returncode == 0 else playbooks.on_one_line(done)


HOOK = "{{ secrets_folder }}/hook"
MAIL = {
    "monitoring_email_to": "a@example.org",
    "monitoring_email_from": "b@example.org",
    "monitoring_email_server": "mail.example.org:25",
}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ""),
        ({**MAIL, "monitoring_webhook_file": HOOK}, ""),
        ({"monitoring_port": 9090}, "monitoring_port is 9090. It must be a free port"),
        ({"monitoring_port": 443}, "monitoring_port is 443. It must be a free port"),
        ({"nginx_metrics_port": 9443}, "monitoring_port is 9443. It must be a free port"),
        ({"monitoring_scrape_seconds": 300}, "It must be from 5 to 120"),
        ({"monitoring_memory_max_mb": 20}, "monitoring_memory_max_mb 96 or more"),
        ({"monitoring_repeat_hours": 0}, "monitoring_repeat_hours is 0"),
        ({"monitoring_webhook_file": "/no/such"}, "monitoring_webhook_file names /no/such, and there is no"),
        ({"monitoring_webhook_file": "{{ secrets_folder }}/mail_password"}, "that holds one URL"),
        ({"monitoring_email_to": "a@example.org"}, "belong together. Set all three, or none"),
        ({**MAIL, "monitoring_email_server": "mail"}, "Write a host and a port"),
        ({**MAIL, "monitoring_email_to": "somebody"}, "somebody is no address for mails"),
        ({**MAIL, "monitoring_email_user": "me"}, "belong together. Set both, or neither."),
        ({"nginx_client_ca": "/clients.pem"}, "Set monitoring_canary to false"),
        ({"nginx_client_ca": "/clients.pem", "monitoring_canary": False}, ""),
    ],
    ids=str,
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    answer = preflight(tmp_path, settings)
    assert said in answer
    assert bool(said) == bool(answer)


def test_receivers_get_their_secrets(tmp_path: Path) -> None:
    given = {
        **MAIL,
        "monitoring_email_user": "me",
        "monitoring_email_password_file": "{{ secrets_folder }}/mail_password",
        "monitoring_webhook_file": HOOK,
        "monitoring_watchdog_webhook_file": "{{ secrets_folder }}/watchdog",
    }
    texts = rendered.run(tmp_path, rendered.plays(rendered.template_tasks, only=("monitoring",)), given)
    settings = yaml.safe_load(texts[WATCHING[0]]["monitoring/alertmanager.yml.j2"])
    operators, watchdog = settings["receivers"]
    assert operators["email_configs"][0]["auth_password"] == f"{SECRET}mailpassword"
    assert operators["webhook_configs"][0]["url"] == "https://hook.example.org/1"
    assert watchdog["webhook_configs"][0]["url"] == "https://watchdog.example.org/1"
    rules = yaml.safe_load((ROLES / "monitoring/files/alerts.yml").read_text())
    names = [rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    (matcher,) = settings["route"]["routes"][0]["matchers"]
    assert matcher.removeprefix('alertname = "').removesuffix('"') in names


@pytest.fixture
def canary() -> ModuleType:
    assert SPECIFICATION
    assert SPECIFICATION.loader
    module = importlib.util.module_from_spec(SPECIFICATION)
    SPECIFICATION.loader.exec_module(module)
    return module


class Service(BaseHTTPRequestHandler):
    """A stand-in for the service: what it records, and what it answers to a GET."""

    post_status = 200
    found: Mapping[str, str] = {"id": "one", "event_timestamp": "0001-01-01T00:00:00Z"}

    def answer(self, status: int, body: Mapping[str, str]) -> None:
        """Send JSON."""
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        """Record."""
        self.answer(self.post_status, {"id": "one"} if self.post_status == 200 else {"title": "no"})

    def do_GET(self) -> None:
        """Read back."""
        self.answer(200, self.found)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, canary: ModuleType) -> Iterator[tuple[type[Service], str]]:
    """A service of its own for a test, and its address; certificates are another test's matter."""
    handler = type("Own", (Service,), {})
    monkeypatch.setattr(canary.ssl, "create_default_context", lambda **_: None)
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run_canary(canary: ModuleType, url: str, file: Path) -> int:
    return int(canary.main(["--url", url, "--authority", "ca.crt", "--textfile", str(file)]))


def test_canary_says_when_the_whole_way_was_gone(
    canary: ModuleType, served: tuple[type[Service], str], tmp_path: Path
) -> None:
    file = tmp_path / "canary.prom"
    assert run_canary(canary, served[1], file) == 0
    lines = dict(line.split() for line in file.read_text().splitlines() if line[0] != "#")
    assert lines["timestamp_canary_enabled"] == "1"
    assert float(lines["timestamp_canary_last_success_seconds"]) > 1.7e9
    assert 0 < float(lines["timestamp_canary_duration_seconds"]) < 5
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"post_status": 503}, "not recorded at"),
        ({"found": {"id": "two", "event_timestamp": "0001-01-01T00:00:00Z"}}, "one not read back at"),
        ({"found": {"id": "one", "event_timestamp": "2000-01-01T00:00:00Z"}}, "one not read back at"),
        ({"found": {}}, "one not read back at"),
    ],
    ids=str,
)
def test_canary_keeps_the_time_of_the_last_success(
    canary: ModuleType,
    served: tuple[type[Service], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    said: str,
) -> None:
    handler, url = served
    for name, value in change.items():
        setattr(handler, name, value)
    file = tmp_path / "canary.prom"
    file.write_text("timestamp_canary_last_success_seconds 5\n")
    assert run_canary(canary, url, file) == 1
    assert said in capsys.readouterr().err
    assert file.read_text() == "timestamp_canary_last_success_seconds 5\n"


def test_canary_goes_nowhere_without_its_authority(canary: ModuleType, tmp_path: Path) -> None:
    assert run_canary(canary, "https://127.0.0.1:9", tmp_path / "canary.prom") == 1
    assert not (tmp_path / "canary.prom").exists()


def test_agent_is_pinned_as_it_is_named() -> None:
    folder = PROJECT / "roles/kafka_distribution"
    name = rendered.read(folder / "vars/main.yml")["kafka_distribution_agent_name"]
    ((_, path),) = [
        line.split() for line in (folder / "files/jmx_agent/jars.sha256").read_text().splitlines()
    ]
    assert path == f"libs/{name}.jar"
    assert f"<version>{name.rpartition('-')[2]}</version>" in (folder / "files/jmx_agent/pom.xml").read_text()
