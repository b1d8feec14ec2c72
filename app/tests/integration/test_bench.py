"""That the benchmark, interrupted while it measures, leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.processes import until

pytestmark = pytest.mark.integration

_PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for what the benchmark makes; its PostgreSQL is another user's, and must be let in."""
    folder = Path(tempfile.mkdtemp(prefix="timestamp-service-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def started(pid: int) -> str | None:
    """Return when a process was started, which tells it from a later one of the same id; None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return None if fields[0] == "Z" else fields[19]


def descendants(pid: int) -> dict[int, str | None]:
    """Return all processes that descend from `pid`, and when each was started."""
    found = [pid]
    for parent in found:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except FileNotFoundError:
            continue
        found += map(int, children.split())
    return {child: started(child) for child in found[1:]}


def command_line(pid: int | str) -> str:
    """Return how a process was started, with blanks between the words; empty: it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def consumers(pid: int) -> list[int]:
    """Return the consumers that descend from `pid`."""
    return [child for child in descendants(pid) if "timestamp_service.consumer.main" in command_line(child)]


def named(text: str) -> list[str]:
    """Return the command lines that hold `text`."""
    lines = [command_line(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [line for line in lines if text in line]


def test_interrupted_it_prints_what_there_is_and_ends_what_it_started(folder: Path) -> None:
    output, progress = folder / "output", folder / "progress"
    made = folder / "made"
    made.mkdir(mode=0o755)
    # The consumer's rows need no wrk, which the benchmarks alone install.
    # A shell's background job ignores SIGINT, and so would all that it starts: these tests, then the bench.
    command = ["env", "--default-signal=INT", sys.executable, "-B", "-m", "bench"]
    command += ["--only", "consumer", "--records", "50000"]
    # So many that it does not end by itself meanwhile.
    command += ["--rounds", "100"]
    environment = {**os.environ, "PYTHONPATH": str(_PROJECT / "app"), "TMPDIR": str(made)}
    with output.open("wb") as out, progress.open("wb") as err:
        bench = subprocess.Popen(
            command, cwd=_PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
    running: dict[int, str | None] = {}
    try:
        until("a row was measured", lambda: bench.poll() is not None or "COPY:" in progress.read_text(), 90)
        until("the consumer runs", lambda: bench.poll() is not None or consumers(bench.pid))
        running = descendants(bench.pid)
        assert bench.poll() is None, progress.read_text()
        assert named(str(made))
        assert list(made.iterdir())
        # To it alone: what it started must not need one of its own.
        bench.send_signal(signal.SIGINT)
        assert bench.wait(30) == 130, progress.read_text()
        assert "Traceback" not in progress.read_text()
        table = output.read_text()
        assert "CPU µs each" in table
        assert "\nCOPY " in table
        left = {pid: when for pid, when in running.items() if when is not None and started(pid) == when}
        assert not left
        assert not named(str(made))
        assert not list(made.iterdir())
    finally:
        if bench.poll() is None:
            running |= {**descendants(bench.pid), bench.pid: started(bench.pid)}
        for pid, when in running.items():
            if when is not None and started(pid) == when:
                os.kill(pid, signal.SIGKILL)
        bench.wait()
