"""`make test` ends with what each stage took, the tests that failed, and the totals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import stages
from scripts.stages import Results, Stage

PASSING = "def test_passes():\n    pass\n"
MIXED = """\
import pytest

@pytest.fixture
def breaks_at_the_end():
    yield
    raise OSError

class TestGroup:
    @pytest.mark.parametrize("number", [1, 2])
    def test_odd(self, number, breaks_at_the_end):
        assert number % 2

def test_skipped():
    pytest.skip("no reason")

def test_passes():
    pass
"""


def run_pytest(folder: Path, text: str) -> Path:
    """Run pytest as a stage does; return the folder of its results."""
    (folder / "test_sample.py").write_text(text)
    taken = folder / "results"
    taken.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, folder],
        cwd=folder,
        # Without the plugins that are installed it starts at once.
        env={**stages.surroundings(taken), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        check=False,
    )
    return taken


class TestResults:
    def test_two_runs_are_counted_together(self, tmp_path: Path) -> None:
        run_pytest(tmp_path, PASSING)
        assert stages.results(run_pytest(tmp_path, PASSING)) == Results(passed=2)

    def test_a_test_with_two_errors_is_counted_once(self, tmp_path: Path) -> None:
        failed = tuple(f"test_sample.TestGroup::test_odd[{number}]" for number in (1, 2))
        assert stages.results(run_pytest(tmp_path, MIXED)) == Results(1, 1, failed)

    def test_a_file_that_cannot_be_imported_is_a_failure(self, tmp_path: Path) -> None:
        assert stages.results(run_pytest(tmp_path, "import nothing_of_this_name")).failed == ("test_sample",)

    def test_a_file_that_was_cut_off_counts_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "cut.xml").write_text('<testsuites><testsuite tests="3"><testcase name="a"')
        assert stages.results(tmp_path) == Results()


class TestSummary:
    def test_last_line_has_the_totals(self) -> None:
        passed = [Stage("lint", 9.6, 0, Results()), Stage("unit", 61.2, 0, Results(passed=5))]
        assert stages.summary(passed).splitlines() == [
            "     10 s  passed  lint",
            "     61 s  passed  unit",
            "5 passed, 0 failed",
        ]

    def test_failed_tests_are_named(self) -> None:
        stage = Stage("unit", 1, 2, Results(3, 1, ("test_x::test_y",)))
        assert stages.summary([stage], ["molecule"]).splitlines() == [
            "      1 s  FAILED  unit",
            "      -    not run molecule",
            "Failed tests:",
            "  unit: test_x::test_y",
            "3 passed, 1 failed, 1 skipped",
        ]

    def test_a_stage_without_results_says_where_to_look(self) -> None:
        text = stages.summary([Stage("lint", 1, 2, Results())])
        assert "no test failed: the reason is in the output above (exit status 2)" in text
        assert text.endswith("\n0 passed, 1 failed")


class TestRun:
    @pytest.fixture
    def makefile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(stages, "PROJECT", tmp_path)
        monkeypatch.delenv("MAKEFLAGS", raising=False)
        return tmp_path / "Makefile"

    @pytest.fixture(autouse=True)
    def handlers(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    def test_stages_after_a_failed_one_run_too(
        self, makefile: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        makefile.write_text("broken:\n\t@echo output; exit 1\nsound:\n\t@echo $(WORD)\n")
        assert stages.main(["broken", "sound WORD=well"]) == 1
        shown = capfd.readouterr().out
        assert "output\n" in shown
        assert "\nwell\n" in shown
        assert "FAILED  broken\n" in shown
        assert "passed  sound WORD=well\n" in shown
        assert shown.endswith("\n0 passed, 1 failed\n")

    def test_success_is_exit_status_0(self, makefile: Path) -> None:
        makefile.write_text("sound:\n\t@true\n")
        assert stages.main(["sound"]) == 0

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_lets_the_stage_clean_up_and_begins_no_other(
        self, makefile: Path, number: signal.Signals
    ) -> None:
        makefile.write_text(
            "SHELL := /bin/bash\n"
            "slow:\n\t@trap 'kill $$!; echo cleaned' EXIT; trap 'exit 1' INT TERM; touch begun; \\\n"
            "\t    sleep 20 & wait\n"
            "next:\n\t@echo another\n"
        )
        program = (
            f"import pathlib; from scripts import stages; stages.PROJECT = pathlib.Path('{makefile.parent}')"
        )
        with subprocess.Popen(
            [sys.executable, "-B", "-c", f"{program}; raise SystemExit(stages.main(['slow', 'next']))"],
            cwd=Path(__file__).parents[1],
            env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            while not (makefile.parent / "begun").exists() and process.poll() is None:
                time.sleep(0.01)
            if number == signal.SIGINT:
                # As a terminal does.
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            shown, _ = process.communicate(timeout=15)
        assert process.returncode == 1
        assert "cleaned" in shown
        assert "FAILED  slow\n" in shown
        assert "not run next\n" in shown
        assert "another" not in shown
