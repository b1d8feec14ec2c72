"""A play is killed between a file and the restart for it: the next run restarts, though no file changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from disturbed import ask, break_play_off, failures, until
from nodes import KAFKA, NGINX, Nodes, main_process, output

from cli.inventory import Host

STEP_SECONDS = 600
HEALTHY_SECONDS = 60.0
COMPARE = "/usr/local/lib/timestamp-service/unit_state compare"


@dataclass(frozen=True)
class Change:
    """A variable with another value, the file that shows it, and how what runs shows it."""

    group: str
    role: str
    unit: str
    variable: str
    written: str
    runs: str


CHANGES = {
    "nginx": Change(
        "web",
        "nginx",
        NGINX,
        "nginx_connections=4000",
        "grep 'worker_connections 4000' /etc/nginx/nginx.conf",
        # It reads its limit of open files from the unit alone.
        "grep 'Max open files *16000 ' /proc/{process}/limits",
    ),
    "postgresql": Change(
        "postgresql",
        "postgresql",
        # That of the node.
        "",
        "postgresql_connections=90",
        "grep 'max_connections = 90' /etc/postgresql/*/main/conf.d/timestamp-service.conf",
        "runuser -u postgres -- psql -XAtc 'SHOW max_connections' | grep -x 90",
    ),
    "kafka": Change(
        "kafka",
        "kafka",
        KAFKA,
        "kafka_heap_mb=300",
        "grep Xmx300m /etc/systemd/system/kafka.service",
        "tr '\\0' ' ' < /proc/{process}/cmdline | grep Xmx300m",
    ),
    "journald": Change(
        "web",
        "base",
        "systemd-journald.service",
        "base_journal_max_use=900M",
        "grep 900M /etc/systemd/journald.conf.d/timestamp-service.conf",
        f'test -z "$({COMPARE} systemd-journald.service)"',
    ),
}


def shows(node: Host, command: str, unit: str) -> bool:
    """Return whether a command on the node succeeds; it may name the main process of a unit."""
    process = main_process(node, unit) if "{process}" in command else 0
    return ask(node, command.replace("{process}", str(process))).returncode == 0


@pytest.fixture(autouse=True)
def as_before(nodes: Nodes, change: Change) -> Iterator[None]:
    """Bring the nodes back to the settings of their inventory."""
    yield
    nodes.play("site.yml", f"--tags={change.role}")
    assert until(lambda: not failures(nodes.service), HEALTHY_SECONDS), failures(nodes.service)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_restart_that_was_lost_is_made_up_for(nodes: Nodes, change: Change) -> None:
    node = next(node for node in nodes.service.nodes if change.group in node.groups)
    unit = change.unit or node.postgresql_unit
    arguments = ("site.yml", f"--tags={change.role}", f"--extra-vars={change.variable}")
    assert not shows(node, change.written, unit)
    break_play_off(
        nodes.inventory,
        lambda: shows(node, change.written, unit),
        STEP_SECONDS,
        *arguments,
    )
    assert not shows(node, change.runs, unit)
    # The same on each node of the play.
    assert {check.what for check in failures(nodes.service)} == {f"{unit} runs with what is on the disk"}
    nodes.play(*arguments)
    assert shows(node, change.runs, unit)
    assert output(node, f"{COMPARE} {unit}") == ""
