"""`make test`: run targets of the Makefile in turn, and end with a list of what passed and failed.

The last line of all has the totals of all runs of pytest: `N passed, N failed, N skipped`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from xml.etree import ElementTree

PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Results:
    """The results of one run of pytest or of several: counts, and the names of the tests that failed."""

    passed: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()

    def __add__(self, other: Results) -> Results:
        """Return the results of both."""
        return Results(self.passed + other.passed, self.skipped + other.skipped, self.failed + other.failed)


@dataclass(frozen=True)
class Stage:
    """A stage that ran: the target with its settings, seconds, make's exit status, and the tests in it."""

    target: str
    seconds: float
    status: int
    tests: Results

    @property
    def passed(self) -> bool:
        """Whether make and all tests succeeded."""
        return self.status == 0 and not self.tests.failed


class Runner:
    """Runs the stages; an interrupt ends the running one, and no other begins."""

    def __init__(self) -> None:
        """Handle Ctrl-C and SIGTERM."""
        self.interrupted = False
        self._process: subprocess.Popen[bytes] | None = None
        # A terminal sends Ctrl-C to the stage too. Waiting for its end lets it remove its nodes.
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._interrupt)

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        self.interrupted = True
        if number == signal.SIGTERM and self._process:
            self._process.terminate()

    def run(self, target: str, folder: Path) -> Stage:
        """Run `make TARGET`. The folder, an empty one, takes the results of pytest."""
        begun = time.monotonic()
        with subprocess.Popen(
            ["make", "--no-print-directory", *shlex.split(target)], cwd=PROJECT, env=surroundings(folder)
        ) as self._process:
            status = self._process.wait()
        return Stage(target, time.monotonic() - begun, status, results(folder))


def surroundings(folder: Path) -> Mapping[str, str]:
    """Return the environment in which each run of pytest writes its results to a folder."""
    return {
        **os.environ,
        "TIMESTAMP_JUNIT_FOLDER": str(folder),
        "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -p scripts.junit_files".strip(),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
    }


def results(folder: Path) -> Results:
    """Return the results of all runs of pytest that wrote to a folder. A file that was cut off is skipped."""
    total = Results()
    for file in sorted(folder.glob("*.xml"), key=lambda file: file.stat().st_mtime):
        with suppress(ElementTree.ParseError):
            # pytest wrote it on this computer.
            total += results_of_run(ElementTree.parse(file).getroot())  # noqa: S314
    return total


def results_of_run(root: ElementTree.Element) -> Results:
    """Return the results in a document of JUnit XML."""
    # A test that fails, and whose teardown fails too, stands there twice.
    names: dict[str, set[str]] = {}
    for case in root.iter("testcase"):
        name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
        names.setdefault(name, set()).update(child.tag for child in case)
    failed = [name for name, tags in names.items() if tags & {"failure", "error"}]
    skipped = [name for name, tags in names.items() if "skipped" in tags and name not in failed]
    return Results(len(names) - len(failed) - len(skipped), len(skipped), tuple(failed))


def summary(stages: Sequence[Stage], not_run: Sequence[str] = ()) -> str:
    """Return the list of the stages and of the tests that failed, and the closing line."""
    lines = []
    for stage in stages:
        lines.append(f"{stage.seconds:7.0f} s  {'passed' if stage.passed else 'FAILED'}  {stage.target}")
        if stage.status and not stage.tests.failed:
            lines.append(
                f"{'':19}no test failed: the reason is in the output above (exit status {stage.status})"
            )
    lines += [f"{'-':>7}    not run {target}" for target in not_run]
    failed = [f"  {stage.target}: {name}" for stage in stages for name in stage.tests.failed]
    if failed:
        lines += ["Failed tests:", *failed]
    total = sum((stage.tests for stage in stages), Results())
    # A stage may fail without a test: lint, a playbook.
    others = sum(not stage.passed and not stage.tests.failed for stage in stages)
    closing = f"{total.passed} passed, {len(total.failed) + others} failed"
    return "\n".join([*lines, closing + (f", {total.skipped} skipped" if total.skipped else "")])


def main(arguments: Sequence[str]) -> int:
    """Run the stages, also those after one that failed, and print the list."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "targets", nargs="+", help="a target of the Makefile, with settings: 'box PROVIDER=lxc'"
    )
    targets: list[str] = parser.parse_args(arguments).targets
    runner = Runner()
    stages: list[Stage] = []
    with tempfile.TemporaryDirectory(prefix="timestamp-service-junit-") as folder:
        for number, target in enumerate(targets):
            if runner.interrupted:
                break
            print(f"\n===== {target}", flush=True)
            of_stage = Path(folder, str(number))
            of_stage.mkdir()
            stages.append(runner.run(target, of_stage))
    print(f"\n{summary(stages, targets[len(stages) :])}", flush=True)
    return int(len(stages) < len(targets) or not all(stage.passed for stage in stages))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
