"""One private CA takes the place of another, step by step, and a step that was broken off is completed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

import playbooks

PROJECT = Path(__file__).resolve().parents[1]


class Controller:
    """A folder of certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = folder / "certificates"
        self.certificates.mkdir()
        self.make("ca.crt", "ca.key", text="first")

    def make(self, *names: str, text: str) -> None:
        for name in names:
            path = self.certificates / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text} {path.suffix}\n")

    def files(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.certificates)): path.read_text().split()[0]
            for path in sorted(self.certificates.rglob("*.*"))
        }

    def step(self) -> int:
        """Take the next step; returns which one it was."""
        book = self.folder / "play.yml"
        role = {"ansible.builtin.include_role": {"name": "certificates", "tasks_from": "next_authority"}}
        show = {"ansible.builtin.debug": {"msg": "step {{ certificates_step }}"}}
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {
                "certificates_folder": str(self.certificates),
                "ansible_python_interpreter": sys.executable,
            },
            "tasks": [role, show],
        }
        book.write_text(yaml.safe_dump([play]))
        (self.folder / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n")
        done = playbooks.run("-i", str(self.folder / "hosts.yml"), str(book))
        assert done.returncode == 0, done.stdout
        return int(done.stdout.partition("msg: step ")[2][0])


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def test_three_steps_lead_to_the_next_authority_and_begin_anew(controller: Controller) -> None:
    assert controller.step() == 1
    made = controller.files()
    assert {name: made[name] for name in ("ca.crt", "ca.key")} == {"ca.crt": "first", "ca.key": "first"}
    assert set(made) == {"ca.crt", "ca.key", "next/ca.crt", "next/ca.key"}
    certificate = (controller.certificates / "next/ca.crt").read_text()
    assert controller.step() == 2
    assert set(controller.files()) == {"ca.crt", "ca.key", "old/ca.crt"}
    assert (controller.certificates / "ca.crt").read_text() == certificate
    assert controller.files()["old/ca.crt"] == "first"
    assert controller.step() == 3
    assert set(controller.files()) == {"ca.crt", "ca.key"}
    assert controller.step() == 1


# In the place of a play that others import: it says what the nodes would trust.
PLACE = """
- hosts: localhost
  gather_facts: false
  vars_files: [{contract}]
  tasks:
    - ansible.builtin.debug:
        msg: "placed {{{{ contract_authorities | map('regex_replace', '^.*/certificates/') | join(' ') }}}}"
"""


@pytest.mark.parametrize(
    ("begun", "options", "placed"),
    [
        ([], [], ["ca.crt", "ca.crt next/ca.crt"]),
        (["next/ca.crt", "next/ca.key"], [], ["ca.crt next/ca.crt", "ca.crt old/ca.crt"]),
        (["old/ca.crt"], [], ["ca.crt old/ca.crt", "ca.crt"]),
        (
            [],
            ["--extra-vars=authority_all=true"],
            ["ca.crt", "ca.crt next/ca.crt", "ca.crt old/ca.crt", "ca.crt"],
        ),
        (
            ["next/ca.crt", "next/ca.key"],
            ["--extra-vars=authority_all=true"],
            ["ca.crt next/ca.crt", "ca.crt old/ca.crt", "ca.crt"],
        ),
        (["old/ca.crt"], ["--extra-vars=authority_all=true"], ["ca.crt old/ca.crt", "ca.crt"]),
    ],
)
def test_each_step_is_brought_to_the_nodes(
    controller: Controller, begun: list[str], options: list[str], placed: list[str]
) -> None:
    controller.make(*begun, text="begun")
    folder = controller.folder / "playbooks"
    folder.mkdir()
    for name in ("renew_authority.yml", "next_authority.yml"):
        (folder / name).write_text((PROJECT / "playbooks" / name).read_text())
    for name in ("preflight.yml", "clusters.yml", "secrets.yml"):
        (folder / name).write_text("- {hosts: localhost, gather_facts: false, tasks: []}\n")
    contract = PROJECT / "roles/contract/vars/main.yml"
    (folder / "certificates.yml").write_text(PLACE.format(contract=contract))
    (controller.folder / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n")
    done = playbooks.run(
        *("-i", str(controller.folder / "hosts.yml")),
        f"--extra-vars=certificates_folder={controller.certificates}",
        f"--extra-vars=ansible_python_interpreter={sys.executable}",
        *options,
        str(folder / "renew_authority.yml"),
        ANSIBLE_ROLES_PATH=str(PROJECT / "roles"),
    )
    assert done.returncode == 0, done.stdout
    said = [line.partition("msg: placed ")[2] for line in done.stdout.splitlines() if "msg: placed " in line]
    assert said == placed


@pytest.mark.parametrize("moved", [[], ["old/ca.crt"], ["old/ca.crt", "ca.key"]])
def test_second_step_that_was_broken_off_is_completed(controller: Controller, moved: list[str]) -> None:
    controller.make("next/ca.crt", "next/ca.key", text="next")
    if "old/ca.crt" in moved:
        controller.make("old/ca.crt", text="first")
    if "ca.key" in moved:
        (controller.certificates / "next/ca.key").rename(controller.certificates / "ca.key")
    assert controller.step() == 2
    assert controller.files() == {"ca.crt": "next", "ca.key": "next", "old/ca.crt": "first"}
