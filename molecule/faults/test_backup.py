"""The golden record is saved under load, lost wholly, and comes back as it was; the ledger judges."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import ledgers
import pytest
from disturbed import ask, break_play_off, failures, reboot, run, until
from ledgers import Ledger
from nodes import (
    COMMAND,
    CONSUMER,
    KAFKA,
    NGINX,
    Nodes,
    broker,
    check_hardened,
    output,
    run_program,
)

LOAD_SECONDS = 4.0
WELL_SECONDS = 90.0
RESTORE = "timestamp-restore.service"
RESTORE_SECONDS = 600
SAVED = re.compile(r"(\d+) messages saved in (\d+) new files; (\d+) in all")
PROOF = re.compile(r"(\d+) messages = (\d+) rows")
RESTORED = re.compile(r"(\d+) messages restored and compared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the backup on the controller."""
    return tmp_path_factory.mktemp("backup") / "folder"


@pytest.fixture(scope="module")
def ledger_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger") / "ledger"


@pytest.fixture
def load(nodes: Nodes, ledger_file: Path, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """Record while the test goes on."""
    ledger = Ledger.start(nodes.service, ledger_file, request.config.getoption("--ledger-rate"))
    try:
        assert until(lambda: ledger.acknowledged() > 0, 30)
        time.sleep(LOAD_SECONDS)
        yield ledger
    finally:
        ledger.kill()


def save(nodes: Nodes, folder: Path) -> tuple[int, int]:
    """Save; returns how many messages were new, and how many the backup has."""
    said = SAVED.search(nodes.play("playbooks/backup.yml", "-e", f"timestamp_backup_folder={folder}"))
    assert said
    return int(said[1]), int(said[3])


@pytest.mark.short
def test_it_is_saved_while_records_come_in(nodes: Nodes, folder: Path, load: Ledger) -> None:
    new, total = save(nodes, folder)
    assert new == total >= LOAD_SECONDS
    summary = load.stop()
    assert summary["post"]["errors"] == {}
    # All that is acknowledged by now.
    more, total = save(nodes, folder)
    assert more > 0
    assert total == new + more
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert {path.name for path in folder.glob("*.gz")} == {file["name"] for file in listed}
    assert sum(file["next"] - file["first"] for file in listed) == total
    check_hardened(nodes.web, "timestamp-backup.service")
    # Nothing stays on the node.
    assert ask(nodes.web, "ls /var/lib/private/timestamp-backup").returncode != 0


@pytest.mark.short
def test_who_saves_may_only_read(nodes: Nodes) -> None:
    answers = run_program(nodes, "kafka_client.py", broker(nodes), "saver")
    assert answers["backup writes"] == "TOPIC_AUTHORIZATION_FAILED"
    # Nobody but the restore needs its password on a node.
    assert ask(nodes.web, "ls /etc/timestamp-service/timestamp-restore.kafka_password_file").returncode != 0


def test_a_log_that_is_there_is_never_restored_over(nodes: Nodes, folder: Path) -> None:
    _, before = save(nodes, folder)
    with pytest.raises(AssertionError, match="is not empty"):
        nodes.play("playbooks/restore.yml", "-e", f"timestamp_backup_folder={folder}")
    run(nodes.web, "systemctl reset-failed timestamp-restore.service")
    # The service goes on, and the log is as it was.
    assert until(lambda: not failures(nodes.service), WELL_SECONDS), failures(nodes.service)
    _, after = save(nodes, folder)
    assert after > before


def break_restore_off(nodes: Nodes, restore: tuple[str, ...]) -> None:
    """Kill a restore while it runs, and boot the web node: nothing may write to the half full topics."""
    break_play_off(
        nodes.inventory,
        lambda: ask(nodes.web, f"systemctl is-active {RESTORE}").returncode == 0,
        RESTORE_SECONDS,
        *restore,
    )
    run(nodes.web, f"systemctl kill --signal=KILL {RESTORE}")
    reboot(nodes.web)
    assert until(lambda: ask(nodes.web, f"systemctl is-active {NGINX}").returncode == 0, WELL_SECONDS)
    for unit in (COMMAND, CONSUMER):
        run(nodes.web, f"systemctl start {unit}")
        state = output(nodes.web, f"systemctl show --property=ActiveState --property=ConditionResult {unit}")
        assert state.split() == ["ActiveState=inactive", "ConditionResult=no"], unit


@pytest.mark.parametrize("interrupted", [False, True], ids=["at once", "after it was broken off"])
def test_all_comes_back_after_the_node_has_lost_everything(
    nodes: Nodes, folder: Path, ledger_file: Path, interrupted: bool
) -> None:
    counts = ledgers.check_table(nodes.service, ledger_file)
    _, total = save(nodes, folder)
    units = f"{KAFKA} {nodes.postgresql}"
    run(nodes.db, f"systemctl kill --signal=KILL {units}; systemctl stop {units}")
    run(nodes.db, "find /var/lib/kafka /var/lib/postgresql -mindepth 1 -delete")
    restore = ("playbooks/restore.yml", "-e", f"timestamp_backup_folder={folder}")
    if interrupted:
        break_restore_off(nodes, restore)

    said = nodes.play(*restore)

    restored, proof = RESTORED.search(said), PROOF.search(said)
    assert restored
    assert int(restored[1]) == total
    assert proof
    assert int(proof[1]) >= total - counts_of_letters(folder)
    assert until(lambda: not failures(nodes.service), WELL_SECONDS), failures(nodes.service)
    assert ledgers.check_table(nodes.service, ledger_file) == counts
    assert ledgers.check(nodes.service, ledger_file) == counts
    # It is the same log: the backup goes on with what has come since.
    new, after = save(nodes, folder)
    assert after == total + new


def counts_of_letters(folder: Path) -> int:
    """Return how many of the saved messages are dead letters."""
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    return sum(file["next"] - file["first"] for file in listed if file["topic"].endswith("dead-letter"))
