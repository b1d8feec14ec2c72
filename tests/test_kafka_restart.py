"""Brokers restart one after the other; one that does not come back keeps the others from it.

The role's own tasks run, for hosts that are this computer; a command replaces systemd.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from rendered import tasks

import playbooks

PROJECT = Path(__file__).resolve().parents[1]
ROLE = PROJECT / "roles/kafka"
# A host where nothing is different, and three that have to restart.
HOSTS = ["same", "one", "two", "three"]
MODULE = re.compile(r"ansible\.builtin\.systemd_service:\n(?: {4}.+\n)+")
PLAY = {
    "hosts": "all",
    "gather_facts": False,
    "any_errors_fatal": True,
    "vars": {
        "kafka_ready_seconds": 30,
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
RESTART = "Restart one broker after the other, if it runs with something else"


def restarted(folder: Path, broken: str) -> tuple[list[str], str]:
    """Run the play; returns the brokers that were restarted, in their order, and what it printed."""
    role = folder / "roles/kafka"
    (role / "tasks").mkdir(parents=True)
    host = "{{ kafka_restarted }}"
    command = (
        f"ansible.builtin.shell:\n        cmd: echo {host} >> {folder}/restarted; [ {host} != '{broken}' ]\n"
    )
    text, count = MODULE.subn(lambda _: command, (ROLE / "tasks/restart.yml").read_text())
    assert count == 1
    (role / "tasks/restart.yml").write_text(text)
    service = yaml.safe_load((ROLE / "tasks/service.yml").read_text())
    (task,) = (task for task in tasks(service) if task["name"] == RESTART)
    (role / "tasks/main.yml").write_text(yaml.safe_dump([COMPARE, task]))
    (folder / "play.yml").write_text(yaml.safe_dump([PLAY]))
    (folder / "ansible.cfg").touch()
    arguments = (f"--inventory={','.join(HOSTS)},", *playbooks.LOCAL, "play.yml")
    done = playbooks.run(*arguments, folder=folder, ANSIBLE_CONFIG=str(folder / "ansible.cfg"))
    assert (done.returncode != 0) is bool(broken), done.stdout
    return (folder / "restarted").read_text().split(), " ".join(done.stdout.split())


def test_brokers_restart_one_after_the_other(tmp_path: Path) -> None:
    assert restarted(tmp_path, "")[0] == ["one", "two", "three"]


def test_one_that_does_not_come_back_keeps_the_others_from_restarting(tmp_path: Path) -> None:
    brokers, said = restarted(tmp_path, "two")
    assert brokers == ["one", "two"]
    assert "fatal: [same -> two]: FAILED!" in said
