"""Runs ansible-playbook of this environment: by default with the project's settings, in its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
# For hosts that are this computer.
LOCAL = ("--connection=local", f"--extra-vars=ansible_python_interpreter={sys.executable}")


def process(*arguments: str, folder: Path = PROJECT, **settings: str) -> dict[str, Any]:
    """Return what subprocess.run and Popen take. `settings`: more of the environment, for Ansible."""
    environment = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **settings}
    return {
        "args": [str(Path(sys.executable).parent / "ansible-playbook"), *arguments],
        "cwd": folder,
        "text": True,
        "env": {**os.environ, **environment},
    }


def run(*arguments: str, folder: Path = PROJECT, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end; returns its status and what it said."""
    return subprocess.run(**process(*arguments, folder=folder, **settings), capture_output=True, check=False)


def on_one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return all that it said on one line, as Ansible breaks lines anywhere."""
    return " ".join((done.stdout + done.stderr).split())
