"""The first layer of validation: an inventory that is not complete is refused before any host is touched.

Each message ends with how to fix it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import RunModule, load_module

import playbooks

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


def run(playbook: str, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook."""
    return playbooks.run("-i", str(path), *options, playbook)


def play(playbook: str, path: Path, *options: str) -> str:
    """Run a playbook that must fail; returns what it said, on one line."""
    done = run(playbook, path, *options)
    assert done.returncode != 0, done.stdout
    return playbooks.on_one_line(done)


@pytest.mark.parametrize(
    "groups",
    [
        {"web": hosts(node_address="192.0.2.1")},
        {"kafka": hosts(node_address="192.0.2.1"), "web": hosts(node_address="192.0.2.1")},
        {"kafka": hosts(node_address="192.0.2.1"), "postgresql": hosts(node_address="192.0.2.1")},
    ],
    ids=["no-kafka", "no-postgresql", "no-web"],
)
def test_incomplete_groups_are_refused(tmp_path: Path, groups: dict[str, Any]) -> None:
    said = play("playbooks/preflight.yml", inventory(tmp_path, groups))
    assert "The inventory must have the groups kafka, postgresql and web" in said
    assert "inventories/production/hosts.yml is an example to copy" in said
    assert "UNREACHABLE" not in said


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["db.one.internal", "db.two.internal"],
            "databases with the same name up to the first dot",
        ),
        (["db1.x.internal", "next.x.internal"], "would be called timestamp-consumer-next. Call it otherwise"),
        (["db1.x.internal", "db_2.x.internal"], "would be called timestamp-consumer-db_2. Call it otherwise"),
        (
            [f"db{number}.x.internal" for number in range(10)],
            "has 10 hosts. Each web node has a consumer",
        ),
    ],
    ids=["same", "reserved", "letters", "many"],
)
def test_databases_whose_consumers_could_not_be_told_apart_are_refused(
    tmp_path: Path, names: list[str], reason: str
) -> None:
    one = hosts(node_address="192.0.2.1")
    databases = {name: {"node_address": f"192.0.2.{number}"} for number, name in enumerate(names, start=2)}
    path = inventory(tmp_path, {"kafka": one, "web": one, "postgresql": {"hosts": databases}})
    said = play("playbooks/preflight.yml", path)
    assert reason in said
    assert "UNREACHABLE" not in said


@pytest.mark.parametrize(
    ("brokers", "controllers", "reason"),
    [
        ("k1 k2", "c1 c2", "The group kafka_controllers has 2 hosts. They go on without one of them only"),
        ("k1", "c1 c2 c3", "The group kafka needs two hosts or more where there are separate controllers"),
        ("k1 k2", "k1 c2 c3", "k1 is in the groups kafka and kafka_controllers. Take it out of one of them"),
        ("k1 k2", "c1 c2 c3", ""),
    ],
    ids=["two", "one-broker", "both", "right"],
)
def test_separate_controllers_are_three_or_more_and_no_brokers(
    tmp_path: Path, brokers: str, controllers: str, reason: str
) -> None:
    names = dict.fromkeys(f"{brokers} {controllers}".split())
    addresses = {name: {"node_address": f"192.0.2.{number}"} for number, name in enumerate(names, start=2)}
    groups = {"kafka": brokers.split(), "kafka_controllers": controllers.split()}
    described = {
        group: {"hosts": {one: addresses[one] for one in members}} for group, members in groups.items()
    }
    one = hosts(node_address="192.0.2.1")
    said = play("playbooks/preflight.yml", inventory(tmp_path, {**described, "web": one, "postgresql": one}))
    assert reason in said
    # What is right comes as far as the hosts.
    assert ("UNREACHABLE" in said) is (reason == "")


@pytest.mark.parametrize("address", [None, "", "db.example.internal", "2001:db8::1"])
def test_host_without_an_address_is_refused(tmp_path: Path, address: str | None) -> None:
    one = hosts() if address is None else hosts(node_address=address)
    said = play("playbooks/preflight.yml", inventory(tmp_path, {"kafka": one, "web": one, "postgresql": one}))
    assert "one.example.internal needs node_address in the inventory" in said
    assert "for example `node_address: 192.0.2.11`" in said
    assert "UNREACHABLE" not in said


def test_host_outside_of_the_group_that_plays_use_is_refused(tmp_path: Path) -> None:
    one = hosts(node_address="192.0.2.1")
    path = inventory(tmp_path, {"kafka": one, "web": one, "postgresql": one})
    # The group gets another name.
    path.write_text(re.sub(r"(?m)^( *)nodes:$", r"\1other:", path.read_text()))
    said = play("playbooks/preflight.yml", path)
    assert "one.example.internal is not in the group nodes, so that it would not be set up." in said
    assert "children of" in said
    assert "UNREACHABLE" not in said


def test_all_faults_of_an_inventory_are_shown_at_once(tmp_path: Path) -> None:
    one = hosts(node_address="192.0.2.1")
    two = {
        "hosts": {
            "two.example.internal": {"node_address": "192.0.2.1"},
            "three.example.internal": {"kafka_node_id": 3},
            # Two addresses that are missing are not the same one.
            "four.example.internal": {},
        }
    }
    said = play("playbooks/preflight.yml", inventory(tmp_path, {"kafka": one, "web": two}))
    assert "The inventory must have the groups kafka, postgresql and web" in said
    assert "three.example.internal needs node_address" in said
    assert "four.example.internal needs node_address" in said
    assert "one.example.internal and two.example.internal have the same node_address, 192.0.2.1." in said
    # Ansible shows a message twice.
    assert said.count("have the same node_address") == 2
    assert "The inventory sets kafka_node_id (of three.example.internal), which was removed." in said


def test_host_that_does_not_answer_is_named_with_the_hint_of_the_inventory(tmp_path: Path) -> None:
    one = hosts(node_address="192.0.2.1")
    groups = {"kafka": one, "web": one, "postgresql": one}
    said = play(
        "playbooks/preflight.yml", inventory(tmp_path, groups, unreachable_hint="Start it with `make up`.")
    )
    assert "one.example.internal does not answer" in said
    assert f"Start it with `make up INVENTORY={tmp_path}/hosts.yml`." in said


REMOVED = yaml.safe_load((PROJECT / "roles/contract/vars/removed_variables.yml").read_text())
NAMES = [name for group in REMOVED["contract_removed_variables"] for name in group["names"]]


def test_removed_variables_are_refused_by_name(tmp_path: Path) -> None:
    one = hosts(node_address="192.0.2.1", kafka_data_folder="/srv/kafka")
    groups = {"kafka": one, "web": one, "postgresql": one}
    # What is set for all hosts is set for localhost too.
    others = {name: "any" for name in NAMES if name != "kafka_data_folder"}
    said = play("playbooks/preflight.yml", inventory(tmp_path, groups, **others))
    assert "kafka_data_folder (of one.example.internal), which was removed. Kafka's data are in" in said
    assert [name for name in others if f"{name} (of localhost, one.example.internal), " not in said] == []
    assert "UNREACHABLE" not in said


def facts(content: Any) -> set[str]:
    """Return the names that tasks leave behind for the rest of a run."""
    if isinstance(content, list):
        return set().union(*map(facts, content))
    if not isinstance(content, dict):
        return set()
    names = set(content.get("ansible.builtin.set_fact", ()))
    if isinstance(content.get("register"), str):
        names.add(content["register"])
    return names.union(*map(facts, content.values()))


def test_no_task_leaves_a_removed_variable_behind() -> None:
    """Else a play that another one imports, such as rebuild.yml in restore.yml, would refuse it."""
    files = [path for folder in ("playbooks", "roles") for path in (PROJECT / folder).rglob("*.yml")]
    left = set().union(*(facts(yaml.safe_load(path.read_text())) for path in files))
    assert len(left) > 30
    assert left.intersection(NAMES) == set()


def test_changelog_names_the_removed_variables() -> None:
    table = (PROJECT / "CHANGELOG.md").read_text().partition("### Removed")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.strip().startswith("|")]
    words = [word for row in rows for word in re.findall(r"`(\w+)`", row)]
    # A word that begins with _ is the end of a variable of timestamp_unit.
    assert sorted(f"timestamp_unit{word}" if word[0] == "_" else word for word in words) == sorted(NAMES)


# Settings by which a certificate by ACME can be obtained.
ACME: dict[str, Any] = {
    "nginx_acme_directory": "https://acme.example.org/directory",
    "service_url": "https://one.example.internal",
    "service_ca": "/etc/ssl/certs/ca-certificates.crt",
}
# The second layer: what a role asserts of its settings, before it changes anything. (role, variables, words)
SETTINGS = (
    (
        "nginx",
        {"nginx_certificate": "/some/file.pem"},
        "nginx_certificate and nginx_certificate_key belong together. Set both, or neither",
    ),
    (
        "nginx",
        {**ACME, "nginx_certificate": "/some/file.pem", "nginx_certificate_key": "/some/file.key"},
        "nginx_acme_directory and nginx_certificate exclude each other. Remove nginx_acme_directory",
    ),
    (
        "nginx",
        {**ACME, "nginx_acme_directory": "acme.example.org"},
        "must be the URL of an ACME server's directory (it is acme.example.org), for example https://",
    ),
    (
        "nginx",
        {**ACME, "nginx_acme_names": ["a.example.org", "192.0.2.1"]},
        "nginx_acme_names holds 192.0.2.1. Write full names in small letters there",
    ),
    ("nginx", {**ACME, "nginx_acme_names": ["time"]}, "nginx_acme_names holds time. Write full names"),
    ("nginx", {**ACME, "nginx_acme_names": []}, "nginx_acme_names must hold at least one name"),
    ("nginx", {**ACME, "nginx_acme_names": ["*.example.org"]}, "by the DNS alone: set nginx_acme_hook"),
    (
        "nginx",
        {
            "nginx_acme_directory": "https://acme.example.org/directory",
            "service_url": "https://one.example.internal",
        },
        "service_url: https://one.example.internal and, for example, service_ca: /etc/ssl/certs",
    ),
    (
        "certificates",
        {"certificates_days": 10, "certificates_renew_days": 30},
        "certificates_days must be more than certificates_renew_days",
    ),
    ("nginx", {"nginx_metrics_port": 9443}, "Set nginx_metrics_client_ca, or nginx_metrics_port to 0"),
    ("postgresql", {"postgresql_memory_mb": 100}, "postgresql_memory_mb must be at least 256 and at most"),
    ("kafka", {"kafka_replication": 2}, "kafka_replication <= hosts in the group kafka must hold"),
    ("kafka", {"kafka_heap_mb": 512, "kafka_memory_max_mb": 256}, "kafka_memory_max_mb be more than"),
    ("postgresql", {"postgresql_memory_mb": 8193}, "at most the memory of the node, 8192 MiB (it is 8193)"),
    (
        "kafka",
        {"kafka_heap_mb": 8192, "kafka_memory_max_mb": 9000},
        "(8192), which must be less than the memory of the node (8192 MiB)",
    ),
    ("base", {"base_apt_cache_valid_seconds": "soon"}, "base_apt_cache_valid_seconds"),
)


@pytest.mark.parametrize(("role", "variables", "words"), SETTINGS, ids=lambda value: str(value)[:30])
def test_settings_are_checked_before_anything_is_changed(
    tmp_path: Path, role: str, variables: dict[str, Any], words: str
) -> None:
    one = hosts(node_address="192.0.2.1")
    facts = {"usable_memory_mb": 8192, "contract_debian_postgresql": "17"}
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
    said = play(str(book), path, "--extra-vars", json.dumps(variables))
    assert words in said
    assert "UNREACHABLE" not in said


# The third layer: what a node has. By name the facts that differ, the words, and the remedy.
FACTS: dict[str, Any] = {
    "distribution": "Debian",
    "distribution_major_version": "12",
    "distribution_version": "12.1",
    "architecture": "x86_64",
    "all_ipv4_addresses": ["192.0.2.1", "198.51.100.1"],
    "usable_memory_mb": 1536,
    "base_limits": {"ahead": -5.0, "new": True, "free_mb": {"/": 2048}},
}


def limits(**changes: Any) -> dict[str, Any]:
    return {"base_limits": {**FACTS["base_limits"], **changes}}


NODES: dict[str, tuple[dict[str, Any], str, str]] = {
    "ubuntu": (
        {"distribution": "Ubuntu", "distribution_version": "12.04", "distribution_major_version": "12"},
        "runs Ubuntu 12.04; these roles are written for Debian 12 and 13",
        "take it out of the inventory",
    ),
    "debian11": (
        {"distribution_major_version": "11", "distribution_version": "11.9"},
        "runs Debian 11.9",
        "Reinstall it",
    ),
    "arm64": ({"architecture": "aarch64"}, "is aarch64", "Use a machine with an x86_64"),
    "address": (
        {"all_ipv4_addresses": ["198.51.100.1", "198.51.100.2"]},
        "does not have the address 192.0.2.1",
        "Set its node_address to one that it has (198.51.100.1, 198.51.100.2)",
    ),
    "ahead": (limits(ahead=6.4), "is 6 s ahead of that of this computer", "a time daemon synchronizes it"),
    "behind": (limits(ahead=-5.2), "is 5 s behind that of this computer", "a time daemon synchronizes it"),
    "memory": ({"usable_memory_mb": 1535}, "has 1535 MiB of memory", "needs 1536 MiB for its groups"),
    "disk": (
        limits(free_mb={"/": 2048, "/var/lib/kafka": 2047}),
        "has 2047 MiB free on the volume of /var/lib/kafka",
        "Enlarge the volume",
    ),
}


def check_nodes(folder: Path, facts: Mapping[str, dict[str, Any]]) -> tuple[int, str]:
    """Run the checks of nodes that are in all groups; returns the exit status, and what was said."""
    group = {"hosts": {name: {"node_address": "192.0.2.1"} for name in facts}}
    path = inventory(folder, {"kafka": group, "web": group, "postgresql": group})
    described = yaml.safe_load(path.read_text())
    described["all"]["vars"]["given"] = dict(facts)
    path.write_text(yaml.safe_dump(described))
    # In the place of facts.yml, which asks the nodes.
    told = [
        {"ansible.builtin.set_fact": {name: f"{{{{ given[inventory_hostname].{name} }}}}", "cacheable": True}}
        for name in FACTS
    ]
    checks = yaml.safe_load((PROJECT / "playbooks/nodes.yml").read_text())
    book = folder / "nodes.yml"
    book.write_text(yaml.safe_dump([{"hosts": "nodes", "gather_facts": False, "tasks": told}, *checks]))
    done = run(str(book), path)
    return done.returncode, playbooks.on_one_line(done)


def test_faults_of_all_nodes_are_shown_at_once(tmp_path: Path) -> None:
    facts = {f"{name}.example": {**FACTS, **changes} for name, (changes, _, _) in NODES.items()}
    changes = {name: value for changes, _, _ in NODES.values() for name, value in changes.items()}
    facts["everything.example"] = {**FACTS, **changes, **limits(ahead=6.0, free_mb={"/": 1})}
    facts["right.example"] = FACTS
    status, said = check_nodes(tmp_path, facts)
    assert status != 0
    # What each host says, up to what is printed for the next one.
    texts = {text.partition("]")[0]: text.partition("[ERROR]")[0] for text in said.split("fatal: [")[1:]}
    assert sorted(texts) == sorted(set(facts) - {"right.example"})
    for name, (_, words, remedy) in NODES.items():
        assert words in texts[f"{name}.example"]
        assert remedy in texts[f"{name}.example"]
        assert f"{name}.example" in texts[f"{name}.example"].partition("msg:")[2]
        others = [other for other, (_, words, _) in NODES.items() if words in texts[f"{name}.example"]]
        assert others == [name]
    assert [name for name, (_, _, remedy) in NODES.items() if remedy not in texts["everything.example"]] == []


def test_nodes_that_have_enough_pass_and_one_that_runs_already_is_not_measured(tmp_path: Path) -> None:
    old = {**FACTS, "usable_memory_mb": 100, **limits(new=False, free_mb={"/": 1}, ahead=5.0)}
    status, said = check_nodes(tmp_path, {"right.example": FACTS, "old.example": old})
    assert status == 0, said


LIMITS = load_module("base", "node_limits")
AHEAD = load_module("base", "node_limits", "action_plugins").ahead
MEMINFO = "MemTotal:       24684380 kB\nMemFree:         1000000 kB\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "mebibytes"),
    [
        ("0::/init.scope\n", {}, 24105),
        # A container's limit is that of its root; what it says of itself is not more.
        ("0::/init.scope\n", {"memory.max": 2048 << 20, "init.scope/memory.max": "max"}, 2048),
        ("0::/\n", {"memory.max": 2048 << 20}, 2048),
        ("0::/\n", {"memory.max": 64 << 30}, 24105),
        # A container that sees the groups of its host.
        ("0::/lxc/one/init.scope\n", {"lxc/memory.max": 1 << 30, "lxc/one/memory.max": 2 << 30}, 1024),
        ("0::/lxc/one\n", {"lxc/two/memory.max": 1 << 30}, 24105),
        # Version 1, whose paths a container may not see.
        ("4:memory:/docker/abc\n0::/\n", {"memory/memory.limit_in_bytes": 512 << 20}, 512),
        ("4:cpu,memory:/\n", {"memory/memory.limit_in_bytes": 9223372036854771712}, 24105),
    ],
)
def test_usable_memory_is_the_smaller_of_memory_and_limits(
    tmp_path: Path, cgroup: str, files: dict[str, Any], mebibytes: int
) -> None:
    for name, value in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    # Of a group outside of the mount.
    (tmp_path.parent / "memory.max").write_text("1\n")
    assert LIMITS.usable_memory_mb(MEMINFO, cgroup, tmp_path) == mebibytes


def test_node_tells_free_disk_of_folders_that_are_not_there_yet(
    tmp_path: Path, run_module: RunModule
) -> None:
    missing = tmp_path / "not/there"
    before = time.time()
    answer = run_module(LIMITS, {"paths": [str(missing)], "mark": str(tmp_path)})
    assert before <= answer["time"] <= time.time()
    assert not answer["new"]
    assert run_module(LIMITS, {"paths": [], "mark": str(missing)})["new"]
    state = os.statvfs(tmp_path)
    assert answer["free_mb"][str(missing)] == pytest.approx(state.f_bavail * state.f_frsize >> 20, abs=500)
    assert answer["ansible_facts"]["usable_memory_mb"] > 0


@pytest.mark.parametrize(
    ("node", "seconds"),
    [(100.0, 0.0), (110.0, 0.0), (104.0, 0.0), (113.0, 3.0), (92.0, -8.0)],
)
def test_time_of_the_question_is_no_difference_of_clocks(node: float, seconds: float) -> None:
    assert AHEAD(node, before=100.0, after=110.0) == seconds


def test_facts_of_a_node_are_asked_for(tmp_path: Path) -> None:
    """The real tasks, for a host that is this computer."""
    one = hosts(
        node_address="192.0.2.1", ansible_connection="local", ansible_python_interpreter=sys.executable
    )
    path = inventory(tmp_path, {"kafka": one, "web": one, "postgresql": one})
    text = (
        "{{ ansible_facts['usable_memory_mb'] }} {{ base_limits.ahead | abs < 2 }}"
        " {{ base_limits.free_mb | list | join(',') }} {{ ansible_facts['architecture'] }}"
    )
    book = tmp_path / "facts.yml"
    book.write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "nodes",
                    "gather_facts": False,
                    "tasks": [
                        {"ansible.builtin.import_role": {"name": "base", "tasks_from": "facts"}},
                        {"ansible.builtin.debug": {"msg": text}},
                    ],
                }
            ]
        )
    )
    done = run(str(book), path, "--check")
    assert done.returncode == 0, done.stdout
    memory = LIMITS.usable_memory_mb(
        Path("/proc/meminfo").read_text(), Path("/proc/1/cgroup").read_text(), LIMITS.CGROUPS
    )
    assert f"{memory} True /,/var/lib/kafka,/var/lib/postgresql {os.uname().machine}" in done.stdout
