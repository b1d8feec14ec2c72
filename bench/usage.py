"""CPU time and memory of processes with all their children (proc(5))."""

import os
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def tree(pids: Iterable[int], proc: Path = _PROC) -> list[int]:
    """Return these processes and all that descend from them."""
    found = [*pids]
    for parent in found:
        try:
            found += map(int, (proc / f"{parent}/task/{parent}/children").read_text().split())
        except FileNotFoundError:
            continue
    return found


def cpu_seconds(*pids: int, proc: Path = _PROC) -> float:
    """Return the CPU time of processes with their children so far, those that were waited for included."""
    total = 0.0
    for process in tree(pids, proc):
        try:
            fields = (proc / f"{process}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        # utime, stime, cutime, cstime
        total += sum(map(int, fields[11:15])) * _TICK_SECONDS
    return total


def memory_mib(*pids: int) -> float:
    """Return the largest resident memory of processes and their children: that of one process, in MiB."""
    most = 0
    for process in tree(pids):
        try:
            most = max(most, int((_PROC / f"{process}/statm").read_text().split()[1]))
        except FileNotFoundError:
            continue
    return most * os.sysconf("SC_PAGE_SIZE") / 2**20
