"""The checks of a node's state and their fixes; molecule/shared/side_effects breaks real nodes."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cli import checks, diagnose
from cli.end_to_end import EndToEndError, RoundTrip
from cli.inventory import Host, Service
from cli.units import APIS, CONSUMER, CONSUMER_PORT, units_of

NOW = 1_800_000_000.0


def host(name: str, address: str, *groups: str) -> Host:
    ssh = ("ssh", name)
    processes = {**APIS, CONSUMER_PORT: CONSUMER}
    return Host(
        f"{name}.example",
        frozenset({"nodes", *groups}),
        ssh,
        address,
        units=units_of(groups, "postgresql@15-main.service", processes.values()),
        database_port=5432 if "postgresql" in groups else 0,
        processes=processes if "web" in groups else {},
    )


NODES = (host("db", "192.0.2.11", "kafka", "postgresql"), host("web", "192.0.2.12", "web"))
DATABASE, WEB = NODES
DATABASE_ANSWERS = {"error": "", "connections": 3, "most": 100, "table": True, "debian": "12"}


def state(**changes: Any) -> dict[str, Any]:
    """Return the state of a node without a fault."""
    return {
        "time": NOW,
        "ahead": 0.0,
        "units": [],
        "time_unit": "systemd-timesyncd.service",
        "failed_units": [],
        "outdated": [],
        "updates": {"all": [], "security": []},
        "reboot": [],
        "certificates": [],
        "shared": {"the application's release": "1+a"},
        "volumes": [],
        "firewall": True,
        "reached": [],
        "ready": [],
        "projections": [],
        "exporters": [],
        "targets": [],
        "kafka": None,
        "database": None,
        **changes,
    }


def failures(node: Host, **changes: Any) -> list[checks.Check]:
    return [check for check in checks.look_at_node(node, NODES, state(**changes)) if not check.passed]


def lines(node: Host, **changes: Any) -> dict[str, str]:
    """Return how each check of a state is shown, by what it checks."""
    return {check.what: checks.line(check) for check in checks.look_at_node(node, NODES, state(**changes))}


def unit(**changes: str) -> dict[str, str]:
    return {
        "Id": "nginx.service",
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "running",
        "Result": "success",
        **changes,
    }


def acme(lasts: float, left: float) -> dict[str, Any]:
    """Return the state of a certificate by ACME that lasts for so many days, of which so many are left."""
    end = NOW + left * 86400
    return {
        "path": "/c",
        "not_before": end - lasts * 86400,
        "not_after": end,
        "key_fits": True,
        "by_acme": True,
    }


def test_question_is_that_of_the_groups() -> None:
    asked = diagnose.question(WEB, NODES)
    assert asked["peers"] == ["192.0.2.11:9092", "192.0.2.11:5432"]
    assert sorted(asked["ports"]) == [7080, 7081, 7082]
    assert "nginx.service" in asked["units"]
    assert diagnose.question(DATABASE, NODES)["database"] == 5432


def test_a_database_that_was_moved_is_asked_at_its_port() -> None:
    moved = replace(DATABASE, database_port=5433)
    assert diagnose.question(moved, (moved, WEB))["database"] == 5433
    assert "192.0.2.11:5433" in diagnose.question(WEB, (moved, WEB))["peers"]
    assert "peers" not in diagnose.question(DATABASE, NODES)


def test_nothing_fails_where_nothing_is_wrong() -> None:
    volume = {"path": "/", "free": 50 << 30, "size": 100 << 30, "free_inodes": 0.9}
    certificate = {"path": "/c", "not_after": NOW + 90 * 86400, "key_fits": True}
    assert failures(WEB, units=[unit()], volumes=[volume], certificates=[certificate]) == []


@pytest.mark.parametrize(("lasts", "left"), [(90, 29), (90, 23), (6, 2), (1, 0.3), (365, 40)])
def test_certificate_by_acme_that_is_renewed_in_time_is_no_failure(lasts: float, left: float) -> None:
    assert failures(WEB, certificates=[acme(lasts, left)]) == []


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        ({"ahead": 100.0}, "clock", "systemd-timesyncd"),
        ({"ahead": -100.0, "time_unit": "chrony.service"}, "clock", "systemctl restart chrony.service"),
        ({"ahead": -100.0, "time_unit": ""}, "clock", "apt install systemd-timesyncd"),
        ({"firewall": False}, "firewall", "systemctl restart timestamp-firewall"),
        ({"failed_units": ["other.service"]}, "other.service", "systemctl status other.service"),
        (
            {"outdated": [["nginx.service", "/etc/one"], ["nginx.service", "/etc/two"]]},
            "nginx.service runs with what is on the disk",
            "site.yml",
        ),
        ({"units": [unit(ActiveState="inactive")]}, "nginx.service", "systemctl start nginx.service"),
        ({"units": [unit(ActiveState="failed", journal="no key\n")]}, "nginx.service", "make logs NODE=web"),
        ({"units": [unit(ActiveState="inactive", LoadState="masked")]}, "nginx.service", "systemctl unmask"),
        ({"units": [unit(ActiveState="inactive", LoadState="not-found")]}, "nginx.service", "site.yml"),
        (
            {"units": [unit(ActiveState="activating", SubState="start")]},
            "nginx.service",
            "waits for",
        ),
        (
            {"volumes": [{"path": "/d", "free": 9 << 30, "size": 100 << 30, "free_inodes": 0.9}]},
            "volume of /d",
            "add disk under /d",
        ),
        (
            {"volumes": [{"path": "/d", "free": 90 << 30, "size": 100 << 30, "free_inodes": 0.01}]},
            "volume of /d",
            "add disk under /d",
        ),
        (
            {"certificates": [{"path": "/c", "not_after": NOW + 29 * 86400, "key_fits": True}]},
            "certificate /c",
            "site.yml",
        ),
        (
            {"certificates": [{"path": "/c", "not_after": NOW - 86400, "key_fits": True}]},
            "certificate /c",
            "site.yml",
        ),
        (
            {"certificates": [{"path": "/c", "not_after": None, "key_fits": True}]},
            "certificate /c",
            "site.yml",
        ),
        (
            {"certificates": [{"path": "/c", "not_after": NOW + 90 * 86400, "key_fits": False}]},
            "certificate /c",
            "site.yml",
        ),
        (
            {"certificates": [acme(lasts=90, left=22)]},
            "certificate /c",
            "make ssh NODE=web COMMAND='systemctl start nginx-acme.service'",
        ),
        ({"certificates": [acme(lasts=1, left=0.2)]}, "certificate /c", "make logs NODE=web UNIT=nginx-acme"),
        ({"failed_units": ["nginx-acme.service"]}, "nginx-acme.service", "says why it is not renewed"),
        (
            {"reached": [{"peer": "192.0.2.11:9092", "error": "timed out"}]},
            "reaches kafka at 192.0.2.11:9092",
            "make ssh NODE=db COMMAND='nft list",
        ),
        (
            {"reached": [{"peer": "192.0.2.11:5432", "error": "[Errno 111] Connection refused"}]},
            "reaches postgresql at 192.0.2.11:5432",
            "systemctl restart postgresql@15-main.service",
        ),
        (
            {"reached": [{"peer": "192.0.2.11:9092", "error": "certificate verify failed"}]},
            "reaches kafka at 192.0.2.11:9092",
            "different CAs",
        ),
    ],
)
def test_failure_names_its_fix(changes: dict[str, Any], what: str, fix: str) -> None:
    (failure,) = failures(WEB, **changes)
    assert failure.what == what
    assert fix in failure.fix
    assert checks.line(failure).startswith("FAIL  web")


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ({"status": 0, "said": "timed out"}, "the process hangs"),
        ({"status": 503, "said": '{"detail": "The kafka does not answer."}'}, "it cannot use Kafka"),
        ({"status": 503, "said": '{"detail": "The database does not answer."}'}, "it cannot use PostgreSQL"),
        ({"status": 503, "said": '{"detail": "The database is not whole: rebuild it."}'}, "make rebuild"),
        ({"status": 500, "said": "?"}, "make logs NODE=web UNIT=timestamp-query.service"),
    ],
)
def test_process_that_is_not_ready_says_what_it_lacks(said: dict[str, Any], fix: str) -> None:
    running = [unit(Id="timestamp-query.service")]
    (failure,) = failures(WEB, units=running, ready=[{"port": 7082, **said}])
    assert fix in failure.fix


def test_a_database_that_the_query_api_cannot_use_is_named() -> None:
    healthy = {"at": "192.0.2.11:5432", "healthy": True, "lacks": 0}
    assert failures(WEB, projections=[healthy]) == []
    (failure,) = failures(WEB, projections=[healthy, {"at": "192.0.2.13:5433", "healthy": False, "lacks": 0}])
    assert failure.what == "reads from the database at 192.0.2.13:5433"
    (failure,) = failures(WEB, projections=[{**healthy, "healthy": False}])
    assert "make rebuild HOST=db" in failure.fix


@pytest.mark.parametrize(
    ("said", "what", "result"),
    [
        ({"error": "timed out"}, "cluster of Kafka", "timed out"),
        ({"leaderless": ["t-3"]}, "partitions have a leader", "not t-3"),
        (
            {"behind": ["t-1", "t-2", "t-3", "t-4"]},
            "partitions have all replicas in sync",
            "not t-1, t-2, t-3 and 1 more",
        ),
        ({"late": [1]}, "controllers that vote", "1 of 1; 1 behind"),
        ({"voters": []}, "controllers that vote", "0 of 1"),
    ],
)
def test_what_a_cluster_of_kafka_lacks_is_named(said: dict[str, Any], what: str, result: str) -> None:
    well = {"error": "", "leaderless": [], "behind": [], "voters": [1], "late": []}
    assert failures(DATABASE, kafka=well) == []
    (failure,) = failures(DATABASE, kafka={**well, **said})
    assert (failure.what, failure.result) == (what, result)


def test_voters_are_read_from_the_tool(node_state: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time() * 1000)
    said = (
        "NodeId\tDirectoryId\tLogEndOffset\tLag\tLastFetchTimestamp\tLastCaughtUpTimestamp\tStatus\n"
        f"1 AAA 900 0 {now} {now} Leader\n"
        f"2 BBB 900 0 {now} {now - 500} Follower\n"
        f"3 CCC 100 800 {now} {now - 60_000} Follower\n"
        f"4 DDD 900 0 {now} {now} Observer\n"
    )
    done = subprocess.CompletedProcess([], 0, said, "")
    monkeypatch.setattr(node_state, "run", lambda *_: done)
    assert node_state.voters("192.0.2.11:9092") == {"voters": [1, 2, 3], "late": [3]}


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"error": 'database "timestamps" does not exist'}, "database timestamps"),
        ({**DATABASE_ANSWERS, "connections": 90}, "database connections"),
        ({**DATABASE_ANSWERS, "table": False}, "table timestamp_records"),
    ],
)
def test_faults_of_the_database_are_distinguished(said: dict[str, Any], what: str) -> None:
    (failure,) = failures(DATABASE, database=said)
    assert failure.what == what


@pytest.mark.parametrize(
    ("debian", "shown"),
    [
        ("12", "pass  db       database version: PostgreSQL 15"),
        (
            "13",
            "note  db       database version: PostgreSQL 15; Debian 13 has 17 and renews no other\n"
            "      when it suits: make move-database",
        ),
        ("14", "pass  db       database version: PostgreSQL 15"),
    ],
)
def test_version_that_debian_does_not_renew_any_more_is_told(debian: str, shown: str) -> None:
    assert lines(DATABASE, database={**DATABASE_ANSWERS, "debian": debian})["database version"] == shown


@pytest.fixture
def node_state() -> ModuleType:
    specification = importlib.util.spec_from_file_location("node_state", diagnose.STATE_PROGRAM)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_databases_that_the_query_api_reads_from_are_in_its_metrics(
    node_state: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "# TYPE timestamp_query_projection_healthy gauge\n"
        'timestamp_query_projection_healthy{projection="192.0.2.11:5432/timestamps"} 1.0\n'
        'timestamp_query_projection_healthy{projection="192.0.2.12:5433/timestamps"} 0.0\n'
        'timestamp_query_projection_behind_messages{projection="192.0.2.12:5433/timestamps"} 7.0\n'
    )
    monkeypatch.setattr(node_state, "open_local", lambda *_: io.BytesIO(text.encode()))
    assert node_state.projections(7082) == [
        {"at": "192.0.2.11:5432", "healthy": True, "lacks": 0},
        {"at": "192.0.2.12:5433", "healthy": False, "lacks": 7},
    ]


def test_the_cluster_that_was_replaced_is_not_looked_at(
    node_state: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, start in (("15/main", "manual"), ("17/main", "auto")):
        folder = tmp_path / "etc" / name
        (folder / "conf.d").mkdir(parents=True)
        (folder / "conf.d/timestamp-service.conf").touch()
        (folder / "server.crt").touch()
        (folder / "start.conf").write_text(f"# auto or manual\n{start}\n")
        (tmp_path / "data" / name).mkdir(parents=True)
        (folder / "postgresql.conf").write_text(f"port = 5433\ndata_directory = '{tmp_path}/data/{name}'\n")
    monkeypatch.setattr(node_state, "CLUSTERS", f"{tmp_path}/etc/*/*/conf.d/timestamp-service.conf")
    ours = [one["path"] for one in node_state.certificates() if one["path"].startswith(str(tmp_path))]
    assert ours == [f"{tmp_path}/etc/17/main/server.crt"]
    volumes = [one["path"] for one in node_state.volumes() if one["path"].startswith(str(tmp_path))]
    assert volumes == [f"{tmp_path}/data/17/main"]


def test_certificate_of_nginx_is_by_acme_where_its_timer_is(
    node_state: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "etc/nginx"
    folder.mkdir(parents=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(folder / "key"))
    command = ["openssl", "req", "-x509", *key, "-subj", "/CN=one", "-days", "5", "-out", str(folder / "crt")]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "broken").write_text("nothing")
    pairs = ((str(folder / "crt"), str(folder / "key")), (str(folder / "broken"), str(folder / "key")))
    monkeypatch.setattr(node_state, "CERTIFICATES", pairs)
    monkeypatch.setattr(node_state, "NGINX_FOLDER", f"{folder}/")
    monkeypatch.setattr(node_state, "ACME_TIMER", str(tmp_path / "timer"))
    good, broken = node_state.certificates()
    assert good["not_after"] - good["not_before"] == 5 * 86400
    assert (good["key_fits"], good["by_acme"]) == (True, False)
    assert (broken["not_before"], broken["not_after"], broken["key_fits"]) == (None, None, False)
    (tmp_path / "timer").touch()
    assert [one["by_acme"] for one in node_state.certificates()] == [True, True]


def test_nodes_that_differ_are_named() -> None:
    states = {
        "db1": {"Kafka": "4.2"},
        "db2": {"Kafka": "4.3"},
        "web": {"release": "1"},
        "db3": {"Kafka": "4.2"},
    }
    (check,) = checks.agreement(states)
    assert (check.what, check.result) == ("Kafka is the same on all nodes", "no: 4.2 on db1, db3; 4.3 on db2")
    assert "again" in check.fix


def test_what_nodes_share_is_read(
    node_state: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "releases/1+a").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1+a")
    (tmp_path / "ca.crt").write_text("one")
    paths = {"a": "current", "b": "none", "c": "ca.crt"}
    monkeypatch.setattr(node_state, "SHARED", {what: str(tmp_path / path) for what, path in paths.items()})
    assert node_state.shared() == {"a": "1+a", "c": "sha256 7692c3ad3540"}


def test_metrics_are_written_whole(node_state: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "timestamp_service.prom"
    assert node_state.main(["--textfile", str(target)]) == 0
    text = target.read_text()
    assert 'timestamp_volume_free_bytes{path="/"} ' in text
    assert text.endswith("\n")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("states", "end_to_end", "failed"),
    [
        ((state(), state()), True, 0),
        ((state(firewall=False), state()), True, 1),
        ((state(shared={"the application's release": "2+b"}), state()), True, 1),
        ((state(shared={}), state()), True, 0),
        ((None, state()), True, 1),
        ((state(), state()), False, 1),
        ((None, None), False, 3),
    ],
)
def test_exit_status_says_whether_every_check_passed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    states: tuple[dict[str, Any] | None, ...],
    end_to_end: bool,
    failed: int,
) -> None:
    authority = tmp_path / "ca.crt"
    authority.touch()
    said = dict(zip(NODES, states, strict=True))

    def send(*_: object) -> RoundTrip:
        if not end_to_end:
            raise EndToEndError("POST answered 503")
        return RoundTrip("an id", 1, 1)

    monkeypatch.setattr(diagnose, "ask", lambda node, _nodes: said[node] or diagnose.away(node, "no answer"))
    monkeypatch.setattr(diagnose, "send_and_read_back", send)
    service = Service("https://192.0.2.12", authority, tmp_path, tmp_path, NODES)
    assert diagnose.show(service) == (1 if failed else 0)
    shown = capsys.readouterr().out
    assert shown.count("FAIL") == failed
    assert shown.endswith(f"{failed} checks failed.\n" if failed else "All checks passed.\n")


def test_updates_and_a_reboot_that_wait_are_told_and_are_no_failure() -> None:
    names = [f"lib{number}" for number in range(7)]
    found = lines(
        WEB,
        updates={"all": [*names, "vim"], "security": names},
        outdated=[["nginx.service", "/usr/sbin/nginx (deleted)"]],
        reboot=[
            "an update asks for it",
            "nginx.service runs what an update has replaced",
            "dbus.service runs what an update has replaced",
        ],
    )
    assert found["Debian's updates"] == (
        "note  web      Debian's updates: 8 wait, 7 of them for security (lib0, lib1, lib2, lib3, lib4, …)\n"
        "      when it suits: make upgrade"
    )
    # nginx is restarted by the plays.
    assert found["reboot"] == (
        "note  web      reboot: due: an update asks for it, dbus.service runs what an update has replaced\n"
        "      when it suits: make reboot"
    )


def test_nothing_that_waits_is_a_pass() -> None:
    found = {check.what: check for check in checks.look_at_node(WEB, NODES, state())}
    for what, result in (("Debian's updates", "none wait"), ("reboot", "not due")):
        assert found[what] == checks.Check("web", what, result)


def test_unit_that_an_update_left_behind_is_told_and_is_no_failure() -> None:
    paths = [f"/usr/lib/{number} (deleted)" for number in range(5)]
    found = lines(
        WEB,
        outdated=[
            *(["nginx.service", path] for path in paths),
            ["ssh.service", "/etc/one"],
            ["ssh.service", paths[0]],
        ],
    )
    assert found["nginx.service runs with what is on the disk"] == (
        "note  web      nginx.service runs with what is on the disk: not with /usr/lib/0 (deleted),"
        " /usr/lib/1 (deleted), /usr/lib/2 (deleted) and 2 more\n      when it suits: make upgrade"
    )
    assert found["ssh.service runs with what is on the disk"].startswith("FAIL")


def test_facts_of_the_node_are_in_its_metrics(
    node_state: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = (
        "Id=timestamp-rebuild.service\nActiveState=activating\nNRestarts=0\nExecMainStartTimestamp=@1800000000\n"
        "\nId=timestamp-backup.service\nActiveState=inactive\nNRestarts=0\nExecMainStartTimestamp=@1700000000\n"
        "\nId=kafka.service\nActiveState=active\nNRestarts=3\nExecMainStartTimestamp=@1700000000\n"
    )
    answers = {
        "systemctl list-units": "a.service loaded failed failed An odd\n",
        "timedatectl show": "no\n",
        "systemd-detect-virt --quiet": "",
    }

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        if command[:2] == ("systemctl", "show"):
            asked = [one for one in shown.split("\n\n") if one.split()[0].removeprefix("Id=") in command]
            return subprocess.CompletedProcess(command, 0, "\n\n".join(asked), "")
        found = answers.get(" ".join(command[:2]))
        code = 1 if found is None or command[0] == "systemd-detect-virt" else 0
        return subprocess.CompletedProcess(command, code, found or "", "")

    monkeypatch.setattr(node_state, "run", run)
    for name in ("REBOOT_MARK", "BACKUP_MARK"):
        mark = tmp_path / name
        mark.write_text("")
        monkeypatch.setattr(node_state, name, str(mark))
    text = node_state.metrics(tmp_path / "none.prom")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert values['timestamp_node_failed_unit{unit="a.service"}'] == "1"
    assert values['timestamp_node_unit_restarts_total{unit="kafka.service"}'] == "3"
    assert values['timestamp_node_job_running_since_seconds{job="rebuild"}'] == "1800000000.0"
    assert 'timestamp_node_job_running_since_seconds{job="backup"}' not in values
    assert values["timestamp_node_reboot_required"] == "1"
    assert values["timestamp_node_clock_synchronized"] == "0"
    assert float(values["timestamp_node_backup_last_success_seconds"]) > NOW - 1e9
    assert values["timestamp_node_security_updates"] == "0"
    assert re.search(r"^# TYPE timestamp_node_unit_restarts_total counter$", text, re.MULTILINE)


def test_clock_of_a_container_is_its_hosts_affair(
    node_state: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(node_state, "run", lambda *command: subprocess.CompletedProcess(command, 0, "", ""))
    assert "clock_synchronized" not in node_state.metrics(tmp_path / "none.prom")


def test_updates_are_counted_anew_when_packages_have_changed(
    node_state: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(node_state, "updates", lambda: {"all": ["a", "b"], "security": ["a", "b"]})
    status, before = tmp_path / "status", tmp_path / "before.prom"
    status.write_text("")
    monkeypatch.setattr(node_state, "PACKAGES", (str(status), str(tmp_path / "none")))
    assert node_state.security_updates(before) == 2
    before.write_text("timestamp_node_security_updates 7\n")
    os.utime(status, (NOW, NOW))
    os.utime(before, (NOW + 1, NOW + 1))
    assert node_state.security_updates(before) == 7
    os.utime(status, (NOW + 2, NOW + 2))
    assert node_state.security_updates(before) == 2


def test_labels_are_escaped(node_state: ModuleType) -> None:
    assert node_state.sample("a", 1, b='x"\\') == 'a{b="x\\"\\\\"} 1'


def test_exporter_that_does_not_answer_is_named() -> None:
    exporters = [{"name": "node", "error": ""}, {"name": "kafka", "error": "refused"}]
    (check,) = failures(DATABASE, exporters=exporters)
    assert (check.what, check.result) == ("exporter of kafka answers", "refused")
    assert check.fix == "make logs NODE=db UNIT=kafka"


@pytest.mark.parametrize(
    ("missing", "result", "fix"),
    [
        ([], "2 of 2", ""),
        (
            [{"job": "kafka", "instance": "db.example", "error": "502"}],
            "not kafka of db.example: 502",
            "see the other checks of that node; if they pass: "
            "make logs NODE=db UNIT=prometheus-exporter-exporter",
        ),
        (
            [{"job": "prometheus", "instance": "", "error": "refused"}],
            "not prometheus: refused",
            "make logs NODE=web UNIT=prometheus",
        ),
    ],
)
def test_target_that_prometheus_does_not_reach_is_named(
    missing: list[dict[str, str]], result: str, fix: str
) -> None:
    reached = [{"job": job, "instance": "web.example", "error": ""} for job in ("node", "query")]
    given = reached if not missing else reached + missing
    (check,) = [
        one for one in checks.look_at_node(WEB, NODES, state(targets=given)) if "Prometheus" in one.what
    ]
    assert (check.result, check.fix) == (result, fix)


def test_targets_are_what_prometheus_says(node_state: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    active = [
        {"labels": {"job": "node", "instance": "db.x"}, "health": "up", "lastError": ""},
        {
            "labels": {"job": "timestamp", "process": "timestamp-query", "instance": "web.x"},
            "health": "down",
            "lastError": "502",
        },
        {"labels": {"job": "kafka", "instance": "db.x"}, "health": "unknown", "lastError": ""},
        # It was read within two minutes: the next look is due.
        {"labels": {"job": "postgresql", "instance": "db.x"}, "health": "down", "lastError": "refused"},
    ]
    result = [{"metric": {"job": "postgresql", "instance": "db.x"}}]

    def answer(_port: int, path: str) -> io.BytesIO:
        data = {"activeTargets": active} if "targets" in path else {"result": result}
        return io.BytesIO(json.dumps({"data": data}).encode())

    monkeypatch.setattr(node_state, "open_local", answer)
    assert node_state.targets(9090) == [
        {"job": "node", "instance": "db.x", "error": ""},
        {"job": "timestamp-query", "instance": "web.x", "error": "502"},
        {"job": "kafka", "instance": "db.x", "error": ""},
        {"job": "postgresql", "instance": "db.x", "error": ""},
    ]
    monkeypatch.setattr(node_state, "open_local", lambda *_: io.BytesIO(b"<html>"))
    assert node_state.targets(9090)[0]["error"]
