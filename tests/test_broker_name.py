"""Brokers change over from their hosts' names to a common one, and each understands the others at every step.

The role's own tasks decide, for hosts that are this computer, by files of settings as the nodes have them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rendered
import yaml
from rendered import KAFKA, PROJECT

import playbooks

ROLE = PROJECT / "roles/kafka"
# What the files held when each broker went by its host's name.
OLD = f"""
ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/
scram-sha-512.sasl.jaas.config=ScramLoginModule required username="HOST" password="x";
super.users={";".join(f"User:{name}" for name in ["admin", *KAFKA])}
"""


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[str]]:
    """Return the settings of each broker at each step; step 0 is before the first."""
    made = {0: [OLD.replace("HOST", host) for host in KAFKA]}
    text = rendered.lookup(ROLE / "templates/server.properties.j2")
    play = {
        "hosts": "kafka",
        "gather_facts": False,
        "roles": [{"role": "kafka", "tags": "never"}],
        "post_tasks": [
            rendered.debug("kafka", {"kafka_name_step": step}, {str(step): text}) for step in (1, 2, 3)
        ],
    }
    by_host = rendered.run(tmp_path_factory.mktemp("steps"), [play], {})
    return made | {step: [by_host[host][str(step)] for host in KAFKA] for step in (1, 2, 3)}


@dataclass(frozen=True)
class Broker:
    """A broker that runs, as far as it is known to others and knows them."""

    user: str
    rules: tuple[tuple[str, str], ...]
    superusers: frozenset[str]
    subject: str

    def name_of(self, subject: str) -> str | None:
        """Return whom a certificate names here: the first rule that matches it says so."""
        for pattern, name in self.rules:
            if match := re.fullmatch(pattern.removeprefix("^").removesuffix("$"), subject):
                return match.expand(name.replace("$1", r"\1"))
        return None

    def takes(self, other: Broker) -> bool:
        """Whether another one may do here what brokers do, on both listeners."""
        return {other.user, self.name_of(other.subject)} <= self.superusers


def line(pattern: str, text: str) -> str:
    return next(match[1] for match in re.finditer(pattern, text, re.MULTILINE))


def broker(text: str, subject: str) -> Broker:
    rules = re.findall(r"RULE:([^/]*)/([^/]*)/", line(r"^ssl.principal.mapping.rules=(.*)$", text))
    superusers = line(r"^super.users=(.*)$", text).split(";")
    return Broker(
        line(r'username="([^"]+)"', text),
        tuple(rules),
        frozenset(name.removeprefix("User:") for name in superusers),
        subject,
    )


Settings = dict[int, list[str]]


def brokers(settings: Settings, step: int, certificate: str = "CN={},OU=broker") -> list[Broker]:
    return [broker(text, certificate.format(host)) for text, host in zip(settings[step], KAFKA, strict=True)]


def understand(some: list[Broker], others: list[Broker]) -> bool:
    return all(one.takes(other) and other.takes(one) for one in some for other in others)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3)])
def test_brokers_a_step_apart_understand_each_other(settings: Settings, before: int, after: int) -> None:
    assert understand(brokers(settings, before), brokers(settings, after))


def test_certificate_of_before_is_taken_until_all_have_the_new_one(settings: Settings) -> None:
    assert understand(brokers(settings, 0, "CN={}"), brokers(settings, 1))


@pytest.mark.parametrize(("before", "after"), [(0, 2), (1, 3)])
def test_no_step_can_be_left_out(settings: Settings, before: int, after: int) -> None:
    assert not understand(brokers(settings, before), brokers(settings, after))


@pytest.mark.parametrize(
    "subject",
    [
        "CN=db.example.internal",
        "CN=broker",
        "CN=db.example.internal,OU=brokers",
        "CN=db.example.internal,OU=broker,O=other",
        "CN=a\\,OU=broker",
        "OU=broker",
    ],
)
def test_no_other_certificate_of_the_authority_is_taken_in_the_end(settings: Settings, subject: str) -> None:
    assert brokers(settings, 3)[0].name_of(subject) is None


def test_in_the_end_no_broker_names_another_as_its_equal(settings: Settings) -> None:
    assert {one.superusers for one in brokers(settings, 3)} == {frozenset({"admin", "broker"})}
    assert {one.user for one in brokers(settings, 3)} == {"broker"}


def decide(folder: Path, files: dict[str, str], options: tuple[str, ...] = ()) -> dict[str, Any] | str:
    """Run the tasks of the role for hosts with these settings ("" for none: Kafka never ran there).

    Returns [kafka_name_step, kafka_renaming, users to remove] of each host, or what a play that failed said.
    """
    for host, text in files.items():
        (folder / f"{host}.properties").write_text(text)
    text = (ROLE / "tasks/broker_name.yml").read_text()
    name = "/etc/kafka/server.properties"
    assert text.count(name) == 1
    (folder / "broker_name.yml").write_text(
        text.replace(name, f"{folder}/{{{{ inventory_hostname }}}}.properties")
    )
    removed = next(
        task["kafka_resources"]["absent_users"]
        for task in rendered.tasks(rendered.read(ROLE / "tasks/service.yml"))
        if "kafka_resources" in task
    )
    play = {
        "hosts": "kafka",
        "gather_facts": False,
        "any_errors_fatal": True,
        "vars_files": [str(ROLE / "vars/main.yml")],
        "vars": {
            "certificates_folder": str(folder),
            "kafka_cluster_node": {"started": "{{ inventory_hostname in started }}"},
            "kafka_cluster_known": {
                "brokers": {host: {"formatted": bool(text)} for host, text in files.items()}
            },
            "started": [host for host, text in files.items() if text],
        },
        "tasks": [
            {"ansible.builtin.import_tasks": "broker_name.yml"},
            {
                "name": "decided",
                "ansible.builtin.debug": {"msg": ["{{ kafka_name_step }}", "{{ kafka_renaming }}", removed]},
            },
        ],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    (folder / "hosts.yml").write_text(yaml.safe_dump({"kafka": {"hosts": dict.fromkeys(files)}}))
    arguments = ("--inventory=hosts.yml", *playbooks.LOCAL, *options, "play.yml")
    done = playbooks.run(*arguments, folder=folder, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")
    if done.returncode:
        return playbooks.on_one_line(done)
    tasks = json.loads(done.stdout)["plays"][0]["tasks"]
    decided = next(task for task in tasks if task["task"]["name"] == "decided")
    return {host: result["msg"] for host, result in decided["hosts"].items()}


def certify(folder: Path, *hosts: str, unit: str = "/OU=broker") -> None:
    for host in hosts:
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ),
                *("-subj", f"{unit}/CN={host}", "-keyout", os.devnull, "-out", folder / f"{host}-kafka.crt"),
            ],
            check=True,
            capture_output=True,
        )


# The steps of the files, None where no broker runs; where each begins, and whether others follow. A run that
# was broken off may have left any of these.
STATES = (
    ((0, 0, 0), (1, 1, 1), True),
    ((1, 1, 2), (1, 1, 2), True),
    ((2, 3, 2), (2, 3, 2), True),
    ((3, 3, 3), (3, 3, 3), False),
    # A new cluster, and one broker, which needs the last step alone.
    ((None, None, None), (3, 3, 3), False),
    ((0,), (3,), False),
    # One more joins when all that run have the common name.
    ((3, 3, None), (3, 3, 3), False),
)


@pytest.mark.parametrize(("steps", "begin", "more"), STATES, ids=str)
def test_the_files_on_the_nodes_decide_the_step(
    tmp_path: Path, settings: Settings, steps: tuple[int | None, ...], begin: tuple[int, ...], more: bool
) -> None:
    files = {
        host: "" if step is None else settings[step][number]
        for number, (host, step) in enumerate(zip(KAFKA, steps, strict=False))
    }
    certify(tmp_path, *files)
    users = [] if more else list(files)
    assert decide(tmp_path, files) == {
        host: [step, more, users] for host, step in zip(files, begin, strict=True)
    }


def test_a_part_of_the_brokers_does_not_change_over(tmp_path: Path, settings: Settings) -> None:
    files = dict(zip(KAFKA, settings[0], strict=True))
    certify(tmp_path, *KAFKA)
    said = decide(tmp_path, files, (f"--limit={KAFKA[0]}",))
    assert "Run once without --limit" in said
    assert f"no new one ({KAFKA[1]}, {KAFKA[2]})" in said


def test_no_broker_joins_while_the_others_change_over(tmp_path: Path, settings: Settings) -> None:
    files = {KAFKA[0]: settings[0][0], KAFKA[1]: ""}
    certify(tmp_path, *files)
    assert f"no new one ({KAFKA[1]})" in decide(tmp_path, files)


def test_users_stay_while_a_broker_is_not_asked(tmp_path: Path, settings: Settings) -> None:
    files = dict(zip(KAFKA, settings[3], strict=True))
    certify(tmp_path, *KAFKA)
    assert decide(tmp_path, files, (f"--limit={KAFKA[0]}",)) == {KAFKA[0]: [3, False, []]}


def test_certificate_that_names_no_broker_is_refused(tmp_path: Path, settings: Settings) -> None:
    certify(tmp_path, KAFKA[0], unit="")
    said = decide(tmp_path, {KAFKA[0]: settings[0][0]})
    assert "does not name it a broker (OU=broker)" in said
    assert "--tags certificates,kafka" in said
    assert "FAILED" not in json.dumps(decide(tmp_path, {KAFKA[0]: settings[0][0]}, ("--check",)))
