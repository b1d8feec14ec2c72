"""What every node has: packages, time, journal and ssh by keys only."""

from __future__ import annotations

from testinfra.host import Host

GROUP = "nodes"

# Sockets that may listen on an address that others can reach, by group of the node.
REACHABLE = {
    "db": {"22", "5432", "9092", "9093"},
    "web": {"22", "80", "443"},
}


def test_system_runs_without_failed_units(node: Host) -> None:
    assert node.check_output("systemctl list-units --state=failed --plain --no-legend") == ""
    assert node.check_output("systemctl is-system-running --wait") == "running"


def test_journal_is_on_disk(node: Host) -> None:
    assert node.file("/var/log/journal").is_directory
    assert "SystemMaxUse=" in node.file("/etc/systemd/journald.conf.d/timestamp-service.conf").content_string


def test_ssh_takes_keys_only(node: Host) -> None:
    settings = node.check_output("sshd -T")
    assert "passwordauthentication no" in settings
    assert "kbdinteractiveauthentication no" in settings
    assert "permitrootlogin without-password" in settings


def test_time_is_kept(node: Host) -> None:
    assert node.service("systemd-timesyncd.service").is_enabled


def test_upgrades_leave_our_services_to_the_plays(node: Host) -> None:
    settings = node.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1"' in settings
    for pattern in ("^postgresql", "^openjdk-", "^nginx"):
        assert f'Unattended-Upgrade::Package-Blacklist:: "{pattern}"' in settings


def test_exactly_the_expected_ports_are_reachable(node: Host) -> None:
    lines = node.check_output("ss --no-header --listening --numeric --tcp").splitlines()
    found = set()
    for line in lines:
        listener, port = line.split()[3].rsplit(":", 1)
        if listener.split("%")[0] not in (
            "127.0.0.1",
            "[::1]",
            "127.0.0.53",
            "127.0.0.54",
            "[::ffff:127.0.0.1]",
        ):
            found.add(port)
    group = "db" if node.check_output("hostname").startswith("db") else "web"
    assert found == REACHABLE[group]
