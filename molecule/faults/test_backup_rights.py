"""The Kafka users of backup and restore may do what they need and no more; tried for real, on a web node."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from disturbed import run
from nodes import Nodes, broker, run_program

from cli.inventory import PROJECT, environment, tool

DENIED = "TOPIC_AUTHORIZATION_FAILED"
# Whoever asks.
NOBODY = "TOPIC_DELETION_DISABLED"
GROUP_DENIED = "GROUP_AUTHORIZATION_FAILED"
# What each attempt of kafka_client.py's `keepers` must be answered with; "" is what they need.
ANSWERS = {
    "backup reads": "",
    "backup reads dead letters": "",
    "backup writes": DENIED,
    "backup writes dead letters": DENIED,
    "backup alters": DENIED,
    "backup deletes the topic": NOBODY,
    "backup joins the group": GROUP_DENIED,
    "restore reads": "",
    "restore alters": "",
    "restore alters dead letters": "",
    "restore deletes the topic": NOBODY,
    "restore makes a topic": DENIED,
    "restore joins the group": GROUP_DENIED,
}
FOLDER = "/etc/timestamp-service"

pytestmark = pytest.mark.short


@pytest.fixture(scope="module")
def answers(nodes: Nodes) -> Iterator[Any]:
    """Give what each attempt was answered with; the passwords are on the node for as long."""
    names = ["backup", "restore"]
    try:
        for name in names:
            place(nodes, f"kafka_{name}_password", f"{FOLDER}/timestamp-{name}.kafka_password_file")
        yield run_program(nodes, "kafka_client.py", broker(nodes), "keepers")
    finally:
        run(nodes.web, f"rm -f {FOLDER}/timestamp-restore.kafka_password_file")


def place(nodes: Nodes, secret: str, path: str) -> None:
    """Put a secret of the inventory on the web node, as a play does."""
    arguments = f"src={{{{ secrets_folder }}}}/{secret} dest={path} mode=0600"
    subprocess.run(
        [
            tool("ansible"),
            "-i",
            nodes.inventory,
            nodes.web.name,
            "-m",
            "ansible.builtin.copy",
            "-a",
            arguments,
        ],
        cwd=PROJECT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )


@pytest.mark.parametrize("attempt", ANSWERS)
def test_they_may_do_what_they_need_and_no_more(answers: dict[str, str], attempt: str) -> None:
    assert answers[attempt] == ANSWERS[attempt]


def test_every_attempt_is_judged(answers: dict[str, str]) -> None:
    assert set(answers) == set(ANSWERS)
