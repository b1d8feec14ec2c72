"""A dry run on nodes that are set up, as talkative as they come: it reports no change, and says no secret."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cli.inventory import PROJECT, Service, environment, tool

INVENTORY = os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "molecule/shared/inventory"))


def secrets(service: Service) -> list[str]:
    """Return every password of the inventory, and a line of each key."""
    passwords = [path.read_text().strip() for path in service.secrets_folder.glob("*_password")]
    keys = [path.read_text().splitlines()[1] for path in service.secrets_folder.glob("certificates/*.key")]
    assert len(passwords) >= 6
    assert len(keys) >= 3
    return passwords + keys


def shown(service: Service, needles: list[str]) -> list[str]:
    """Search arguments and environments of all processes, here and on the nodes; returns where one is."""
    search = (
        "cat > /dev/shm/needles; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null"
        " | tr '\\0' '\\n' | grep --text --quiet --fixed-strings --file=/dev/shm/needles;"
        " status=$?; rm -f /dev/shm/needles; exit $status"
    )
    places = [("here", ("sh", "-c"))] + [
        (node.name, (*node.ssh, "-o", "BatchMode=yes")) for node in service.nodes
    ]
    text = "\n".join(needles) + "\n"
    codes = {
        name: subprocess.run([*command, search], input=text, text=True, check=False).returncode
        for name, command in places
    }
    # 1 is what grep says when it finds nothing; anything else than 0 and 1 would be a search that was none.
    assert set(codes.values()) <= {0, 1}, codes
    return [name for name, code in codes.items() if code == 0]


def test_search_finds_what_is_there(service: Service) -> None:
    sleeping = subprocess.Popen(["sh", "-c", "sleep 20; : a-needle-in-this-haystack"])
    try:
        assert shown(service, ["a-needle-in-this-haystack"]) == ["here"]
    finally:
        sleeping.kill()
        sleeping.wait()


def test_dry_run_reports_no_change_and_says_no_secret(service: Service, tmp_path: Path) -> None:
    needles = secrets(service)
    said = tmp_path / "said"
    with said.open("w") as file:
        running = subprocess.Popen(
            [tool("ansible-playbook"), "-i", INVENTORY, "--check", "--diff", "-vvv", "site.yml"],
            stdin=subprocess.DEVNULL,
            cwd=PROJECT,
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        searches = 0
        while running.poll() is None:
            assert shown(service, needles) == []
            searches += 1
    output = said.read_text()
    assert running.returncode == 0, output[-3000:]
    assert searches > 3
    assert [secret[:4] for secret in needles if secret in output] == []
    recap = [line for line in output.splitlines() if " changed=" in line]
    assert recap
    assert all(" changed=0 " in line for line in recap), recap
