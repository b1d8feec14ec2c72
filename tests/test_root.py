"""The commands behind the Makefile work as root, as somebody with sudo, and say so where they cannot.

The remote commands run here, with programs in the place of ssh, sudo and id.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import diagnose, logs, status
from cli.audit import run_lynis
from cli.checks import Check
from cli.inventory import PROJECT, Host, Service
from cli.root import NOT_ROOT

PROGRAMS = {
    # Its last argument is the remote command.
    "ssh": 'exec sh -c "${@: -1}"',
    "id": '[ "$1" = -u ] && echo "$USER_ID" || echo deploy',
    "sudo": """
        while [[ $1 == -* ]]; do
            case $1 in -n) never=1 ;; -S) read=1 ;; -p) shift ;; -i) echo "root shell"; exit ;; esac
            [ "$1" = -- ] && shift && break
            shift
        done
        if [ "$SUDO" = password ]; then
            [ -z "$never" ] || { echo "sudo: a password is required" >&2; exit 1; }
            [ -z "$read" ] || IFS= read -r given
            [ "$given" = "the 'right' one" ] || { echo "sudo: 1 incorrect password attempt" >&2; exit 1; }
        elif [ "$SUDO" = refused ]; then
            echo "deploy is not in the sudoers file." >&2; exit 1
        fi
        export USER_ID=0; exec "$@"
    """,
}
RIGHT = "the 'right' one"
HINT = "The user deploy cannot become root on "
# What sudo does, whether the user is root, and the password of the inventory.
WORKING = [("free", "0", ""), ("free", "1000", ""), ("password", "1000", RIGHT)]
# One that is not needed; sudo or root would take it for the input of the command.
SUPERFLUOUS = [("free", "0", RIGHT), ("free", "1000", RIGHT)]
FAILING = [
    ("password", "1000", "", "sudo: a password is required"),
    ("password", "1000", "wrong", "sudo: 1 incorrect password attempt"),
    ("refused", "1000", "", "deploy is not in the sudoers file."),
    ("refused", "1000", RIGHT, "deploy is not in the sudoers file."),
    ("missing", "1000", "", "sudo: not found"),
    ("missing", "1000", RIGHT, "sudo: not found"),
]
MakeNode = Callable[[str, str, str], Host]


@pytest.fixture
def make_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeNode:
    """Return a function that makes a node where sudo behaves in a way, for a user and a password."""
    folder = tmp_path / "programs"
    folder.mkdir()

    def make(sudo: str, user_id: str, password: str) -> Host:
        for name, text in PROGRAMS.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
        # Only what the commands need: this computer may have a sudo.
        for name in ("sh", "bash", "cat", "true", "uname"):
            (folder / name).symlink_to(f"/bin/{name}")
        if sudo == "missing":
            (folder / "sudo").unlink()
        environment = {"PATH": str(folder), "SUDO": sudo, "USER_ID": user_id, "SHELL": "/bin/true"}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Host("db.x", frozenset(), (str(folder / "ssh"), "deploy@db"), password=password)

    return make


@pytest.mark.parametrize(("sudo", "user_id", "password"), [*WORKING, *SUPERFLUOUS])
def test_a_command_runs_as_root_with_its_input(
    make_node: MakeNode, sudo: str, user_id: str, password: str
) -> None:
    done = make_node(sudo, user_id, password).run("id -u; cat; exit 3", data="one\n  two\n")
    assert (done.stdout, done.stderr, done.returncode) == ("0\none\n  two\n", "", 3)


@pytest.mark.parametrize(("sudo", "user_id", "password", "reason"), FAILING)
def test_a_user_who_cannot_become_root_is_told_why(
    make_node: MakeNode, sudo: str, user_id: str, password: str, reason: str
) -> None:
    done = make_node(sudo, user_id, password).run("echo done", data="one\n")
    assert (done.stdout, done.returncode) == ("", NOT_ROOT)
    assert reason in done.stderr
    assert HINT in done.stderr
    assert "ansible_become_password" in done.stderr.splitlines()[-1]


def test_a_password_is_on_no_command_line_and_in_no_text(make_node: MakeNode) -> None:
    node = make_node("password", "1000", RIGHT)
    assert "right" not in " ".join(node.root_ssh("true"))
    assert "right" not in repr(node)


def test_no_command_takes_a_refusal_for_an_empty_answer(
    make_node: MakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_node("refused", "1000", "")
    assert logs.show_last([node], lambda _: "echo", 5) == 1
    said = capsys.readouterr().err
    assert said.startswith("db shows no logs: deploy is not in the sudoers file.")
    assert HINT in said
    assert HINT in str(status.look(node))
    check = diagnose.ask(node, [node])
    assert isinstance(check, Check)
    assert check.what == "becomes root"
    assert "not in the sudoers file" in check.result
    assert HINT in check.fix
    with pytest.raises(ValueError, match=HINT):
        run_lynis(node, b"archive")


@pytest.mark.parametrize(("sudo", "user_id", "password"), [*WORKING, *SUPERFLUOUS])
def test_logs_are_followed_as_root(
    make_node: MakeNode, capfd: pytest.CaptureFixture[str], sudo: str, user_id: str, password: str
) -> None:
    logs.follow([make_node(sudo, user_id, password)], lambda _: "id -u; cat")
    assert capfd.readouterr().out == "db       0\n"


@pytest.mark.parametrize(("sudo", "user_id", "password"), [*WORKING, *SUPERFLUOUS])
def test_a_command_of_make_ssh_gets_our_input(
    make_node: MakeNode,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    sudo: str,
    user_id: str,
    password: str,
) -> None:
    node = make_node(sudo, user_id, password)
    service = Service("https://192.0.2.12", tmp_path, tmp_path, None, (node,), "15")
    given = tmp_path / "input"
    given.write_text("one\n  two\n")

    def execute(_program: str, arguments: list[str]) -> None:
        with given.open() as stream:
            raise SystemExit(subprocess.run(arguments, stdin=stream, check=False).returncode)

    monkeypatch.setattr("os.execvp", execute)
    with given.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        try:
            code = logs.ssh(service, "db", "id -u; cat; exit 3")
        except SystemExit as end:
            code = int(end.code or 0)
        assert code == 3
        assert capfd.readouterr().out == "0\none\n  two\n"
        with pytest.raises(SystemExit):
            logs.ssh(service, "db", "")
    # Root has its own shell, which says nothing here.
    assert capfd.readouterr().out == ("" if user_id == "0" else "root shell\n")


def test_downloads_by_sudo_keep_the_proxies_of_the_environment(make_node: MakeNode) -> None:
    make_node("free", "1000", "")
    text = (PROJECT / "scripts/setup.sh").read_text()
    functions = re.findall(r"(?ms)^as_root\(\) \{.*?^\}", text)
    assert len(functions) == 1
    # The function alone, with a sudo that shows its arguments.
    script = f"sudo() {{ echo $*; }}; id() {{ echo 1000; }}; {functions[0]}; as_root apt-get update"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    kept, *command = done.stdout.split()
    assert command == ["apt-get", "update"]
    assert {"http_proxy", "https_proxy", "no_proxy"} <= set(kept.removeprefix("--preserve-env=").split(","))
