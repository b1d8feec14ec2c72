"""Runs playbooks for the commands that change the local nodes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from cli.inventory import PROJECT, environment, tool


def become_options() -> list[str]:
    """Return the option that asks for sudo's password, where one is needed.

    Ansible cannot use a password that sudo remembers for this terminal, so that one does not count.
    """
    if (
        os.geteuid() == 0
        or subprocess.run(["sudo", "-k", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return []
    return ["--ask-become-pass"]


def play(inventory: str, playbook: str, options: Sequence[str] = ()) -> int:
    """Run a playbook; only changes and failures are shown, unless V=1 is in the environment."""
    quiet = {"ANSIBLE_DISPLAY_OK_HOSTS": "0", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0"}
    command = [tool("ansible-playbook"), "-i", inventory, *options, playbook]
    extra = {} if os.environ.get("V") == "1" else quiet
    return subprocess.run(command, cwd=PROJECT, env=environment(extra), check=False).returncode
