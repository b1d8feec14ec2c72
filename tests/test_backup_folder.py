"""A backup's data files without their manifest are never overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: timestamp_backup
"""


def test_data_files_without_a_manifest_are_refused(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    name = f"timestamp.command.v1-0-{0:020d}.jsonl.gz"
    (backup / name).write_bytes(b"all that is left")
    play = tmp_path / "play.yml"
    play.write_text(PLAY)
    variables = [f"timestamp_backup_folder={backup}", "inventory_folder=/nowhere", "secrets_folder=/nowhere"]
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"),
            *("-i", "localhost,", "-c", "local"),
            *(word for variable in variables for word in ("-e", variable)),
            str(play),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(PROJECT / "roles"),
            "ANSIBLE_NOCOLOR": "1",
        },
    )
    assert done.returncode != 0
    assert "has files of a backup and no manifest.json" in " ".join(done.stdout.split()), done.stdout
    # It was refused before anything else was done.
    assert "changed=0" in done.stdout
    assert [path.name for path in backup.iterdir()] == [name]
