"""What a host had before is found with its remedy, and what we have set up is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import load_module

module = load_module("base", "host_conflicts")
UNITS = ["timestamp-*", "nginx.service", "kafka.service", "postgresql@15-main.service"]
ASKED: dict[str, Any] = {
    "ports": [80, 443, 5432, 7080, 9092],
    "units": UNITS,
    "nginx": True,
    "kafka": True,
    "postgresql": "15",
    "firewall_ports": [22, 443],
    "journal_max_use": "1M",
    "ssh_keys_only": True,
}
SS = ("ss", "--no-header", "--listening", "--numeric", "--tcp", "--processes")
LIST_SOCKETS = ("systemctl", "list-sockets", "--no-legend", "--full")
KAFKA_UNIT = ("systemctl", "show", "--property=FragmentPath", "--value", "kafka.service")
RULESET = ("nft", "--json", "list", "ruleset")
SSH_SETTINGS = ("sshd", "-T")

Outputs = Mapping[Any, str]


def look(root: Path, outputs: Outputs | None = None) -> list[str]:
    """Return the conflicts of a host: its files, and what programs print there."""
    return module.conflicts(lambda *command: (outputs or {}).get(command, ""), root, ASKED)  # type: ignore[no-any-return]


def write(root: Path, path: str, text: str = "") -> Path:
    """Write a file below a root folder."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_new_host_has_no_conflict(tmp_path: Path) -> None:
    assert look(tmp_path) == []


def listening(name: str, pid: int, *ports: int) -> str:
    return "".join(
        f'LISTEN 0 511 0.0.0.0:{port} 0.0.0.0:* users:(("{name}",pid={pid},fd=6))\n' for port in ports
    )


@pytest.mark.parametrize(
    ("unit", "conflict"),
    [
        ("system.slice/apache2.service", "systemctl disable --now apache2.service"),
        ("user.slice/user-0.slice/session-3.scope", "stop it"),
        ("system.slice/system-postgresql.slice/postgresql@13-main.service", "postgresql@13-main.service"),
        ("system.slice/nginx.service", ""),
        ("system.slice/timestamp-command-next.service", ""),
        ("system.slice/system-postgresql.slice/postgresql@15-main.service", ""),
    ],
)
def test_port_of_another_process_is_taken(tmp_path: Path, unit: str, conflict: str) -> None:
    write(tmp_path, "proc/71/cgroup", f"0::/{unit}\n")
    found = look(tmp_path, {SS: listening("one", 71, 443, 80, 25)})
    assert len(found) == bool(conflict)
    for text in found:
        assert "one (pid 71" in text
        assert "the port 80, 443," in text
        assert conflict in text


@pytest.mark.parametrize(("unit", "count"), [("timestamp-command.socket", 0), ("cockpit.socket", 1)])
def test_port_that_systemd_holds_is_that_of_a_socket_unit(tmp_path: Path, unit: str, count: int) -> None:
    sockets = f"127.0.0.1:7080 {unit} some.service\n"
    assert len(look(tmp_path, {SS: listening("systemd", 1, 7080), LIST_SOCKETS: sockets})) == count


def test_port_of_the_kernel_is_taken(tmp_path: Path) -> None:
    assert "the kernel listens" in look(tmp_path, {SS: "LISTEN 0 64 [::]:443 [::]:*\n"})[0]


def test_sites_of_others_are_named(tmp_path: Path) -> None:
    write(tmp_path, "etc/nginx/nginx.conf", "include sites-enabled/*;")
    default = write(tmp_path, "etc/nginx/sites-available/default")
    enabled = tmp_path / "etc/nginx/sites-enabled"
    enabled.mkdir()
    (enabled / "default").symlink_to(default)
    assert look(tmp_path) == []
    removed = {("dpkg", "--verify", "nginx-common"): "missing     c /etc/nginx/sites-available/default\n"}
    assert look(tmp_path, removed) == []
    edited = {("dpkg", "--verify", "nginx-common"): "??5?????? c /etc/nginx/sites-available/default\n"}
    assert "(/etc/nginx/sites-available/default)" in look(tmp_path, edited)[0]
    write(tmp_path, "etc/nginx/sites-enabled/shop")
    write(tmp_path, "etc/nginx/conf.d/proxy.conf")
    assert "(/etc/nginx/sites-enabled/shop, /etc/nginx/conf.d/proxy.conf)" in look(tmp_path)[0]
    write(tmp_path, "etc/nginx/nginx.conf", "ssl_certificate /etc/nginx/timestamp-service.crt;")
    assert look(tmp_path, edited) == []


def test_databases_of_others_are_counted(tmp_path: Path) -> None:
    base = tmp_path / "var/lib/postgresql/15/main/base"
    for oid in (1, 4, 5):
        (base / str(oid)).mkdir(parents=True)
    (base / "pgsql_tmp").mkdir()
    assert look(tmp_path) == []
    (base / "16384").mkdir()
    assert "databases of others (1)" in look(tmp_path)[0]
    write(tmp_path, "etc/postgresql/15/main/conf.d/timestamp-service.conf")
    assert look(tmp_path) == []


def test_kafka_of_others_is_named(tmp_path: Path) -> None:
    outputs = {KAFKA_UNIT: "/etc/systemd/system/kafka.service\n"}
    unit = write(tmp_path, "etc/systemd/system/kafka.service", "ExecStart=/opt/kafka/bin/start.sh")
    settings = write(tmp_path, "etc/kafka/server.properties", "listeners=PLAINTEXT://:9092")
    write(tmp_path, "opt/kafka/bin/start.sh")
    names = "/opt/kafka, /etc/systemd/system/kafka.service, /etc/kafka/server.properties"
    assert names in look(tmp_path, outputs)[0]
    unit.write_text("ExecStart=/opt/kafka/current/bin/kafka-server-start.sh /etc/kafka/server.properties")
    settings.write_text("listeners=BROKER://192.0.2.1:9092")
    (tmp_path / "opt/kafka/bin").rename(tmp_path / "opt/kafka/current")
    assert look(tmp_path, outputs) == []


def ruleset(table: str, policy: str, *rules: list[dict[str, Any]], hook: str = "input") -> Outputs:
    place = {"family": "inet", "table": table}
    chain = {**place, "name": "input", "hook": hook, "policy": policy}
    entries = [{"rule": {**place, "chain": "input", "expr": rule}} for rule in rules]
    return {RULESET: json.dumps({"nftables": [{"chain": chain}, *entries]})}


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        ({("ufw", "status"): "Status: active\n"}, "ufw allow 22/tcp && ufw allow 443/tcp"),
        ({("ufw", "status"): "Status: inactive\n"}, ""),
        ({("firewall-cmd", "--state"): "running\n"}, "--add-port=22/tcp --add-port=443/tcp"),
        ({("iptables-legacy", "-S", "INPUT"): "-P INPUT DROP\n"}, "INPUT of iptables-legacy"),
        ({("iptables-legacy", "-S", "INPUT"): "-P INPUT ACCEPT\n"}, ""),
        (ruleset("filter", "drop"), "chain inet filter input"),
        (ruleset("filter", "accept", [{"accept": None}], [{"counter": {}}, {"drop": None}]), "inet filter"),
        (ruleset("filter", "accept", [{"match": {}}, {"drop": None}], [{"accept": None}]), ""),
        (ruleset("filter", "accept", [{"match": {}}, {"drop": None}]), ""),
        (ruleset("filter", "drop", hook="forward"), ""),
        (ruleset("timestamp_service", "drop"), ""),
    ],
)
def test_other_firewall_that_drops_is_named(tmp_path: Path, outputs: Outputs, name: str) -> None:
    found = look(tmp_path, outputs)
    assert len(found) == bool(name)
    for text in found:
        assert name in text
        assert "firewall_enabled" in text


SHADOW = "root:$y$1:1::::::\nann:$y$2:1::::::\nbob:$y$3:1::::::\ncat:!$y$4:1::::::\nwww:*:1::::::\n"
PASSWD = "".join(
    f"{name}:x:{number}:{number}::/home/{name}:{shell}\n"
    for number, (name, shell) in enumerate(
        [
            ("root", "/bin/sh"),
            ("ann", "/bin/sh"),
            ("bob", "/bin/sh"),
            ("cat", "/bin/sh"),
            ("www", "/bin/false"),
        ]
    )
)


def test_accounts_without_a_key_are_named(tmp_path: Path) -> None:
    write(tmp_path, "etc/shadow", SHADOW)
    write(tmp_path, "etc/passwd", PASSWD)
    write(tmp_path, "home/bob/.ssh/authorized_keys", "ssh-ed25519 AAAA bob\n")
    settings = "passwordauthentication yes\nauthorizedkeyscommand none\npermitrootlogin without-password\n"
    assert "no key: ann. Give" in look(tmp_path, {SSH_SETTINGS: settings})[0]
    rooted = settings.replace("without-password", "yes")
    assert "no key: root, ann. Give" in look(tmp_path, {SSH_SETTINGS: rooted})[0]
    assert look(tmp_path, {SSH_SETTINGS: settings.replace("passwordauthentication yes", "")}) == []
    assert look(tmp_path, {SSH_SETTINGS: settings.replace("command none", "command /bin/keys")}) == []


def test_journal_that_would_be_cut_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "var/log/journal/0/system.journal", "x" * (1 << 19))
    assert look(tmp_path) == []
    file.write_text("x" * (1 << 21))
    assert "base_journal_max_use (1M)" in look(tmp_path)[0]
    write(tmp_path, "etc/systemd/journald.conf.d/timestamp-service.conf")
    assert look(tmp_path) == []
