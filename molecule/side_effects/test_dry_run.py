"""A dry run on nodes that are set up, as talkative as they come: it reports no change, and says no secret."""

from __future__ import annotations

import os
import subprocess

from inventory import PROJECT, Service, environment, tool

INVENTORY = os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "molecule/inventory"))


def secrets(service: Service) -> list[str]:
    """Return every password of the inventory, and a line of each key."""
    passwords = [path.read_text().strip() for path in service.secrets_folder.glob("*_password")]
    keys = [path.read_text().splitlines()[1] for path in service.secrets_folder.glob("certificates/*.key")]
    assert len(passwords) >= 6
    assert len(keys) >= 3
    return passwords + keys


def test_dry_run_reports_no_change_and_says_no_secret(service: Service) -> None:
    done = subprocess.run(
        [tool("ansible-playbook"), "-i", INVENTORY, "--check", "--diff", "-vvv", "site.yml"],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    assert [secret[:4] for secret in secrets(service) if secret in output] == []
    recap = [line for line in output.splitlines() if " changed=" in line]
    assert recap
    assert all(" changed=0 " in line for line in recap), recap
