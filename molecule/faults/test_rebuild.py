"""The database is rebuilt from the log, whatever was lost of it, while records come in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbed import failures, run, until
from ledgers import Pair
from nodes import Nodes, check_hardened

PLAY = "playbooks/rebuild.yml"
BEFORE_SECONDS = 4.0
WELL_SECONDS = 60.0
PROOF = re.compile(r"(\d+) messages = (\d+) rows \+ (\d+) duplicates \+ (\d+) dead letters")
CHECKSUM = re.compile(r"checksum of the log ([0-9a-f]{16}) = checksum of the table ([0-9a-f]{16})")


def truncate(nodes: Nodes) -> None:
    """Empty the table."""
    run(
        nodes.db, "runuser --user=postgres -- psql --dbname=timestamps --command='TRUNCATE timestamp_records'"
    )


def drop(nodes: Nodes) -> None:
    """Drop the database with all that is connected to it."""
    run(nodes.db, "runuser --user=postgres -- psql --command='DROP DATABASE timestamps WITH (FORCE)'")


def lose(nodes: Nodes) -> None:
    """Lose all files of PostgreSQL while it runs."""
    run(nodes.db, "find /var/lib/postgresql -mindepth 1 -delete")


def keep(_nodes: Nodes) -> None:
    """Lose nothing."""


def rebuild(nodes: Nodes) -> int:
    """Rebuild; returns how many rows the proof counted."""
    said = nodes.play(PLAY)
    proof, checksum = PROOF.search(said), CHECKSUM.search(said)
    assert proof, said[-3000:]
    assert checksum, said[-3000:]
    messages, rows, duplicates, dead_letters = (int(figure) for figure in proof.groups())
    assert messages == rows + duplicates + dead_letters
    assert checksum[1] == checksum[2]
    return rows


DISASTERS = [pytest.param(truncate, marks=pytest.mark.short), drop, lose, keep]


@pytest.mark.parametrize("disaster", DISASTERS, ids=lambda one: one.__name__)
def test_all_records_come_back(
    nodes: Nodes, disaster: Callable[[Nodes], None], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rate = request.config.getoption("--ledger-rate")
    # Where nothing is lost, the old rows are read all the while.
    gets = ("--get-rate", "50", "--get-age", "2") if disaster is keep else ()
    pair = Pair.start(nodes.service, tmp_path, rate, *gets)
    try:
        assert until(lambda: pair.acknowledged() > 0, 30)
        time.sleep(BEFORE_SECONDS)
        before = pair.acknowledged()
        disaster(nodes)
        rows = rebuild(nodes)
        summaries = pair.stop()
    finally:
        pair.kill()
    assert until(lambda: not failures(nodes.service), WELL_SECONDS), failures(nodes.service)
    pair.check()
    assert rows >= before > rate * BEFORE_SECONDS / 2
    check_hardened(nodes.web, "timestamp-rebuild.service")
    # Recording does not need the database, and reading does not notice the swap.
    for summary in summaries:
        assert (summary["post"]["errors"], summary["get"]["errors"]) == ({}, {})


def test_a_refusal_shows_why_and_changes_nothing(nodes: Nodes) -> None:
    insert = "INSERT INTO timestamp_records VALUES (gen_random_uuid(), now(), 0, now())"
    run(nodes.db, f"runuser --user=postgres -- psql timestamps --command='{insert}'")
    with pytest.raises(AssertionError, match="records that the log does not have"):
        nodes.play(PLAY)
    run(nodes.web, "systemctl reset-failed timestamp-rebuild.service")
    assert failures(nodes.service) == []
    nodes.play(PLAY, "-e", "timestamp_consumer_rebuild_drop_unknown=true")
