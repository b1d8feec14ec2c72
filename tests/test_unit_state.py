"""The program that notes what a unit was started with: what of it is different later, whenever that arose.

systemctl is replaced by a fake that says what the test has set; the files and links are real.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "roles/unit_state/files/unit_state"
SYSTEMCTL = """#!/bin/bash
# systemctl show --property=NAMES --value UNIT
names=${2#--property=}
for name in ${names//,/ }; do cat "$(dirname "$0")/$4.$name" 2>/dev/null; done
"""


class Unit:
    """A unit of the fake systemd: one file of its own, one that it reads, and a release, which is a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fragment = folder / "one.service"
        self.settings = folder / "settings"
        self.release = folder / "current"
        self.fragment.write_text("[Service]\n")
        self.settings.write_text("a=1\n")
        for name in ("first", "second"):
            (folder / name).mkdir()
        self.release.symlink_to(folder / "first")
        self.say(ActiveState="active", NeedDaemonReload="no", FragmentPath=str(self.fragment), DropInPaths="")
        self.say(ControlGroup="")
        program = folder / "systemctl"
        program.write_text(SYSTEMCTL)
        program.chmod(0o755)

    def say(self, **properties: str) -> None:
        for name, value in properties.items():
            (self.folder / f"one.service.{name}").write_text(f"{value}\n")

    def run(self, command: str, *paths: Path) -> list[str]:
        text = PROGRAM.read_text()
        assert "\nfolder=/run/unit_state\n" in text
        program = self.folder / "unit_state"
        text = text.replace("folder=/run/unit_state", f"folder={self.folder}/noted")
        program.write_text(text.replace("\nproc=/proc\n", f"\nproc={self.folder}/proc\n"))
        done = subprocess.run(
            ["bash", str(program), command, "one.service", *map(str, paths)],
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert not done.stderr
        return done.stdout.splitlines()

    def note(self) -> None:
        assert self.run("note", self.settings, self.release, self.folder / "absent") == []

    def differences(self) -> list[str]:
        lines = self.run("compare")
        assert all(line.startswith("one.service ") for line in lines)
        return [line.removeprefix("one.service ").removeprefix(f"{self.folder}/") for line in lines]


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


def test_nothing_is_different_after_the_start(unit: Unit) -> None:
    unit.note()
    assert unit.differences() == []


def test_what_was_never_noted_is_different(unit: Unit) -> None:
    assert unit.differences() == ["all of it (what it was started with is not known)"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda unit: unit.settings.write_text("a=2\n"), ["settings"]),
        (lambda unit: unit.settings.unlink(), ["settings"]),
        (lambda unit: (unit.folder / "absent").touch(), ["absent"]),
        (lambda unit: unit.fragment.write_text("[Unit]\n"), ["one.service"]),
        (lambda unit: (unit.release.unlink(), unit.release.symlink_to(unit.folder / "second")), ["current"]),
        (
            lambda unit: (
                (unit.folder / "more.conf").touch(),
                unit.say(DropInPaths=f"{unit.folder}/more.conf"),
            ),
            ["more.conf"],
        ),
    ],
    ids=["file", "file removed", "file added", "unit", "release", "drop-in"],
)
def test_change_is_found_until_the_next_start(
    unit: Unit, change: Callable[[Unit], object], found: list[str]
) -> None:
    unit.note()
    change(unit)
    assert unit.differences() == found
    assert unit.differences() == found
    unit.note()
    assert unit.differences() == []


def test_same_content_written_again_is_no_difference(unit: Unit) -> None:
    unit.note()
    unit.settings.unlink()
    unit.settings.write_text("a=1\n")
    assert unit.differences() == []


def test_reload_renews_what_it_reads_and_nothing_else(unit: Unit) -> None:
    unit.note()
    unit.settings.write_text("a=2\n")
    unit.fragment.write_text("[Unit]\n")
    unit.run("renote", unit.settings)
    assert unit.differences() == ["one.service"]


def test_unit_that_systemd_has_not_read_again_stays_different(unit: Unit) -> None:
    unit.say(NeedDaemonReload="yes")
    unit.note()
    unit.say(NeedDaemonReload="no")
    assert unit.differences() == ["one.service"]


def test_unit_that_does_not_run_has_no_difference(unit: Unit) -> None:
    unit.note()
    unit.settings.write_text("a=2\n")
    unit.say(ActiveState="inactive")
    assert unit.differences() == []
    unit.say(NeedDaemonReload="yes")
    assert unit.differences() == ["one.service"]


def test_notes_are_for_root_alone(unit: Unit) -> None:
    unit.note()
    assert (unit.folder / "noted").stat().st_mode & 0o777 == 0o700
    assert (unit.folder / "noted/one.service").stat().st_mode & 0o777 == 0o600
    assert "a=1" not in (unit.folder / "noted/one.service").read_text()


def make_process(unit: Unit, number: int, cgroup: str, maps: str) -> None:
    folder = unit.folder / "proc" / str(number)
    folder.mkdir(parents=True)
    (folder / "cgroup").write_text(f"{cgroup}\n")
    (folder / "maps").write_text(f"7f00-7f10 {maps}\n")


def test_program_or_library_that_was_replaced_is_different_while_a_process_runs_it(unit: Unit) -> None:
    group = "/system.slice/one.service"
    unit.say(ControlGroup=group)
    library = "/usr/lib/x86_64-linux-gnu/libssl.so.3"
    # Of the unit: by either version of control groups, and one of a group below it.
    make_process(unit, 1, f"1:name=systemd:{group}", f"r-xp 00000000 08:01 7 {library} (deleted)")
    make_process(unit, 2, f"0::{group}/below", "r-xp 0 08:01 7 /usr/bin/python3.13 (deleted)")
    # No program, no code, or still there.
    make_process(unit, 3, f"0::{group}", "rwxs 0 00:01 7 /dev/shm/PostgreSQL.1 (deleted)")
    make_process(unit, 4, f"0::{group}", "r--p 0 00:01 7 /usr/lib/jvm/modules (deleted)")
    make_process(unit, 5, f"0::{group}", "r-xp 0 00:01 7 /usr/bin/true")
    # Of other units.
    make_process(unit, 6, "0::/system.slice/one.service2", "r-xp 0 08:01 7 /usr/bin/x (deleted)")
    make_process(unit, 7, "0::/system.slice/another-one.service", "r-xp 0 08:01 7 /usr/bin/x (deleted)")
    # What ends by itself, and what nothing reaches.
    user = "/user.slice/user-0.slice"
    make_process(unit, 8, f"0::{user}/user@0.service/init.scope", "r-xp 0 08:01 7 /usr/bin/x (deleted)")
    make_process(unit, 9, f"0::{user}/session-1.scope", "r-xp 0 08:01 7 /usr/bin/x (deleted)")
    make_process(unit, 10, "0::/system.slice/systemd-logind.service", "r-xp 0 08:01 7 /usr/x (deleted)")
    unit.note()
    assert unit.differences() == ["/usr/bin/python3.13 (deleted)", f"{library} (deleted)"]
    assert unit.run("replaced") == ["another-one.service", "one.service"]
    unit.say(ActiveState="inactive")
    assert unit.differences() == []
