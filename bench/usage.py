"""CPU time and memory of processes with all their children (proc(5))."""

import os
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return `pid` and all that descend from it."""
    pids = [pid]
    for parent in pids:
        try:
            pids += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        except FileNotFoundError:
            continue
    return pids


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of `pid` and its children so far, those that ended and were waited for included."""
    total = 0.0
    for process in tree(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        # utime, stime, cutime, cstime
        total += sum(map(int, fields[11:15])) * _TICK_SECONDS
    return total


def memory_mib(pid: int) -> float:
    """Return the largest resident memory of `pid` and its children: that of one process, in MiB."""
    most = 0
    for process in tree(pid):
        try:
            most = max(most, int(Path(f"/proc/{process}/statm").read_text().split()[1]))
        except FileNotFoundError:
            continue
    return most * os.sysconf("SC_PAGE_SIZE") / 2**20
