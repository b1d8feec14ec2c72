"""The first layer of validation: an inventory that is not complete is refused before any host is touched.

Each message ends with how to fix it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]


def hosts(**variables: Any) -> dict[str, Any]:
    """Return a group of one host that is never reached."""
    return {"hosts": {"one.example.internal": variables}}


def inventory(folder: Path, groups: dict[str, Any], **variables: Any) -> Path:
    """Write an inventory whose hosts, if they were reached after all, would refuse the connection."""
    path = folder / "hosts.yml"
    connection = {"ansible_host": "127.0.0.1", "ansible_port": 9, "secrets_folder": str(folder / "secrets")}
    path.write_text(
        yaml.safe_dump(
            {
                "all": {"vars": {**connection, "certificates_folder": str(folder / "ca"), **variables}},
                "ungrouped": {
                    "hosts": {
                        "localhost": {
                            "ansible_connection": "local",
                            "ansible_python_interpreter": sys.executable,
                        }
                    }
                },
                "nodes": {"children": groups},
            }
        )
    )
    return path


def play(playbook: str, path: Path, *options: str) -> str:
    """Run a playbook that must fail; returns what it said, on one line."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(path), *options, playbook],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
    )
    assert done.returncode != 0, done.stdout
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    "groups",
    [
        {"web": hosts(node_address="192.0.2.1")},
        {"kafka": hosts(node_address="192.0.2.1"), "web": hosts(node_address="192.0.2.1")},
        {"kafka": hosts(node_address="192.0.2.1"), "postgresql": hosts(node_address="192.0.2.1")},
        {
            "kafka": hosts(node_address="192.0.2.1"),
            "web": hosts(node_address="192.0.2.1"),
            "postgresql": {
                "hosts": {
                    "one.example.internal": {"node_address": "192.0.2.1"},
                    "two.example.internal": {"node_address": "192.0.2.2"},
                }
            },
        },
    ],
    ids=["no-kafka", "no-postgresql", "no-web", "two-postgresql"],
)
def test_incomplete_groups_are_refused(tmp_path: Path, groups: dict[str, Any]) -> None:
    said = play("playbooks/preflight.yml", inventory(tmp_path, groups))
    assert "The inventory must have the groups kafka and web" in said
    assert "inventories/production/hosts.yml is an example to copy" in said
    assert "UNREACHABLE" not in said


@pytest.mark.parametrize("address", [None, "", "db.example.internal", "2001:db8::1"])
def test_host_without_an_address_is_refused(tmp_path: Path, address: str | None) -> None:
    one = hosts() if address is None else hosts(node_address=address)
    said = play("playbooks/preflight.yml", inventory(tmp_path, {"kafka": one, "web": one, "postgresql": one}))
    assert "one.example.internal needs node_address in the inventory" in said
    assert "for example `node_address: 192.0.2.11`" in said
    assert "UNREACHABLE" not in said


def test_host_that_does_not_answer_is_named_with_the_hint_of_the_inventory(tmp_path: Path) -> None:
    one = hosts(node_address="192.0.2.1")
    groups = {"kafka": one, "web": one, "postgresql": one}
    said = play(
        "playbooks/preflight.yml", inventory(tmp_path, groups, unreachable_hint="Start it with `make up`.")
    )
    assert "one.example.internal does not answer" in said
    assert "Start it with `make up`." in said


REMOVED = yaml.safe_load((PROJECT / "roles/contract/vars/removed_variables.yml").read_text())
NAMES = [name for group in REMOVED["contract_removed_variables"] for name in group["names"]]


def test_removed_variables_are_refused_by_name(tmp_path: Path) -> None:
    one = hosts(node_address="192.0.2.1", kafka_data_folder="/srv/kafka")
    groups = {"kafka": one, "web": one, "postgresql": one}
    # What is set for all hosts is set for localhost too.
    others = {name: "any" for name in NAMES if name != "kafka_data_folder"}
    said = play("playbooks/preflight.yml", inventory(tmp_path, groups, **others))
    assert "The inventory sets variables that were removed" in said
    assert "kafka_data_folder (of one.example.internal): Kafka's data are in /var/lib/kafka." in said
    assert [name for name in others if f"{name} (of localhost, one.example.internal): " not in said] == []
    assert "UNREACHABLE" not in said


def test_changelog_names_the_removed_variables() -> None:
    table = (PROJECT / "CHANGELOG.md").read_text().partition("### Removed")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.strip().startswith("|")]
    words = [word for row in rows for word in re.findall(r"`(\w+)`", row)]
    # A word that begins with _ is the end of a variable of timestamp_unit.
    assert sorted(f"timestamp_unit{word}" if word[0] == "_" else word for word in words) == sorted(NAMES)


# The second layer: what a role asserts of its settings, before it changes anything. (role, variables, words)
SETTINGS = (
    (
        "nginx",
        {"nginx_certificate": "/some/file.pem"},
        "nginx_certificate and nginx_certificate_key belong together. Set both, or neither",
    ),
    (
        "certificates",
        {"certificates_days": 10, "certificates_renew_days": 30},
        "certificates_days must be more than certificates_renew_days",
    ),
    ("nginx", {"nginx_metrics_port": 9443}, "Set nginx_metrics_client_ca, or nginx_metrics_port to 0"),
    ("postgresql", {"postgresql_memory_mb": 100}, "postgresql_memory_mb must be at least 256 (it is 100)"),
    ("kafka", {"kafka_replication": 2}, "kafka_replication <= hosts in the group kafka must hold"),
    ("kafka", {"kafka_heap_mb": 512, "kafka_memory_max_mb": 256}, "kafka_memory_max_mb be more than"),
    (
        "base",
        {"fact_distribution": "Ubuntu"},
        "these roles are written for Debian 12. Reinstall it, or take it out",
    ),
    ("base", {"base_apt_cache_valid_seconds": "soon"}, "base_apt_cache_valid_seconds"),
)


@pytest.mark.parametrize(("role", "variables", "words"), SETTINGS, ids=lambda value: str(value)[:30])
def test_settings_are_checked_before_anything_is_changed(
    tmp_path: Path, role: str, variables: dict[str, Any], words: str
) -> None:
    one = hosts(node_address="192.0.2.1")
    given = dict(variables)
    facts = {
        "distribution": given.pop("fact_distribution", "Debian"),
        "distribution_major_version": "12",
        "distribution_version": "12.1",
        "memtotal_mb": 8192,
    }
    path = inventory(tmp_path, {"kafka": one, "web": one, "postgresql": one}, cache_folder=str(tmp_path))
    folder = PROJECT / "roles" / role
    task: dict[str, Any] = {"ansible.builtin.include_role": {"name": role}}
    files: list[str] = []
    if role == "kafka":
        # The role that it depends on would build its archive first.
        task = {"ansible.builtin.include_tasks": str(folder / "tasks/preflight.yml")}
        contract = PROJECT / "roles/contract/vars/main.yml"
        files = [str(contract), str(folder / "defaults/main.yml"), str(folder / "vars/main.yml")]
    book = tmp_path / "play.yml"
    book.write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "nodes",
                    "gather_facts": False,
                    "vars_files": files,
                    "pre_tasks": [{"ansible.builtin.set_fact": {**facts, "cacheable": True}}],
                    "tasks": [task],
                }
            ]
        )
    )
    said = play(str(book), path, "--extra-vars", json.dumps(given))
    assert words in said
    assert "UNREACHABLE" not in said
