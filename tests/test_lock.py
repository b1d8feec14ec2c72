"""A play locks the nodes for as long as its process lives; another one is told who has them.

The role runs for hosts that are this computer. A play that takes time waits for a file.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import load_module

import playbooks

PROJECT = Path(__file__).resolve().parents[1]
node_lock = load_module("lock", "node_lock", "action_plugins")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the role, whose lock has a name of its own, and plays that take it."""
    shutil.copytree(PROJECT / "roles/lock", tmp_path / "roles/lock")
    tasks = tmp_path / "roles/lock/tasks/main.yml"
    assert tasks.read_text().count("default('timestamp-service')") == 2
    tasks.write_text(tasks.read_text().replace("timestamp-service'", f"{tmp_path}'"))
    lock = {"hosts": "all", "gather_facts": False, "any_errors_fatal": True, "roles": ["lock"]}
    wait = {"ansible.builtin.wait_for": {"path": str(tmp_path / "go"), "timeout": 60}}
    touch = {"ansible.builtin.file": {"path": str(tmp_path / "locked"), "state": "touch"}}
    (tmp_path / "once.yml").write_text(yaml.safe_dump([lock]))
    other = {**lock, "vars": {"lock_name": f"{tmp_path}/other"}}
    (tmp_path / "other.yml").write_text(yaml.safe_dump([other]))
    # As restore.yml imports rebuild.yml, which locks the nodes again.
    (tmp_path / "waits.yml").write_text(yaml.safe_dump([lock, {**lock, "tasks": [touch, wait]}]))
    (tmp_path / "fails.yml").write_text(yaml.safe_dump([{**lock, "tasks": [{"ansible.builtin.fail": {}}]}]))
    (tmp_path / "ansible.cfg").touch()
    return tmp_path


def play(folder: Path, book: str, *options: str) -> subprocess.Popen[str]:
    arguments = ("--inventory=one,two,", *playbooks.LOCAL, *options, book)
    process = playbooks.process(*arguments, folder=folder, ANSIBLE_CONFIG=str(folder / "ansible.cfg"))
    return subprocess.Popen(**process, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(folder: Path, book: str, *options: str) -> tuple[int, str]:
    """Run a play to its end; returns its status and what it said."""
    process = play(folder, book, *options)
    said = " ".join(process.communicate()[0].split())
    return process.returncode, said


@pytest.fixture
def waiting(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Have a play that holds the lock until the file `go` is there."""
    process = play(folder, "waits.yml")
    while not (folder / "locked").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    yield process
    process.kill()
    process.wait()


def test_another_play_is_told_who_has_the_lock_until_the_first_ends(
    folder: Path, waiting: subprocess.Popen[str]
) -> None:
    status, said = run(folder, "once.yml")
    assert status != 0
    assert "This node is locked by " in said
    assert f"@{os.uname().nodename} since {node_lock.started(waiting.pid)} for waits.yml" in said
    assert f"(process {waiting.pid} there)" in said
    assert "run on the node: kill " in said
    # The first node alone was asked.
    assert "fatal: [two]" not in said
    (folder / "go").touch()
    output = waiting.communicate()[0]
    assert waiting.returncode == 0, output
    assert run(folder, "once.yml")[0] == 0


@pytest.mark.usefixtures("waiting")
def test_another_lock_is_free_meanwhile(folder: Path) -> None:
    assert run(folder, "other.yml")[0] == 0


@pytest.mark.usefixtures("waiting")
def test_lock_is_broken_by_the_command_that_is_named(folder: Path) -> None:
    # A dry run neither takes the lock nor asks for it.
    assert run(folder, "once.yml", "--check")[0] == 0
    said = run(folder, "once.yml")[1]
    match = re.search(r"run on the node: kill (\d+)", said)
    assert match, said
    os.kill(int(match[1]), signal.SIGTERM)
    assert run(folder, "once.yml")[0] == 0


def test_play_that_is_killed_gives_the_lock_free(folder: Path, waiting: subprocess.Popen[str]) -> None:
    waiting.kill()
    waiting.wait()
    assert run(folder, "once.yml")[0] == 0


def test_play_that_fails_gives_the_lock_free(folder: Path) -> None:
    assert run(folder, "fails.yml")[0] != 0
    assert run(folder, "once.yml")[0] == 0


def test_node_that_hears_no_more_gives_the_lock_free(tmp_path: Path) -> None:
    """The connection is cut off, but nobody told the node."""
    hold = node_lock.HOLD.replace(f"[], [], {node_lock.SILENCE})", "[], [], 1)")
    assert hold != node_lock.HOLD
    command = [sys.executable, "-c", hold, str(tmp_path), "somebody"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        assert holder.wait(timeout=30) == 0


def test_every_play_that_changes_nodes_locks_them() -> None:
    """Those for this computer's machines have no nodes yet, or erase them."""
    books = {path.name: yaml.safe_load(path.read_text()) for path in (PROJECT / "playbooks").glob("*.yml")}
    imports = {
        name: [part.get("ansible.builtin.import_playbook") for part in plays] for name, plays in books.items()
    }
    parts: set[str | None] = set().union(*imports.values())
    for name, plays in books.items():
        changes = any(str(part.get("hosts", "localhost")).split("[")[0] != "localhost" for part in plays)
        # The whole of it is a part of another one too.
        if changes and (name not in parts or name == "site.yml"):
            assert imports[name][0] == "preflight.yml", name
    assert parts - {None} == {
        "acme.yml",
        "apply.yml",
        "certificates.yml",
        "next_authority.yml",
        "preflight.yml",
        "nodes.yml",
        "host_conflicts.yml",
        "clusters.yml",
        "database.yml",
        "secrets.yml",
        "summary.yml",
        "rebuild.yml",
        "site.yml",
    }
    assert imports["rebuild.yml"][0] == "preflight.yml"
    preflight = yaml.safe_load((PROJECT / "playbooks/preflight.yml").read_text())
    roles = [task.get("ansible.builtin.import_role", {}) for part in preflight for task in part["tasks"]]
    assert "lock" in [role.get("name") for role in roles]
