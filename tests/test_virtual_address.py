"""Addresses that move between web nodes: what is refused, what keepalived reads, and who gets an address."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rendered
import yaml
from rendered import ADDRESSES, WEB
from web_nodes import render

import playbooks

MOVED = ["192.0.2.101", "192.0.2.102"]
ROLES = ("virtual_address", "firewall", "nginx")
THREE = {**{host: ADDRESSES[host] for host in WEB}, "web3.example.internal": "192.0.2.23"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> rendered.Texts:
    """Give the files of three web nodes with two addresses."""
    folder = tmp_path_factory.mktemp("rendered")
    return render(folder, THREE, ROLES, virtual_address_addresses=MOVED)


@pytest.mark.skipif(not shutil.which("keepalived"), reason="keepalived is not installed")
@pytest.mark.parametrize("host", THREE)
def test_keepalived_reads_its_settings(texts: rendered.Texts, tmp_path: Path, host: str) -> None:
    # The user and the program are on the nodes alone.
    text = texts[host]["virtual_address/keepalived.conf.j2"].replace("keepalived_script", "nobody")
    interface = next(name for _, name in socket.if_nameindex() if name != "lo")
    text = re.sub(r'script "\S+ (\w+)"', r'script "/bin/true \1"', text).replace("eth0", interface)
    settings = tmp_path / "keepalived.conf"
    settings.write_text(text)
    assert validate(settings) == (0, "\n")
    settings.write_text(text.replace("advert_int", "advert_every"))
    status, said = validate(settings)
    assert status != 0
    assert "advert_every" in said


def validate(settings: Path) -> tuple[int, str]:
    """Check settings as the role does, before they are put in place; returns the status and what was said."""
    tasks = yaml.safe_load((rendered.ROLES / "virtual_address/tasks/configure.yml").read_text())
    (command,) = (
        options["validate"] for task in tasks for options in task.values() if "validate" in str(options)
    )
    done = subprocess.run(shlex.split(command % settings), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def priorities(texts: rendered.Texts, index: int) -> dict[str, int]:
    """Return the priority that each node has for an address."""
    found = {}
    for host, files in texts.items():
        blocks = files["virtual_address/keepalived.conf.j2"].split("vrrp_instance ")[1:]
        assert len(blocks) == len(MOVED)
        assert f"{MOVED[index]}/32 dev eth0" in blocks[index]
        assert f"virtual_router_id {index + 1}\n" in blocks[index]
        found[host] = int(re.findall(r"priority (\d+)", blocks[index])[0])
    return found


@pytest.mark.parametrize("index", [0, 1])
def test_address_is_at_home_on_its_node_and_every_healthy_node_comes_before_others(
    texts: rendered.Texts, index: int
) -> None:
    web = {host: files for host, files in texts.items() if host in THREE}
    found = priorities(web, index)
    order = sorted(found, key=lambda host: -found[host])
    hosts = list(THREE)
    assert order == hosts[index:] + hosts[:index]
    assert len(set(found.values())) == len(hosts)
    text = web[WEB[0]]["virtual_address/keepalived.conf.j2"]
    (weight,) = re.findall(r"weight (-\d+)", text)
    assert 0 < max(found.values()) + int(weight) < min(found.values())
    assert min(found.values()) + int(weight) > 0


def test_packets_of_vrrp_come_from_the_other_web_nodes_alone(texts: rendered.Texts) -> None:
    rules = texts[WEB[0]]["firewall/firewall.nft.j2"]
    assert re.findall(r"ip saddr \{ (.*) \} meta l4proto 112 accept", rules) == ["192.0.2.22, 192.0.2.23"]
    peers = re.findall(r"unicast_peer \{\n([^}]*)\}", texts[WEB[0]]["virtual_address/keepalived.conf.j2"])
    assert {tuple(one.split()) for one in peers} == {("192.0.2.22", "192.0.2.23")}
    assert "l4proto 112" not in texts[rendered.KAFKA[0]].get("firewall/firewall.nft.j2", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel checks rules for root alone")
def test_nft_reads_the_rules(texts: rendered.Texts, tmp_path: Path) -> None:
    path = tmp_path / "rules.nft"
    path.write_text(texts[WEB[0]]["firewall/firewall.nft.j2"])
    done = subprocess.run(
        ["nft", "--check", "--file", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_unit_of_debian_with_ours_is_read_by_systemd_and_may_do_little(
    texts: rendered.Texts, tmp_path: Path
) -> None:
    unit = Path("/lib/systemd/system/keepalived.service")
    if not unit.exists():
        pytest.skip("keepalived is not installed")
    folder = tmp_path / "etc/systemd/system"
    (folder / "keepalived.service.d").mkdir(parents=True)
    shutil.copy(unit, folder)
    own = texts[WEB[0]]["virtual_address/service.conf.j2"]
    (folder / "keepalived.service.d/ours.conf").write_text(
        re.sub(r"^(Exec\w+=-\+)\S+", r"\1/bin/true", own, flags=re.M)
    )
    (tmp_path / "usr").symlink_to("/usr")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--root={tmp_path}", "keepalived.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    level = re.search(r"exposure level for keepalived.service: (\S+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= 3.0, done.stdout


def hosts(addresses: dict[str, str]) -> dict[str, Any]:
    return {host: {"node_address": address} for host, address in addresses.items()}


def check(tmp_path: Path, moved: list[Any], addresses: dict[str, str], **web1: object) -> str:
    """Run the checks of the settings for a web node that is this computer; returns what they said."""
    nodes = hosts(addresses)
    nodes["web1"] |= web1
    inventory = {
        "all": {
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "virtual_address_addresses": moved,
            },
            "children": {"nodes": {"children": {"web": {"hosts": nodes}, "db": {"hosts": {}}}}},
        }
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    tasks = [{"ansible.builtin.import_role": {"name": "virtual_address", "tasks_from": "preflight"}}]
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "web", "gather_facts": False, "tasks": tasks}])
    )
    done = playbooks.run(
        *("--inventory=hosts.yml", "--limit=web1", "play.yml"),
        folder=tmp_path,
        ANSIBLE_ROLES_PATH=str(rendered.ROLES),
    )
    said = playbooks.on_one_line(done)
    assert (done.returncode == 0) == ('"fail_msg"' not in said and "FAILED" not in said), said
    return "" if done.returncode == 0 else said


TWO = {"web1": "127.0.0.1", "web2": "127.0.0.2"}


@pytest.mark.parametrize(
    ("moved", "addresses", "words"),
    [
        (["127.0.0.9"], {"web1": "127.0.0.1"}, "needs two web nodes or more"),
        (["127.0.0.7", "127.0.0.8", "127.0.0.9"], TWO, "holds 3 addresses for 2 web nodes. Name at most one"),
        (["127.0.0.9", "127.0.0.9"], TWO, "holds an address twice"),
        (["127.0.0.2"], TWO, "holds 127.0.0.2, which is the node_address of a node"),
        (["192.0.2.9"], TWO, "holds 192.0.2.9, which is not in the network of web1 (127.0.0.0/8)"),
        (["::1"], TWO, "holds ::1, which is no IPv4 address"),
        (["127.0.0.9"], {**TWO, "web1": "198.51.100.250"}, "web1 has no interface with its node_address"),
    ],
)
def test_addresses_that_cannot_move_are_refused(
    tmp_path: Path, moved: list[str], addresses: dict[str, str], words: str
) -> None:
    assert words in check(tmp_path, moved, addresses)


def test_addresses_that_nodes_do_not_agree_on_are_refused(tmp_path: Path) -> None:
    said = check(
        tmp_path, ["127.0.0.8"], {"web0": "127.0.0.3", **TWO}, virtual_address_addresses=["127.0.0.9"]
    )
    assert "virtual_address_addresses is not the same on web1 as on web0" in said


@pytest.mark.parametrize("moved", [[], ["127.0.0.9"], ["127.0.0.8", "127.0.0.9"]])
def test_addresses_that_can_move_are_taken(tmp_path: Path, moved: list[str]) -> None:
    assert check(tmp_path, moved, TWO) == ""


def test_nginx_is_certified_for_the_addresses_and_reads_whether_it_is_drained(
    texts: rendered.Texts, tmp_path: Path
) -> None:
    settings = texts[WEB[0]]["nginx/nginx.conf.j2"]
    (pattern,) = re.findall(r"include (/run/\S+)\*;", settings)
    assert f"[ ! -e {pattern} ]" in texts[WEB[0]]["virtual_address/virtual_address_check.j2"]
    files = rendered.render_all(
        tmp_path, {"virtual_address_addresses": MOVED}, only=("certificates", "virtual_address")
    )
    drain = files[WEB[0]]["virtual_address/tasks/drain.yml"]
    assert f"dest: {pattern}\n" in drain
    names = files[WEB[0]]["certificates/tasks/certificate.yml"]
    assert [f"IP:{address}" in names for address in MOVED] == [True, True]
