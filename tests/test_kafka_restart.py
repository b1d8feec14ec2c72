"""Brokers restart one after the other; one that does not come back keeps the others from it.

The role's own tasks run, for hosts that are this computer; a command replaces systemd.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from rendered import tasks

import playbooks

PROJECT = Path(__file__).resolve().parents[1]
ROLE = PROJECT / "roles/kafka"
# A host where nothing is different, and three that have to restart.
HOSTS = ["same", "one", "two", "three"]
MODULE = re.compile(r"ansible\.builtin\.systemd_service:\n(?: {4}.+\n)+")
PLAY: dict[str, Any] = {
    "hosts": "all",
    "gather_facts": False,
    "any_errors_fatal": True,
    "vars": {
        "kafka_ready_seconds": 30,
        "kafka_alone": False,
        "kafka_cluster_known": {
            "brokers": {host: {"node_id": number} for number, host in enumerate(HOSTS, start=1)}
        },
    },
    "roles": ["kafka"],
}
COMPARE = {
    "name": "Compare",
    "ansible.builtin.set_fact": {
        "unit_state_differences": {
            "kafka.service": "{{ [] if inventory_hostname == 'same' else ['/etc/kafka/server.properties'] }}"
        }
    },
}
NOTE = "Note which brokers run with something else"
ASK = "Ask which broker is the active controller"
RESTART = "Restart one broker after the other, if it runs with something else"


def restarted(folder: Path, broken: str, controllers: list[str] = HOSTS) -> tuple[list[str], str]:
    """Run the play; returns the brokers that were restarted with the gates before, and what it printed."""
    variables = {**PLAY["vars"], "contract_kafka_controllers": controllers}
    role = folder / "roles/kafka"
    (role / "tasks").mkdir(parents=True)
    gate = {
        "ansible.builtin.shell": f"echo gate {{{{ kafka_gate_without | join(' ') }}}} >> {folder}/restarted",
        "run_once": True,
    }
    # The second of them is the active controller.
    known = {"ansible.builtin.set_fact": {"kafka_gate": {"controller": 3}}}
    (role / "tasks/gate.yml").write_text(yaml.safe_dump([gate, known]))
    host = "{{ kafka_restarted }}"
    command = (
        f"ansible.builtin.shell:\n        cmd: echo {host} >> {folder}/restarted; [ {host} != '{broken}' ]\n"
    )
    text, count = MODULE.subn(lambda _: command, (ROLE / "tasks/restart.yml").read_text())
    assert count == 1
    (role / "tasks/restart.yml").write_text(text)
    service = yaml.safe_load((ROLE / "tasks/service.yml").read_text())
    note, ask, task = (task for task in tasks(service) if task["name"] in (NOTE, ASK, RESTART))
    (role / "tasks/main.yml").write_text(yaml.safe_dump([COMPARE, note, ask, task]))
    (folder / "play.yml").write_text(yaml.safe_dump([{**PLAY, "vars": variables}]))
    (folder / "ansible.cfg").touch()
    (folder / "hosts").write_text("\n".join(["[kafka]", *HOSTS]))
    arguments = ("--inventory=hosts", *playbooks.LOCAL, "play.yml")
    done = playbooks.run(*arguments, folder=folder, ANSIBLE_CONFIG=str(folder / "ansible.cfg"))
    assert (done.returncode != 0) is bool(broken), done.stdout
    return (folder / "restarted").read_text().splitlines(), " ".join(done.stdout.split())


def test_brokers_restart_one_after_the_other_and_the_active_controller_last(tmp_path: Path) -> None:
    assert restarted(tmp_path, "")[0] == [
        "gate",
        "gate one",
        "one",
        "gate three",
        "three",
        "gate two",
        "two",
    ]


def test_separate_controllers_restart_before_the_brokers(tmp_path: Path) -> None:
    hosts = [line for line in restarted(tmp_path, "", ["three", "two"])[0] if "gate" not in line]
    assert hosts == ["three", "two", "one"]


def test_one_that_does_not_come_back_keeps_the_others_from_restarting(tmp_path: Path) -> None:
    brokers, said = restarted(tmp_path, "three")
    assert brokers == ["gate", "gate one", "one", "gate three", "three"]
    assert "fatal: [same -> three]: FAILED!" in said
