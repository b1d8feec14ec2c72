"""Keeps one machine running where no systemd manages this computer: started by `machines.start`.

`python3 -m nspawn_nodes.supervisor STATE_FOLDER MACHINE COMMAND…` puts itself into control groups of its own,
writes their folders into STATE_FOLDER/MACHINE/cgroups, and runs the command, again each time the machine
reboots. SIGTERM is passed on, and is an orderly power-off for systemd-nspawn. When the supervisor is killed,
its child is powered off.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from . import cgroups

# systemd-nspawn --keep-unit ends with this status when its machine reboots (systemd-nspawn(1), --keep-unit).
REBOOT = 133
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the kernel send this process a SIGTERM when its parent is gone (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def enter(machine: str, record: Path) -> None:
    """Move this process into a new group of each hierarchy; the record is there before any process is."""
    mounted = cgroups.hierarchies(Path("/proc/self/mountinfo").read_text())
    # All of it is read before the first move: the file changes with each.
    parents = cgroups.own_folders(Path("/proc/self/cgroup").read_text(), mounted)
    folders = [parent / f"timestamp-service-{machine}" for parent in parents]
    record.write_text("".join(f"{folder}\n" for folder in folders))
    for parent, folder in zip(parents, folders, strict=True):
        cgroups.offer_controllers(parent)
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.procs").write_text(str(os.getpid()))


def main(arguments: Sequence[str]) -> int:
    """Run the machine until it powers off; returns the status of systemd-nspawn."""
    state_folder, machine, *command = arguments
    enter(machine, Path(state_folder) / machine / "cgroups")
    child: subprocess.Popen[bytes] | None = None
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        if child:
            child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while True:
        child = subprocess.Popen(command, preexec_fn=end_with_parent)
        status = child.wait()
        if status != REBOOT or stopping:
            return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
