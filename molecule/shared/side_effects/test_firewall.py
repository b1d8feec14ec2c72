"""The packet filter beside the rules of others: they are left alone, and take ours away only for a moment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from disturbed import ask, break_play_off, run, try_play, until

from cli.inventory import PROJECT, Host, Service

INVENTORY = os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "molecule/shared/inventory"))
LOADED = "nft list chain inet timestamp_service input | grep -q 'policy drop'"
OTHERS = "nft list table inet others"
CONF = "/etc/nftables.conf"
RULES = "/etc/timestamp-service/firewall.nft"
OWN = "/etc/timestamp-service/firewall.d/trial.nft"
TRIAL_SECONDS = "firewall_trial_seconds"
SSH_PORT = 2222
SSH_SETTINGS = "/etc/ssh/sshd_config.d/05-trial.conf"


@pytest.fixture
def web(service: Service) -> Iterator[Host]:
    """Give a web node; its rules are as they were afterwards."""
    node = next(one for one in service.nodes if "web" in one.groups)
    run(node, f"cp -p {CONF} /run/kept.nftables.conf")
    yield node
    run(node, f"cp -p /run/kept.nftables.conf {CONF}; rm -f {OWN}")
    run(node, "nft 'add table inet others; delete table inet others'")
    # Without their starts so far, of which systemd allows only some in ten seconds.
    run(node, "systemctl reset-failed nftables timestamp-firewall")
    run(node, "systemctl disable nftables; systemctl stop nftables; systemctl restart timestamp-firewall")


def is_loaded(node: Host) -> bool:
    return ask(node, LOADED).returncode == 0


@pytest.mark.parametrize("verb", ["start", "reload", "restart", "stop"])
def test_rules_come_back_when_debians_unit_removes_them(web: Host, verb: str) -> None:
    """Debian's file of rules begins by removing those of everybody."""
    assert ask(web, f"grep -x 'flush ruleset' {CONF}").returncode == 0
    run(web, "systemctl stop nftables" if verb == "start" else "systemctl start nftables")
    assert until(lambda: is_loaded(web), 5)
    run(web, "nft add chain inet timestamp_service before")
    run(web, f"systemctl {verb} nftables")
    assert until(lambda: is_loaded(web), 5)
    # They were loaded anew.
    assert ask(web, "nft list chain inet timestamp_service before").returncode != 0


def test_rules_that_were_stopped_stay_away(web: Host) -> None:
    run(web, "systemctl stop timestamp-firewall && systemctl restart nftables && sleep 1")
    assert not is_loaded(web)


def test_restart_and_play_leave_the_rules_of_others_alone(web: Host) -> None:
    run(web, f"nft add table inet others && echo '# mine' >> {CONF}")
    before = ask(web, f"sha256sum {CONF}").stdout
    run(web, "systemctl restart timestamp-firewall && systemctl stop timestamp-firewall")
    assert not is_loaded(web)
    done = try_play(INVENTORY, "site.yml", "--tags", "firewall", "--limit", f"localhost,{web.name}")
    assert done.returncode == 0, done.stdout
    assert is_loaded(web)
    run(web, OTHERS)
    assert ask(web, f"sha256sum {CONF}").stdout == before


@pytest.mark.slow
def test_file_of_an_earlier_version_is_given_back(web: Host) -> None:
    """It held our rules, and included those in /etc/nftables.d."""
    accept = "add rule inet timestamp_service input tcp dport 9444 accept"
    run(
        web,
        "sed s,/etc/timestamp-service/firewall.d,/etc/nftables.d, /etc/timestamp-service/firewall.nft"
        f" > {CONF} && cd /etc && mkdir -p nftables.d && echo '{accept}' > nftables.d/trial.nft"
        " && systemctl disable --now timestamp-firewall"
        " && rm -r /etc/systemd/system/timestamp-firewall.service /etc/systemd/system/nftables.service.d"
        " /etc/timestamp-service/firewall.nft"
        " && systemctl daemon-reload && systemctl enable nftables && systemctl restart nftables",
    )
    arguments = ("site.yml", "--tags", "firewall", "--limit", f"localhost,{web.name}")
    done = try_play(INVENTORY, *arguments)
    assert done.returncode == 0, done.stdout
    original = ask(web, "dpkg-query -Wf '${Conffiles}' nftables").stdout
    assert ask(web, f"md5sum {CONF}").stdout.split()[0] in original
    assert ask(web, "ls /etc/nftables.d").stdout == ""
    assert ask(web, "systemctl is-enabled nftables timestamp-firewall").stdout.split() == [
        "disabled",
        "enabled",
    ]
    assert "dport 9444 accept" in ask(web, "nft list chain inet timestamp_service input").stdout
    done = try_play(INVENTORY, *arguments)
    assert "changed=0 " in done.stdout.split(f"{web.name} ")[-1], done.stdout


def test_host_that_is_used_for_something_else_is_refused(web: Host) -> None:
    """Its last rule drops what is left, which is nothing here."""
    run(
        web, "nft 'add table inet others; add chain inet others input { type filter hook input priority 0; }'"
    )
    run(web, "nft 'add rule inet others input accept; add rule inet others input drop'")
    run(web, "systemctl stop nginx && systemd-run --quiet --unit=another python3 -m http.server 80")
    run(web, "mv /etc/ssh/sshd_config.d/10-timestamp-service.conf /run/kept.sshd.conf")
    run(web, "useradd --password '$y$j9T$x' --shell /bin/sh ann")
    try:
        assert until(lambda: ask(web, "ss -Hltn | grep -q :80").returncode == 0, 10)
        done = try_play(INVENTORY, "site.yml", "--limit", f"localhost,{web.name}")
    finally:
        run(web, "userdel ann; systemctl stop another; systemctl start nginx")
        run(web, "mv /run/kept.sshd.conf /etc/ssh/sshd_config.d/10-timestamp-service.conf")
    assert done.returncode != 0
    assert "changed=0 " in done.stdout.split(f"{web.name} ")[-1], done.stdout
    said = " ".join(done.stdout.split())
    for part in ("unit another.service) listens at the port 80,", "chain inet others input", "no key: ann."):
        assert part in said, done.stdout


def test_play_from_outside_the_sources_is_refused(web: Host) -> None:
    limits = {"firewall_ssh_sources": ["192.0.2.0/24", "2001:db8::/32"]}
    done = try_play(INVENTORY, "site.yml", "--limit", f"localhost,{web.name}", "-e", json.dumps(limits))
    assert done.returncode != 0
    assert "changed=0 " in done.stdout.split(f"{web.name} ")[-1], done.stdout
    assert "the firewall would cut it off" in " ".join(done.stdout.split())


def play_role(folder: Path, node: Host, settings: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the role alone on one node; it may fail."""
    book = folder / "play.yml"
    book.write_text(yaml.safe_dump([{"hosts": node.name, "become": True, "roles": ["firewall"]}]))
    return try_play(INVENTORY, str(book), "-e", json.dumps(settings))


@pytest.mark.slow
def test_rules_that_cannot_be_read_change_nothing(web: Host, tmp_path: Path) -> None:
    run(web, f"echo 'add rule inet timestamp_service nowhere accept' > {OWN}")
    before = ask(web, f"sha256sum {RULES}; nft list ruleset").stdout
    done = play_role(tmp_path, web, {"firewall_web_sources": ["0.0.0.0/1", "128.0.0.0/1"]})
    assert done.returncode != 0
    assert "failed to validate" in done.stdout
    assert ask(web, f"sha256sum {RULES}; nft list ruleset").stdout == before


@contextmanager
def rule_that_cuts_ssh_off(web: Host) -> Iterator[None]:
    """Have a rule that drops new connections when it is loaded; afterwards the node answers as before."""
    run(web, f"echo 'insert rule inet timestamp_service input tcp dport 22 ct state new drop' > {OWN}")
    before = ask(web, f"sha256sum {RULES}; nft list ruleset").stdout
    yield
    assert until(lambda: ask(web, "true").returncode == 0, 40)
    run(web, f"rm {OWN}")
    assert ask(web, f"sha256sum {RULES}; nft list ruleset").stdout == before


def test_rules_that_cut_ssh_off_are_taken_back(web: Host, tmp_path: Path) -> None:
    """The operator's own rule drops new connections; those that are open go on."""
    with rule_that_cuts_ssh_off(web):
        # The timer starts some seconds before the play gives up.
        done = play_role(
            tmp_path, web, {"firewall_web_sources": ["0.0.0.0/1", "128.0.0.0/1"], TRIAL_SECONDS: 30}
        )
        assert done.returncode != 0
        said = " ".join(done.stdout.split())
        assert "no new ssh connection gets through the new rules" in said, done.stdout


@pytest.mark.slow
def test_play_that_breaks_off_is_undone_by_the_node(web: Host, tmp_path: Path) -> None:
    with rule_that_cuts_ssh_off(web):
        book = tmp_path / "play.yml"
        book.write_text(yaml.safe_dump([{"hosts": web.name, "become": True, "roles": ["firewall"]}]))
        settings = {"firewall_web_sources": ["0.0.0.0/1", "128.0.0.0/1"], TRIAL_SECONDS: 20}
        arguments = (str(book), "-e", json.dumps(settings))
        break_play_off(INVENTORY, lambda: ask(web, "true").returncode != 0, 120, *arguments)


@pytest.mark.slow
def test_ssh_at_another_port_stays_open(web: Host, tmp_path: Path) -> None:
    """The play itself comes by this port, and nothing listens at 22."""
    run(web, f"echo 'Port {SSH_PORT}' > {SSH_SETTINGS}")
    run(web, f"nft insert rule inet timestamp_service input tcp dport {SSH_PORT} accept")
    run(web, "systemctl restart ssh")
    moved = replace(web, ssh=(web.ssh[0], "-p", str(SSH_PORT), *web.ssh[1:]))
    try:
        assert ask(web, "true").returncode != 0
        done = play_role(tmp_path, web, {"ansible_port": SSH_PORT})
        assert done.returncode == 0, done.stdout
        assert f"tcp dport {SSH_PORT} accept" in ask(moved, f"cat {RULES}").stdout.replace("{ ", "").replace(
            " }", ""
        )
    finally:
        run(moved, f"nft insert rule inet timestamp_service input tcp dport 22 accept; rm {SSH_SETTINGS}")
        run(moved, "systemctl restart ssh")
        assert play_role(tmp_path, web, {}).returncode == 0
    assert "tcp dport { 22 } accept" in ask(web, f"cat {RULES}").stdout
