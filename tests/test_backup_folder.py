"""A backup's data files without their manifest are never overwritten."""

from __future__ import annotations

from pathlib import Path

import playbooks

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
    done = playbooks.run(
        *("-i", "localhost,", "-c", "local"),
        *(word for variable in variables for word in ("-e", variable)),
        str(play),
        ANSIBLE_ROLES_PATH=str(PROJECT / "roles"),
    )
    assert done.returncode != 0
    assert "has files of a backup and no manifest.json" in " ".join(done.stdout.split()), done.stdout
    # It was refused before anything else was done.
    assert "changed=0" in done.stdout
    assert [path.name for path in backup.iterdir()] == [name]
