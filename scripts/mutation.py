"""`make mutation`: make each wrong change of tests/mutations.toml to a copy of the tree, and run its tests.

A change is noticed when a test fails. What is missed shows where a test is lacking.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CHANGES = PROJECT / "tests/mutations.toml"
# The share of the changes that must be noticed.
FLOOR = 0.8
TRIES = 3
# A test that hangs notices the change too.
TEST_SECONDS = 120


class MutationError(Exception):
    """The changes cannot be judged; the message says why."""


@dataclass(frozen=True)
class Change:
    """A small wrong change to one file of the project, and the unit tests that must notice it."""

    file: str
    wrong: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, tree: Path) -> str:
        """Return the text of the changed file. Raises MutationError when `old` is not there exactly once."""
        text = (tree / self.file).read_text()
        if text.count(self.old) != 1:
            raise MutationError(f"{self.file} has {text.count(self.old)} times, not once: {self.old!r}")
        return text.replace(self.old, self.new)


def read_changes(path: Path = CHANGES) -> list[Change]:
    """Read the list: a table for each file, with the tests that its changes name if they name none."""
    changes = []
    for table in tomllib.loads(path.read_text())["file"]:
        for change in table["change"]:
            tests = tuple(change.get("tests", table["tests"]))
            changes.append(Change(table["name"], change["wrong"], change["old"], change["new"], tests))
    return changes


def copy_tree(folder: Path) -> None:
    """Copy what git would: the files of the work tree, without what it ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)


def run_tests(tree: Path, tests: Sequence[str]) -> bool:
    """Run unit tests in a copy; return whether they pass. Raises MutationError when they cannot run."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, timeout=TEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1):
        raise MutationError(f"{' '.join(tests)} did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def judge(trees: queue.SimpleQueue[Path], change: Change) -> str:
    """Make a change in a copy that nobody uses, and put the copy right again; return how it was judged."""
    tree = trees.get()
    path = tree / change.file
    original = path.read_text()
    try:
        path.write_text(change.apply(tree))
        return "missed" if run_tests(tree, change.tests) else "noticed"
    except MutationError as error:
        return f"does not apply ({error})"
    finally:
        path.write_text(original)
        trees.put(tree)


def main(arguments: Sequence[str]) -> int:
    """Judge the changes and print the shares; returns 1 when too few are noticed, or a test fails anyway."""
    parser = argparse.ArgumentParser(prog="python -m scripts.mutation", description=__doc__)
    parser.add_argument("--only", default="", help="only changes of files whose path contains this")
    options = parser.parse_args(arguments)
    changes = [change for change in read_changes() if options.only in change.file]
    copies = os.cpu_count() or 1
    failing = False
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    with tempfile.TemporaryDirectory(prefix="timestamp-mutation-") as temporary:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(copies):
            copy_tree(Path(temporary) / str(number))
            trees.put(Path(temporary) / str(number))
        # A test that fails anyway would notice everything; one that measures time may fail once.
        for tests in sorted({change.tests for change in changes}):
            if not any(run_tests(Path(temporary) / "0", tests) for _ in range(TRIES)):
                print(f"failing  without any change: {' '.join(tests)}", flush=True)
                changes = [change for change in changes if change.tests != tests]
                failing = True
        with ThreadPoolExecutor(copies) as pool:
            for change, judged in zip(changes, pool.map(partial(judge, trees), changes), strict=True):
                print(f"{judged:8} {change.file}: {change.wrong}", flush=True)
                counts[change.file][0] += judged == "noticed"
                counts[change.file][1] += 1
    print()
    for file, (noticed, made) in counts.items():
        print(f"{noticed:3} of {made:3}  {file}")
    noticed = sum(count[0] for count in counts.values())
    share = noticed / max(1, len(changes))
    print(f"Noticed {noticed} of {len(changes)}: {share:.2f} (at least {FLOOR})")
    return 0 if share >= FLOOR and not failing else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
