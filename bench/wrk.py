"""HTTP load by wrk."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Load:
    """Requests to send: all have one method, and one body where there is any; their paths stand in a file."""

    method: str
    paths: Path
    body: Path | None = None


@dataclass(frozen=True)
class Answered:
    """The answers: how many, latencies in milliseconds, and how many failed."""

    requests: int
    seconds: float
    failed: int
    p50: float
    p99: float

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def run(url: str, load: Load, connections: int, seconds: float) -> Answered:
    """Send `load` on kept-alive connections for `seconds`. Raises RuntimeError when wrk fails."""
    command = ["wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds:.0f}s"]
    command += ["--timeout=20s", f"--script={_SCRIPT}", url, "--", load.method, str(load.paths)]
    command += [str(load.body)] if load.body is not None else []
    finished = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    match = re.search(r"^result (\{.*\})$", finished.stdout, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"wrk failed ({finished.returncode}): {finished.stderr}{finished.stdout}")
    result = json.loads(match[1])
    return Answered(
        requests=result["requests"],
        seconds=result["microseconds"] / 1e6,
        failed=result["failed"],
        p50=result["p50"] / 1000,
        p99=result["p99"] / 1000,
    )
