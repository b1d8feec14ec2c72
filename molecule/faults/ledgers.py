"""Runs `timestamp-ledger` against the nodes, and has it judge: through the query API and in the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disturbed import until

from cli.inventory import PROJECT, Service

COMMAND = [sys.executable, "-m", "timestamp_service.ledger"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT / "app")}
# The release's own command, by the settings and the secret of the query API.
ON_THE_NODE = (
    "systemd-run --quiet --pipe --wait"
    " --property=EnvironmentFile=/etc/timestamp-service/timestamp-query.env"
    " --setenv=DB_PASSWORD_FILE=/etc/timestamp-service/timestamp-query.db_password_file"
    " /opt/timestamp-service/current/venv/bin/timestamp-ledger check --database --ledger -"
)
# A summary needs what is under way to end, and then the counts to be printed.
STOP_SECONDS = 60.0
# In which a database that was away has caught up.
BEHIND_SECONDS = 60


@dataclass
class Ledger:
    """A ledger that is being written."""

    service: Service
    file: Path
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, service: Service, file: Path, rate: float, *options: str) -> Ledger:
        """Begin to record at a rate; further options are those of `timestamp-ledger run`."""
        command = [*COMMAND, "run", *reach(service), "--ledger", str(file), "--rate", str(rate), *options]
        said = file.with_suffix(".said")
        with said.open("w") as errors:
            process = subprocess.Popen(
                command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        return cls(service, file, process)

    def acknowledged(self) -> int:
        """Return how many records are acknowledged so far."""
        return max(0, self.file.read_bytes().count(b"\n") - 1) if self.file.exists() else 0

    def stop(self) -> dict[str, Any]:
        """Send nothing new, and return the summary; an answer that was wrong fails."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=STOP_SECONDS)
        said = self.file.with_suffix(".said").read_text()
        assert self.process.returncode == 0, f"{output}\n{said[-3000:]}"
        summary: dict[str, Any] = json.loads(output)
        return summary

    def kill(self) -> None:
        """End it at once, should it still run."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@dataclass
class Pair:
    """Two ledgers side by side: nearly all requests have no key, and those with one take another path.

    `summaries` has both once they have ended.
    """

    ledgers: tuple[Ledger, Ledger]
    summaries: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls, service: Service, folder: Path, rate: float, *options: str) -> Pair:
        """Begin to record, each with half of a rate."""
        keyed = Ledger.start(service, folder / "with-keys", rate / 2, *options)
        return cls(
            (keyed, Ledger.start(service, folder / "without-keys", rate / 2, "--without-keys", *options))
        )

    def acknowledged(self) -> int:
        """Return how many records are acknowledged so far."""
        return sum(ledger.acknowledged() for ledger in self.ledgers)

    def stop(self) -> list[dict[str, Any]]:
        """Send nothing new, and return both summaries; an answer that was wrong fails."""
        self.summaries = [ledger.stop() for ledger in self.ledgers]
        return self.summaries

    def kill(self) -> None:
        """End both at once, should they still run."""
        for ledger in self.ledgers:
            ledger.kill()

    def check(self) -> list[dict[str, int]]:
        """Judge both by the query API and in the table, which must agree; returns the counts."""
        counts = [check(ledger.service, ledger.file) for ledger in self.ledgers]
        for ledger, count in zip(self.ledgers, counts, strict=True):
            assert check_table(ledger.service, ledger.file, "--wait", str(BEHIND_SECONDS)) == count
        return counts


@contextmanager
def recording(service: Service, folder: Path, rate: float, around_seconds: float) -> Iterator[Pair]:
    """Record and read while something is done, and some seconds before and after it."""
    pair = Pair.start(service, folder, rate, "--get-rate", "50", "--get-age", "5")
    try:
        assert until(lambda: pair.acknowledged() > 0, 30)
        time.sleep(around_seconds)
        yield pair
        time.sleep(around_seconds)
        pair.stop()
    finally:
        pair.kill()


def reach(service: Service) -> list[str]:
    """Return the options by which the ledger reaches a service."""
    return ["--url", service.url, "--ca", str(service.certificate_authority)]


def check(service: Service, file: Path, *options: str) -> dict[str, int]:
    """Judge by the query API; returns the counts, and fails with the list of what is wrong."""
    command = [*COMMAND, "check", *reach(service), "--ledger", str(file), *options]
    return verdict(
        subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    )


def check_table(service: Service, file: Path, *options: str) -> dict[str, int]:
    """Judge by the table of each database, on the web node; they must agree.

    Returns the counts, and fails with the list of what is wrong.
    """
    web = next(node for node in service.nodes if "web" in node.groups)
    command = [*web.ssh, "-o", "BatchMode=yes", " ".join([ON_THE_NODE, *options])]
    with file.open() as held:
        return verdict(
            subprocess.run(command, stdin=held, capture_output=True, text=True, timeout=300, check=False)
        )


def verdict(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return the counts of a check without an error, which are those of each database."""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    counts: list[dict[str, int]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert counts == counts[:1] * len(counts)
    return counts[0]
