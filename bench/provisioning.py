"""`make bench-provision`: how long `make up` takes: nothing cached, all cached, nothing to do.

It works on two nodes of its own, with its own cache and Python environment, and removes all of them at its
end. Debian packages that this computer lacks are installed before, and are not measured.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.inventory import PROJECT

HOSTS = """\
all:
  vars:
    local_node_machine_prefix: bench-
    local_node_bridge: ts-bench
    local_node_gateway: 10.77.2.1
    local_node_state_folder: /var/lib/timestamp-service/bench
ungrouped:
  hosts:
    localhost:
      ansible_connection: local
      ansible_python_interpreter: "{{ ansible_playbook_python }}"
nodes:
  children:
    db:
      children:
        kafka:
          hosts:
            db.bench.internal:
        postgresql:
          hosts:
            db.bench.internal:
    web:
      hosts:
        web.bench.internal:
  hosts:
    db.bench.internal:
      node_address: 10.77.2.11
    web.bench.internal:
      node_address: 10.77.2.12
"""
# The most seconds that each run may take.
RUNS = {"nothing cached": 300.0, "all cached": 150.0, "nothing to do": 40.0}
SLOWEST = 8


@dataclass(frozen=True)
class Measured:
    """One run: its seconds, those of each step and of the slowest tasks, and how many tasks changed."""

    seconds: float
    steps: Mapping[str, float]
    tasks: tuple[tuple[str, float], ...]
    changed: int


def measured(lines: Iterable[tuple[float, str]], end: float) -> Measured:
    """Read the output of `make up`, each line with the seconds since its start, given its end."""
    starts: dict[str, float] = {}
    tasks = []
    changed = 0
    for second, line in lines:
        if step := re.match(r"\[\d/\d\] ([\w ]+)", line):
            starts[step[1].strip()] = second
        elif task := re.match(r"(\S.*?) -{3,} +([\d.]+)s$", line):
            tasks.append((task[1], float(task[2])))
        elif recap := re.search(r"ok=\d+ +changed=(\d+)", line):
            changed += int(recap[1])
    ends = [*list(starts.values())[1:], end]
    steps = {name: after - start for (name, start), after in zip(starts.items(), ends, strict=True)}
    slowest = sorted(tasks, key=lambda task: -task[1])[:SLOWEST]
    return Measured(end, steps, tuple(slowest), changed)


def make_up(inventory: Path, environment: Mapping[str, str]) -> Measured:
    """Run `make up` and measure it; its output is shown. Raises CalledProcessError when it fails."""
    command = ["make", "up", f"INVENTORY={inventory}"]
    lines = []
    start = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append((time.monotonic() - start, line.rstrip()))
            print(line, end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return measured(lines, time.monotonic() - start)


def table(results: Mapping[str, Measured]) -> str:
    """Return what was measured as text: seconds a step, and the slowest tasks of each run."""
    text = []
    for name, result in results.items():
        verdict = "within" if result.seconds <= RUNS[name] else "OVER"
        text.append(
            f"\n{name}: {result.seconds:.1f} s ({verdict} {RUNS[name]:.0f} s), {result.changed} changed"
        )
        text += [f"  {seconds:6.1f} s  {step}" for step, seconds in result.steps.items()]
        text.append("  slowest tasks:")
        text += [f"  {seconds:6.1f} s  {task}" for task, seconds in result.tasks]
    return "\n".join(text)


def main() -> int:
    """Measure the three runs. Exits with 1 when one takes too long, or the last one changes something."""
    folder = Path(tempfile.mkdtemp(prefix="timestamp-service-bench-"))
    inventory = folder / "inventory"
    shutil.copytree(PROJECT / "inventories/local/group_vars", inventory / "group_vars")
    (inventory / "hosts.yml").write_text(HOSTS)
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "VENV": str(folder / "venv"),
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "PROFILE_TASKS_TASK_OUTPUT_LIMIT": str(SLOWEST),
        "FORCE": "1",
    }
    # Variables that `make` passes to its children would override these.
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        environment.pop(name, None)
    down = ["make", "down", f"INVENTORY={inventory}"]
    results: dict[str, Measured] = {}
    try:
        for name in RUNS:
            if name == "all cached":
                subprocess.run(down, cwd=PROJECT, env=environment, check=True)
            print(f"\n== {name}", flush=True)
            results[name] = make_up(inventory, environment)
    except subprocess.CalledProcessError as error:
        print(f"{error}: measured so far:", file=sys.stderr)
    finally:
        subprocess.run(down, cwd=PROJECT, env=environment, check=False)
        # Packages that were downloaded by root belong to root.
        subprocess.run(
            [*([] if os.geteuid() == 0 else ["sudo"]), "rm", "-rf", "--one-file-system", folder], check=False
        )
    print(table(results))
    slow = any(result.seconds > RUNS[name] for name, result in results.items())
    return int(slow or len(results) < len(RUNS) or results["nothing to do"].changed > 0)


if __name__ == "__main__":
    sys.exit(main())
