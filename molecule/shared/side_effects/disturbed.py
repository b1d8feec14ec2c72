"""Commands on nodes that are disturbed, and waiting until they are healthy again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from cli.checks import Check
from cli.diagnose import diagnose
from cli.inventory import PROJECT, Host, Service, environment, tool

BOOT_SECONDS = 90.0


def ask(node: Host, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a node; it may fail, and the node may be away."""
    return node.run(command, timeout=60)


def run(node: Host, command: str) -> None:
    """Run a command on a node; it must succeed."""
    done = ask(node, command)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def failures(service: Service) -> list[Check]:
    """Return the checks of `make diagnose` that fail."""
    return [check for check in diagnose(service) if not check.passed]


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; returns whether it did in time."""
    end = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.5)
    return held


def boot(node: Host) -> str:
    """Return which boot of a node answers; empty while none does."""
    said = ask(node, "systemctl show --property=UserspaceTimestampMonotonic")
    return said.stdout if said.returncode == 0 else ""


def reboot(node: Host) -> None:
    """Reboot a node, and return when it answers from its new boot."""
    before = boot(node)
    assert before
    run(node, "systemctl --no-block reboot")
    assert until(lambda: boot(node) not in ("", before), BOOT_SECONDS), f"{node.name} does not come back"


def _play(inventory: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    environs = environment({"ANSIBLE_ROLES_PATH": str(PROJECT / "roles"), "ANSIBLE_NOCOLOR": "1"})
    return [tool("ansible-playbook"), "-i", inventory, *arguments], environs


def try_play(inventory: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook on an inventory, with the project's roles; it may fail."""
    command, environs = _play(inventory, arguments)
    return subprocess.run(
        command,
        cwd=PROJECT,
        env=environs,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def break_play_off(inventory: str, when: Callable[[], bool], seconds: float, *arguments: str) -> None:
    """Run ansible-playbook on an inventory, and kill it with all its children once a condition holds."""
    command, environs = _play(inventory, arguments)
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environs,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as playing:
        try:
            held = until(lambda: when() or playing.poll() is not None, seconds)
        finally:
            # The session's id is that of its first process.
            os.killpg(playing.pid, signal.SIGKILL)
    assert held, f"not within {seconds:.0f} s"
    assert playing.returncode == -signal.SIGKILL, "the play ended before"
