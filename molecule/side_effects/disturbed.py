"""Commands on nodes that are disturbed, and waiting until all is well again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import diagnose
from diagnose import Check
from inventory import Host, Service


def ask(node: Host, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a node; it may fail, and the node may be away."""
    return subprocess.run(
        [*node.ssh, "-o", "BatchMode=yes", command], capture_output=True, text=True, timeout=60, check=False
    )


def run(node: Host, command: str) -> None:
    """Run a command on a node; it must succeed."""
    done = ask(node, command)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def failures(service: Service) -> list[Check]:
    """Return the checks of `make diagnose` that fail."""
    return [check for check in diagnose.diagnose(service) if not check.passed]


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; returns whether it did in time."""
    end = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.5)
    return held
