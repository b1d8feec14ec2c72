"""A release takes the place of another, and it is gone back, without a failed request: the ledger judges."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disturbed import ask, break_play_off, run
from ledgers import recording
from nodes import COMMAND, CONSUMER, QUERY, Nodes, main_process, output

from cli.inventory import PROJECT

DEPLOY, ROLLBACK = "playbooks/deploy.yml", "playbooks/rollback.yml"
SECONDS_AROUND = 3.0
READY_SECONDS = 40
STEP_SECONDS = 180


def changed(folder: Path, version: str, *replacements: tuple[str, str, str]) -> str:
    """Make a copy of the application with another version and texts of files replaced; returns the option."""
    shutil.copytree(
        PROJECT / "app", folder, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    for name, old, new in (("__init__.py", '__version__ = "', f'__version__ = "{version}+'), *replacements):
        file = folder / "timestamp_service" / name
        text = file.read_text()
        assert old in text, name
        file.write_text(text.replace(old, new, 1))
    return f"--extra-vars=timestamp_release_source={folder}"


def current(nodes: Nodes) -> str:
    """Return the name of the current release."""
    return output(nodes.web, 'basename "$(readlink /opt/timestamp-service/current)"')


def check_runs(nodes: Nodes, release: str) -> None:
    """Check that all units run a release, that nginx finds them, and that nothing is left beside them."""
    assert current(nodes) == release
    for unit in (COMMAND, CONSUMER, QUERY):
        line = output(nodes.web, f"tr '\\0' ' ' < /proc/{main_process(nodes.web, unit)}/cmdline")
        assert f"/releases/{release}/" in line
    for name in ("command", "query"):
        link = output(nodes.web, f"readlink /run/timestamp-service/nginx/{name}.sock")
        assert link == f"/run/timestamp-service/{name}.sock"
    assert output(nodes.web, "systemctl list-units --all --no-legend 'timestamp-*-next.*'") == ""
    assert output(nodes.web, "ls -A /run/timestamp-service").split() == [
        "command.sock",
        "nginx",
        "query.sock",
    ]


def check_unchanged(said: str) -> None:
    """Check that a play changed nothing."""
    recap = said.rpartition("PLAY RECAP")[2]
    assert "changed=0" in recap
    assert "changed=" not in recap.replace("changed=0 ", "")


@contextmanager
def no_failed_request(nodes: Nodes, folder: Path, rate: float) -> Iterator[None]:
    """Record and read all the while: each request succeeds when it is sent first, and nothing is lost."""
    with recording(nodes.service, folder, rate, SECONDS_AROUND) as pair:
        yield
    assert sum(summary["acknowledged"] for summary in pair.summaries) > rate * SECONDS_AROUND
    for summary in pair.summaries:
        assert summary["get"]["succeeded"] > 0
        assert (summary["post"]["errors"], summary["get"]["errors"]) == ({}, {})
    pair.check()


@pytest.fixture
def before(nodes: Nodes) -> Iterator[str]:
    """Give the release that runs, and see that it runs again afterwards."""
    release = current(nodes)
    yield release
    if current(nodes) != release:
        nodes.play(ROLLBACK, f"--extra-vars=rollback_release={release}")
    ask(nodes.web, "systemctl reset-failed")


@pytest.fixture
def rate(request: pytest.FixtureRequest) -> float:
    """Give the records a second."""
    records_per_second: float = request.config.getoption("--ledger-rate")
    return records_per_second


@pytest.mark.short
def test_no_request_fails(nodes: Nodes, before: str, tmp_path: Path, rate: float) -> None:
    source = changed(tmp_path / "app", "2")
    with no_failed_request(nodes, tmp_path, rate):
        nodes.play(DEPLOY, source)
        release = current(nodes)
        assert release.startswith("2+")
        check_runs(nodes, release)
        nodes.play(ROLLBACK)
        check_runs(nodes, before)
    # There and not back again: the release that was left must be named.
    refused = nodes.try_play(ROLLBACK)
    assert refused.returncode != 0
    said = " ".join((refused.stdout + refused.stderr).split())
    assert "It is not clear which release to return to" in said
    assert f"runs {before} and before that an unknown one" in said
    assert release in said


def test_a_changed_setting_takes_the_same_way(nodes: Nodes, tmp_path: Path, rate: float) -> None:
    def level() -> str:
        environment = f"/proc/{main_process(nodes.web, QUERY)}/environ"
        return output(nodes.web, f"tr '\\0' '\\n' < {environment} | sed -n 's/^LOG_LEVEL=//p'")

    release, before = current(nodes), level()
    with no_failed_request(nodes, tmp_path, rate):
        nodes.play("site.yml", "--tags=timestamp", "--extra-vars=timestamp_query_log_level=warning")
        assert level() == "warning"
        check_runs(nodes, release)
        nodes.play("site.yml", "--tags=timestamp")
        assert level() == before
        check_runs(nodes, release)


def test_a_migration_works_while_the_release_before_runs(
    nodes: Nodes, before: str, tmp_path: Path, rate: float
) -> None:
    source = changed(
        tmp_path / "app",
        "3",
        (
            "database/schema.py",
            "CREATE INDEX",
            "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS note text;\nCREATE INDEX",
        ),
        (
            "database/schema.py",
            """f"SELECT to_regclass('{TABLE}') IS NOT NULL\"""",
            """f"SELECT EXISTS (SELECT FROM pg_attribute"""
            """ WHERE attrelid = to_regclass('{TABLE}') AND attname = 'note')\"""",
        ),
        # It is ready only with the new column, as a release that reads it would be.
        (
            "query/reader.py",
            "WHERE id = ANY",
            "WHERE note IS NULL AND id = ANY",
        ),
    )
    psql = "runuser --user=postgres -- psql --dbname=timestamps --tuples-only --no-align --command"
    try:
        with no_failed_request(nodes, tmp_path, rate):
            nodes.play(DEPLOY, source)
            release = current(nodes)
            check_runs(nodes, release)
            there = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'timestamp_records'::regclass"
            assert output(nodes.db, f"{psql} \"{there} AND attname = 'note'\"") == "1"
            check_unchanged(nodes.play(DEPLOY, source))
            check_unchanged(nodes.play("site.yml", source))
            nodes.play(ROLLBACK)
            check_runs(nodes, before)
    finally:
        run(nodes.db, f"{psql} 'ALTER TABLE timestamp_records DROP COLUMN IF EXISTS note'")


# What is there on the node when the deployment breaks off.
STEPS = {
    "beside": "systemctl is-active timestamp-command-next.service",
    "handed-over": "readlink /run/timestamp-service/nginx/query.sock | grep -- -next",
    "in-its-place": "readlink /opt/timestamp-service/current | grep /5+",
}


@pytest.mark.parametrize("step", STEPS)
def test_one_that_was_broken_off_is_put_in_order(
    nodes: Nodes, before: str, tmp_path: Path, rate: float, step: str
) -> None:
    source = changed(tmp_path / "app", "5")
    with no_failed_request(nodes, tmp_path, rate):
        break_play_off(
            nodes.inventory,
            lambda: ask(nodes.web, STEPS[step]).returncode == 0,
            STEP_SECONDS,
            DEPLOY,
            source,
        )
        # What serves now goes on by itself.
        time.sleep(SECONDS_AROUND)
        nodes.play(DEPLOY, source)
        release = current(nodes)
        assert release.startswith("5+")
        check_runs(nodes, release)
        nodes.play(ROLLBACK, f"--extra-vars=rollback_release={before}")
        check_runs(nodes, before)


BROKEN = {
    "crashes": ("command/api.py", "SERVICE = ", 'raise RuntimeError("broken on purpose")\nSERVICE = '),
    "is-never-ready": (
        "query/api.py",
        'return "database" if self._reader is None',
        'return "part that is broken on purpose" if True',
    ),
    "crashes-in-its-place": (
        "consumer/main.py",
        "    state = State()",
        '    state = State()\n    if config.server.port == 7081:\n        raise OSError("broken on purpose")',
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_release_is_not_deployed(
    nodes: Nodes, before: str, tmp_path: Path, rate: float, how: str
) -> None:
    source = changed(tmp_path / "app", "4", BROKEN[how])
    with no_failed_request(nodes, tmp_path, rate):
        refused = nodes.try_play(DEPLOY, source, f"--extra-vars=timestamp_unit_ready_seconds={READY_SECONDS}")
        assert refused.returncode != 0
        why = refused.stdout.partition(f"was not deployed; {before} still runs")[2]
        assert "the end of its journal" in why
        assert "broken on purpose" in why
        check_runs(nodes, before)
