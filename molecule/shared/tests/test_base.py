"""What every node has: packages, time, journal and ssh by keys only."""

from __future__ import annotations

import re
import subprocess
import uuid
from pathlib import Path

import yaml
from conftest import INVENTORY, service
from testinfra.host import Host

from cli import inventory
from cli.inventory import PROJECT, environment, tool
from cli.units import CONTRACT

GROUP = "nodes"
LINES = 100_000

# Sockets that may listen on an address that others can reach, by group of the node.
REACHABLE = {
    "db": {"22", "5432", "9092", "9093"},
    "web": {"22", "80", "443"},
}


def watching(node: inventory.Host) -> set[str]:
    """Return the ports by which a node is watched, and by which one looks at what watches."""
    looked_at = {str(CONTRACT["contract_dashboard_port"])} if "monitoring" in node.groups else set()
    return looked_at | ({str(CONTRACT["contract_exporters_port"])} if node.exporters else set())


def test_system_runs_without_failed_units(node: Host) -> None:
    assert node.check_output("systemctl list-units --state=failed --plain --no-legend") == ""
    assert node.check_output("systemctl is-system-running --wait") == "running"


def test_journal_is_on_disk(node: Host) -> None:
    assert node.file("/var/log/journal").is_directory
    assert "SystemMaxUse=" in node.file("/etc/systemd/journald.conf.d/timestamp-service.conf").content_string


def test_journal_drops_no_line_of_a_unit_that_writes_many(node: Host) -> None:
    """The journal's own limit is 10,000 lines of a unit in 30 s, and up to six times that with much space."""
    unit = f"flood-{uuid.uuid4().hex}.service"
    node.check_output(f"systemd-run --wait --collect --quiet --unit={unit} seq --format='line %.0f' {LINES}")
    ours = f"journalctl --quiet --output=cat _SYSTEMD_UNIT={unit}"
    assert node.check_output(f"journalctl --sync; {ours} | sort --unique | wc --lines") == str(LINES)


def test_journal_stays_within_its_size(node: Host) -> None:
    settings = "systemd-analyze cat-config systemd/journald.conf"
    most = node.check_output(f"{settings} | sed -n s/^SystemMaxUse=//p | numfmt --from=iec")
    used = node.check_output("du --summarize --block-size=1 /var/log/journal").split()[0]
    assert int(used) <= int(most)


def test_ssh_takes_keys_only(node: Host) -> None:
    settings = node.check_output("sshd -T")
    assert "passwordauthentication no" in settings
    assert "kbdinteractiveauthentication no" in settings
    assert "permitrootlogin without-password" in settings


def test_ssh_refuses_passwords(node: Host) -> None:
    command = next(one.ssh for one in service().nodes if one.name == node.check_output("hostname --fqdn"))
    done = subprocess.run(
        [*command, "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password", "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_metrics_of_the_node_are_written(node: Host) -> None:
    assert node.service("timestamp-metrics.timer").is_enabled
    node.check_output("systemctl start timestamp-metrics.service")
    text = node.file("/var/lib/prometheus/node-exporter/timestamp_service.prom").content_string
    assert 'timestamp_certificate_not_after_seconds{path="/etc/timestamp-service/ca.crt"} ' in text
    assert 'timestamp_volume_free_bytes{path="/"} ' in text
    assert 'timestamp_node_unit_restarts_total{unit="' in text
    assert re.search(r'^timestamp_node_release_info{release="[^"]*",debian="1[23]', text, re.MULTILINE)
    assert re.search(r"^timestamp_node_facts_seconds \d{10}$", text, re.MULTILINE)


def test_failed_gate_shows_the_unit_and_the_end_of_its_journal(node: Host, tmp_path: Path) -> None:
    name = node.check_output("hostname --fqdn")
    book = tmp_path / "play.yml"
    role = {"name": "base", "tasks_from": "failed_unit"}
    given = {"base_failed_unit": "ssh.service", "base_failed_reason": "Look at `make logs`."}
    tasks = [{"ansible.builtin.include_role": role, "vars": given}]
    play = {"hosts": name, "gather_facts": False, "become": True, "tasks": tasks}
    book.write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [tool("ansible-playbook"), "-i", INVENTORY, str(book)],
        stdin=subprocess.DEVNULL,
        cwd=PROJECT,
        env=environment({"ANSIBLE_NOCOLOR": "1"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"ssh.service on {name}: Look at `make logs`." in done.stdout
    assert "Active: active (running)" in done.stdout
    assert "--- the end of its journal" in done.stdout
    assert re.search(r"sshd(-session)?\[", done.stdout.split("--- the end of its journal")[1])


def test_time_is_kept(node: Host) -> None:
    assert node.service("systemd-timesyncd.service").is_enabled


def test_upgrades_leave_our_services_to_the_plays(node: Host) -> None:
    settings = node.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1"' in settings
    for pattern in ("^postgresql", "^openjdk-", "^nginx"):
        assert f'Unattended-Upgrade::Package-Blacklist:: "{pattern}"' in settings


def test_exactly_the_expected_ports_are_reachable(node: Host) -> None:
    lines = node.check_output("ss --no-header --listening --numeric --tcp").splitlines()
    ports = set()
    for line in lines:
        listener, port = line.split()[3].rsplit(":", 1)
        if listener.split("%")[0] not in (
            "127.0.0.1",
            "[::1]",
            "127.0.0.53",
            "127.0.0.54",
            "[::ffff:127.0.0.1]",
        ):
            ports.add(port)
    group = "db" if node.check_output("hostname").startswith("db") else "web"
    this = next(one for one in service().nodes if one.name == node.check_output("hostname --fqdn"))
    assert ports == REACHABLE[group] | watching(this)
