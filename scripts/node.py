"""`make ssh` and `make logs`: a shell on a node, and the journals of all nodes in the order of time."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence

from inventory import Host, InventoryError, pick, read_service
from units import PATTERNS


def journal(nodes: Sequence[Host], unit: str, lines: int, follow: bool) -> str:
    """Return the remote journalctl command for all units, or one (without its suffix, or as a pattern)."""
    command = ["journalctl", "--output=short-iso-precise", "--no-hostname", "--quiet", f"--lines={lines}"]
    ours = {*PATTERNS, *(name for node in nodes for name in node.units)}
    for pattern in [unit] if unit else sorted(ours):
        command += ["--unit", pattern]
    return shlex.join([*command, "--follow"] if follow else [*command, "--no-pager"])


def in_time(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Merge the journal lines of several nodes, each given with its node, by the time at the start of a line.

    A line without a time belongs to the one before it.
    """
    merged: list[tuple[str, str]] = []
    time = ""
    for node, text in entries:
        if text[:4].isdigit():
            time = text.split(" ", 1)[0]
        merged.append((time, f"{node:<8} {text}"))
    return [text for _, text in sorted(merged, key=lambda entry: entry[0])]


def show(nodes: Sequence[Host], command: str) -> int:
    """Print what the nodes' journals hold; a node that does not answer is named, and the others are shown."""
    entries = []
    failed = 0
    for node in nodes:
        done = subprocess.run(
            [*node.ssh, "-o", "BatchMode=yes", command], capture_output=True, text=True, check=False
        )
        if done.returncode == 255:
            print(f"{node.short_name} does not answer: {done.stderr.strip()}", file=sys.stderr)
            failed = 1
        entries += [(node.short_name, text) for text in done.stdout.splitlines()]
    for text in in_time(entries):
        print(text)
    return failed


def follow(nodes: Sequence[Host], command: str) -> int:
    """Print the journals as they grow, until the user ends it."""
    running = [
        (
            node,
            subprocess.Popen([*node.ssh, "-o", "BatchMode=yes", command], stdout=subprocess.PIPE, text=True),
        )
        for node in nodes
    ]

    def copy(node: Host, process: subprocess.Popen[str]) -> None:
        for text in process.stdout or ():
            print(f"{node.short_name:<8} {text}", end="", flush=True)

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


def main(arguments: Sequence[str]) -> int:
    """Open a shell on a node, or show the journals."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inventory", required=True)
    parser.add_argument("--node", default="", help="full or short name; logs: all nodes without it")
    parser.add_argument("--unit", default="")
    parser.add_argument("--lines", type=int, default=100)
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--command", default="", help="ssh: run this instead of a shell")
    parser.add_argument("action", choices=["ssh", "logs"])
    chosen = parser.parse_args(arguments)
    try:
        service = read_service(chosen.inventory)
        if chosen.action == "ssh":
            node = pick(service.nodes, chosen.node)
            os.execvp("ssh", [*node.ssh, chosen.command] if chosen.command else node.ssh)
        nodes = [pick(service.nodes, chosen.node)] if chosen.node else service.nodes
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 1
    command = journal(nodes, chosen.unit, chosen.lines, chosen.follow)
    return follow(nodes, command) if chosen.follow else show(nodes, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
