"""No secret stands where others may read it: journals, processes, settings; searched for by value."""

from __future__ import annotations

import subprocess

from conftest import service
from testinfra.host import Host

GROUP = "nodes"


def secrets() -> list[str]:
    """Return every password of the inventory, and a line of each key."""
    folder = service().secrets_folder
    passwords = [path.read_text().strip() for path in folder.glob("*_password")]
    keys = [path.read_text().splitlines()[1] for path in folder.glob("certificates/*.key")]
    assert len(passwords) >= 6
    assert len(keys) >= 3
    return passwords + keys


def search(node: Host, command: str) -> str:
    """Run a command whose output is searched on the node; the secrets themselves go by standard input."""
    ssh = next(one.ssh for one in service().nodes if one.name == node.check_output("hostname --fqdn"))
    done = subprocess.run(
        [*ssh, f"cat > /dev/shm/needles; {command}; rm -f /dev/shm/needles"],
        input="\n".join(secrets()) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_journal_holds_no_secret(node: Host) -> None:
    command = "journalctl --no-pager --output=cat | grep --count --fixed-strings --file=/dev/shm/needles"
    assert search(node, command).strip() == "0"


def test_no_process_shows_a_secret(node: Host) -> None:
    command = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' > /dev/shm/seen"
    count = "grep --count --text --fixed-strings --file=/dev/shm/needles /dev/shm/seen; rm -f /dev/shm/seen"
    assert search(node, f"{command}; {count}").strip() == "0"


def test_secrets_stand_only_in_files_that_few_may_read(node: Host) -> None:
    command = (
        "grep --recursive --files-with-matches --no-messages --devices=skip --fixed-strings"
        " --file=/dev/shm/needles /etc /opt/timestamp-service /usr/local /var/log /var/tmp /root /home"
    )
    for path in search(node, command).split():
        file = node.file(path)
        assert file.user == "root", path
        assert file.mode & 0o007 == 0, path
