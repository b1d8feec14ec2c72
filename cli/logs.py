"""`make ssh` and `make logs`: a shell on a node, and the logs of all nodes in the order of time.

The logs are the journals, and nginx's access log, which is a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

from cli.inventory import Host, Service, pick
from cli.root import NO_ANSWER, NOT_ROOT, as_root, root_shell
from cli.units import ACCESS_LOG, NGINX, PATTERNS

Command = Callable[[Host], str]


def journal(nodes: Sequence[Host], unit: str, lines: int, follow: bool) -> str:
    """Return the remote journalctl command for all units, or one (without its suffix, or as a pattern)."""
    command = ["journalctl", "--output=short-iso-precise", "--no-hostname", "--quiet", f"--lines={lines}"]
    ours = {*PATTERNS, *(name for node in nodes for name in node.units)}
    for pattern in [unit] if unit else sorted(ours):
        command += ["--unit", pattern]
    return shlex.join([*command, "--follow"] if follow else [*command, "--no-pager"])


def access_log(node: Host, unit: str, lines: int, follow: bool) -> str:
    """Return the remote command for the end of nginx's access log; empty where it is not wanted."""
    wanted = not unit or any(fnmatchcase(NGINX, pattern) for pattern in (unit, f"{unit}.service"))
    if NGINX not in node.units or not wanted:
        return ""
    if follow:
        # By name: the file is another one after it was rotated, which tail would report on stderr.
        return f"tail --follow=name --retry --lines={lines} {ACCESS_LOG} 2>/dev/null"
    # It may have been rotated just now.
    return f"tail --quiet --lines={lines} {ACCESS_LOG}.1 {ACCESS_LOG}"


def remote_command(nodes: Sequence[Host], unit: str, lines: int, follow: bool) -> Command:
    """Return a function that gives each node's remote command: the journal, and nginx's access log."""
    journals = journal(nodes, unit, lines, follow)

    def command(node: Host) -> str:
        accesses = access_log(node, unit, lines, follow)
        return f"{journals}{' & ' if follow else '; '}{accesses}" if accesses else journals

    return command


def with_time(text: str) -> str:
    """Put the time of a line of the access log before it, as the journal does; other lines stay."""
    try:
        return f"{json.loads(text)['time']} nginx: {text}" if text.startswith("{") else text
    except (ValueError, KeyError, TypeError):
        # The line is incomplete: nginx was killed, or its disk was full.
        return text


def instant(text: str) -> float | None:
    """Return the instant (Unix time) at the start of a line; None where there is none.

    Nodes may be in several time zones, so that texts cannot be compared.
    """
    try:
        return datetime.fromisoformat(text.split(" ", 1)[0]).timestamp()
    except ValueError:
        return None


def last(output: str, lines: int) -> list[str]:
    """Return the last entries of a node's output, in the order of time: `lines` came from each of its logs.

    An entry is one line or several: a line without a time belongs to the one before it.
    """
    entries: list[tuple[float, list[str]]] = []
    for text in map(with_time, output.splitlines()):
        time = instant(text)
        if time is not None or not entries:
            entries.append((time or 0.0, [text]))
        else:
            entries[-1][1].append(text)
    entries.sort(key=lambda entry: entry[0])
    return [text for _, entry in entries[max(0, len(entries) - lines) :] for text in entry]


def in_time(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Merge the lines of several nodes, each given with its node, by the time at the start of a line.

    A line without a time belongs to the one before it.
    """
    merged: list[tuple[float, str]] = []
    time = 0.0
    for node, text in entries:
        begun = instant(text)
        time = time if begun is None else begun
        merged.append((time, f"{node:<8} {text}"))
    return [text for _, text in sorted(merged, key=lambda entry: entry[0])]


def show_last(nodes: Sequence[Host], command: Command, lines: int) -> int:
    """Print the end of each node's logs; a node that does not answer is named, and the others are shown."""
    entries = []
    failed = 0
    for node in nodes:
        done = node.run(command(node))
        if done.returncode in (NO_ANSWER, NOT_ROOT):
            print(f"{node.short_name} shows no logs: {done.stderr.strip()}", file=sys.stderr)
            failed = 1
        entries += [(node.short_name, text) for text in last(done.stdout, lines)]
    for text in in_time(entries):
        print(text)
    return failed


def follow(nodes: Sequence[Host], command: Command) -> int:
    """Print the logs as they grow, until the user interrupts it."""
    running = [
        (
            node,
            subprocess.Popen(
                node.root_ssh(command(node)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ),
        )
        for node in nodes
    ]

    def copy(node: Host, process: subprocess.Popen[str]) -> None:
        if process.stdin:
            with contextlib.suppress(BrokenPipeError), process.stdin as sent:
                sent.write(node.password_lines)
        for text in process.stdout or ():
            print(f"{node.short_name:<8} {with_time(text)}", end="", flush=True)

    threads = [threading.Thread(target=copy, args=pair, daemon=True) for pair in running]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        return 0
    finally:
        for _, process in running:
            process.terminate()
    return 1


def show(service: Service, node: str, unit: str, lines: int, follows: bool) -> int:
    """Print the logs of one node or of all; returns the exit status."""
    nodes = [pick(service.nodes, node)] if node else service.nodes
    command = remote_command(nodes, unit, lines, follows)
    return follow(nodes, command) if follows else show_last(nodes, command, lines)


def ssh(service: Service, name: str, command: str) -> int:
    """Open a root shell on a node, or run a command there as root; returns the exit status."""
    node = pick(service.nodes, name)
    if not command:
        terminal = ["-t"] if sys.stdin.isatty() else []
        os.execvp("ssh", [*node.ssh, *terminal, root_shell()])
    remote = as_root(command, node.password)
    if not node.password:
        os.execvp("ssh", [*node.ssh, remote])
    running = subprocess.Popen([*node.ssh, remote], stdin=subprocess.PIPE)
    # Before our own input comes sudo's password; the thread may still read when the command has ended.
    threading.Thread(target=_feed, args=(running, node.password_lines.encode()), daemon=True).start()
    return running.wait()


def _feed(process: subprocess.Popen[bytes], first: bytes) -> None:
    if process.stdin:
        with contextlib.suppress(BrokenPipeError), process.stdin as sent:
            sent.write(first)
            sent.flush()
            while data := os.read(sys.stdin.fileno(), 1 << 16):
                sent.write(data)
                sent.flush()
