"""A power cut of the machine with Kafka and PostgreSQL takes nothing that was acknowledged.

Not as those of a local node, whose kernel lives on and writes what it holds: here the kernel's own memory is
gone. What a broker loses that leaves writing to the kernel (`kafka_flush_messages: 0`) is only reported.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from pathlib import Path

import node_programs
import pytest
from disturbed import failures
from ledgers import COMMAND, ENVIRONMENT, Ledger, check, reach

from cli.inventory import Host, Service
from scripts.vagrant import host

TOPIC = "timestamp.command.v1"
# An emulated machine boots for a minute or two, and so does Kafka after that.
WELL_SECONDS = 1200.0
COMMAND_SECONDS = 600.0
RATE = 20.0
# Less than the half minute after which the kernel writes to the disk by itself.
BEFORE_SECONDS = 20.0
NEVER = 2**63 - 1


def on(node: Host, command: str) -> str:
    """Return what a command on a node prints; it must succeed."""
    done = node.run(command, timeout=COMMAND_SECONDS)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def flush_after(db: Host, messages: int) -> None:
    """Set after how many messages the topic is written to the disk, as role kafka does."""
    on(
        db,
        "sudo /opt/kafka/current/bin/kafka-configs.sh --command-config /etc/kafka/admin.properties"
        f" --bootstrap-server {db.address}:9092 --entity-type topics --entity-name timestamp.command.v1"
        f" --alter --add-config flush.messages={messages or NEVER}",
    )


def log_ids(web: Host, broker: str) -> set[str]:
    """Return the ids in the whole log."""
    said = on(web, f"sudo sh -c {shlex.quote(node_programs.command('read_topic.py', broker, TOPIC))}")
    return {message["key"] for message in json.loads(said)}


def acknowledged(ledger: Path) -> set[str]:
    """Return the ids that a ledger holds."""
    lines = ledger.read_text().splitlines(keepends=True)[1:]
    # The last one may be half written.
    return {line.split()[0] for line in lines if line.endswith("\n")}


@pytest.mark.parametrize("messages", [1, 0])
def test_power_cut(service: Service, domain: str, messages: int, tmp_path: Path) -> None:
    db, web = (next(node for node in service.nodes if group in node.groups) for group in ("kafka", "web"))
    flush_after(db, messages)
    assert host.until(lambda: not failures(service), WELL_SECONDS), failures(service)
    ledger = Ledger.start(service, tmp_path / "ledger", RATE, "--give-up", "1800", "--drain", "300")
    try:
        assert host.until(lambda: ledger.acknowledged() > 0, 120), "nothing is acknowledged"
        time.sleep(BEFORE_SECONDS)
        host.virsh("destroy", domain)
        cut = time.monotonic()
        before = acknowledged(ledger.file)
        host.virsh("start", domain)
        assert host.until(lambda: not failures(service), WELL_SECONDS), failures(service)
        seconds = time.monotonic() - cut
        summary = ledger.stop()
    finally:
        ledger.kill()
    lost = before - log_ids(web, f"{db.address}:9092")
    done = subprocess.run(
        [*COMMAND, "check", *reach(service), "--ledger", str(ledger.file), "--wait", "300"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    rows = json.loads(done.stdout)
    print(
        f"\nkafka_flush_messages: {messages}: of {len(before)} records acknowledged before the cut the log"
        f" lost {len(lost)}, of all {summary['acknowledged']} the table lost {rows['lost']}; recovered after"
        f" {seconds:.0f} s"
    )
    assert len(before) > RATE * BEFORE_SECONDS / 4, "there was no load to speak of"
    if messages:
        assert lost == set()
        assert check(service, ledger.file)["lost"] == 0
