"""Run commands as root on a node, whether the inventory's user is root or somebody with sudo."""

from __future__ import annotations

import shlex

# The exit status when the user cannot become root; ssh's own, when the node does not answer.
NOT_ROOT = 200
NO_ANSWER = 255
# $1 is the command. $2 says that two lines of the standard input hold sudo's password: one to try it, and one
# for the sudo of the command, which is dropped where sudo wants none. The rest is the command's input.
_COMMAND = """
drop=:
if [ -n "$2" ]; then IFS= read -r password; drop='read -r password'; fi
if [ "$(id -u)" = 0 ]; then $drop; exec bash -c "$1"; fi
if sudo -n true 2>/dev/null; then $drop; exec sudo -n -- bash -c "$1"; fi
if [ -z "$2" ]; then
    sudo -n true
elif printf '%s\\n' "$password" | sudo -k -S -p '' true; then
    exec sudo -k -S -p '' -- bash -c "$1"
fi
echo "The user $(id -un) cannot become root on $(uname -n). Allow it sudo: without a password," \\
    "or with the one that ansible_become_password holds in the inventory." >&2
exit 200
"""
_SHELL = """if [ "$(id -u)" = 0 ]; then exec "$SHELL" -l; else exec sudo -i; fi"""


def as_root(command: str, password: str) -> str:
    """Return the remote command that runs a command as root, by bash; `password_lines` are its input."""
    return shlex.join(["exec", "sh", "-c", _COMMAND, "sh", command, *(["password"] if password else [])])


def password_lines(password: str) -> str:
    """Return what the standard input of `as_root` begins with."""
    return f"{password}\n" * 2 if password else ""


def root_shell() -> str:
    """Return the remote command for a shell of root; sudo asks for a password itself."""
    return shlex.join(["exec", "sh", "-c", _SHELL])
