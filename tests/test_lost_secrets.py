"""Secrets that nodes were set up with and that the inventory has lost are never made anew by accident.

The real playbook runs for a node that is this computer; only the file that shows that it was set up before is
elsewhere.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import playbooks

PROJECT = Path(__file__).resolve().parents[1]
CONTRACT = yaml.safe_load((PROJECT / "roles/contract/vars/main.yml").read_text())
PASSWORDS = [f"{name}_password" for name in CONTRACT["contract_password_files"]]
FIXED = ["kafka_admin_password", "kafka_broker_password"]


@dataclass(frozen=True)
class Inventory:
    """An inventory of one node, with its secrets, and what that node trusts."""

    folder: Path

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def authority(self) -> Path:
        return self.secrets / "certificates/ca.crt"

    @property
    def trusted(self) -> Path:
        return self.folder / "node/ca.crt"

    def generate(self, *options: str) -> tuple[bool, str]:
        """Run the playbook; returns whether it succeeded, and what it said, on one line."""
        variables = {
            "secrets_folder": str(self.secrets),
            "certificates_folder": str(self.authority.parent),
            "contract_ca_file": str(self.trusted),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
        }
        self.folder.joinpath("hosts.yml").write_text(
            yaml.safe_dump(
                {
                    "all": {"vars": variables},
                    "ungrouped": {"hosts": {"localhost": {}}},
                    "nodes": {"hosts": {"one.example.internal": {}}},
                }
            )
        )
        done = playbooks.run(
            f"--inventory={self.folder / 'hosts.yml'}",
            f"--extra-vars=contract_ca_file={self.trusted}",
            *options,
            "playbooks/secrets.yml",
        )
        return done.returncode == 0, playbooks.on_one_line(done)

    def passwords(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.secrets.glob("*_password")}


@pytest.fixture
def new(tmp_path: Path) -> Inventory:
    """Give an inventory without secrets, of a node that was never set up."""
    return Inventory(tmp_path)


@pytest.fixture
def known(new: Inventory) -> Inventory:
    """Give an inventory with all its secrets, of a node that was set up with them."""
    new.authority.parent.mkdir(parents=True)
    new.secrets.chmod(0o700)
    new.trusted.parent.mkdir()
    for path in (new.authority, new.trusted):
        path.write_text("the certificate\n")
    for name in PASSWORDS:
        (new.secrets / name).write_text(f"{name}\n")
    return new


def test_new_node_gets_new_secrets(new: Inventory) -> None:
    succeeded, said = new.generate()
    assert succeeded, said
    assert sorted(new.passwords()) == sorted(PASSWORDS)


def test_nothing_is_made_where_all_is_there(known: Inventory) -> None:
    before = known.passwords()
    succeeded, said = known.generate()
    assert succeeded, said
    assert "changed=1" not in said
    assert known.passwords() == before


@pytest.mark.parametrize("lost", ["certificates/ca.crt", "kafka_backup_password"])
def test_lost_secret_of_a_node_stops_the_play(known: Inventory, lost: str) -> None:
    (known.secrets / lost).unlink()
    before = known.passwords()
    succeeded, said = known.generate()
    assert not succeeded
    assert f"Nothing was changed. Lost: - {known.secrets / lost} Bring them back" in said
    assert "-e secrets_replace=true" in said
    assert known.passwords() == before


def test_lost_folder_stops_the_play(known: Inventory) -> None:
    known.secrets.rename(known.folder / "elsewhere")
    succeeded, said = known.generate()
    assert not succeeded
    assert all(str(known.secrets / name) in said for name in PASSWORDS)
    assert not known.secrets.exists()


def test_another_authority_stops_the_play(known: Inventory) -> None:
    known.authority.write_text("another certificate\n")
    succeeded, said = known.generate()
    assert not succeeded
    assert "one.example.internal trusts another authority than" in said


@pytest.mark.parametrize("held", ["the certificate\n", "another certificate\n", "both"])
def test_node_may_trust_either_authority_while_one_takes_the_place_of_the_other(
    known: Inventory, held: str
) -> None:
    old = known.authority.with_name("old") / "ca.crt"
    old.parent.mkdir()
    old.write_text("the certificate\n")
    known.authority.write_text("another certificate\n")
    known.trusted.write_text(held.replace("both", "another certificate\nthe certificate\n"))
    succeeded, said = known.generate()
    assert succeeded, said


def test_lost_secrets_are_made_anew_when_that_is_asked_for(known: Inventory) -> None:
    known.authority.unlink()
    (known.secrets / "kafka_command_password").unlink()
    (known.secrets / "database_query_password").unlink()
    succeeded, said = known.generate("--extra-vars=secrets_replace=true")
    assert succeeded, said
    after = known.passwords()
    assert sorted(after) == sorted(PASSWORDS)
    made = {name for name, text in after.items() if text.strip() != name}
    assert made == {"kafka_command_password", "database_query_password"}


@pytest.mark.parametrize("lost", FIXED)
def test_password_by_which_a_play_logs_in_is_never_made_anew(known: Inventory, lost: str) -> None:
    (known.secrets / lost).unlink()
    succeeded, said = known.generate("--extra-vars=secrets_replace=true")
    assert not succeeded
    assert f"Lost: - {known.secrets / lost} Bring them back" in said
    assert "These alone cannot be made anew" in said
    assert lost not in known.passwords()
