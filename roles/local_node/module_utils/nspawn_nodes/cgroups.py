"""Control groups where no systemd manages them: each machine gets one of its own in every hierarchy."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy: its controllers (none for version 2), and where which part of it is mounted."""

    controllers: frozenset[str]
    root: str
    mount: Path


def hierarchies(mountinfo: str) -> list[Hierarchy]:
    """Return the hierarchies in the text of /proc/self/mountinfo (proc(5))."""
    hierarchies = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, mount = before.split(" ")[3:5]
            # A version 1 hierarchy shows its controllers among the file system's options.
            names = frozenset(options.split(",")) if kind == "cgroup" else frozenset[str]()
            hierarchies.append(Hierarchy(names, root, Path(mount)))
    return hierarchies


def own_folders(cgroup: str, mounted: Iterable[Hierarchy]) -> list[Path]:
    """Return the folder of each group of the text of /proc/self/cgroup (cgroups(7)).

    A cpuset of version 1 is left out: a new one takes no process before its CPUs are chosen. Where the mount
    of a hierarchy does not show the group (in a container), the folder is the top of the mount.
    """
    folders = []
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        names = {name for name in controllers.split(",") if name}
        if "cpuset" in names:
            continue
        for hierarchy in mounted:
            if names <= hierarchy.controllers if names else not hierarchy.controllers:
                inside = path.removeprefix(hierarchy.root.rstrip("/"))
                folder = hierarchy.mount / inside.lstrip("/")
                folders.append(folder if folder.is_dir() else hierarchy.mount)
                break
    return folders


def processes(folders: Iterable[Path]) -> set[int]:
    """Return the process ids in these groups and the groups inside them."""
    processes: set[int] = set()
    for group in groups_within(folders):
        with contextlib.suppress(OSError):
            processes.update(int(line) for line in (group / "cgroup.procs").read_text().split())
    return processes


def groups_within(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield these groups and the groups inside them, the inner ones first.

    A machine that ends removes its groups meanwhile: os.walk passes over what is gone, which glob does not.
    """
    for folder in folders:
        for path, _, _ in os.walk(folder, topdown=False):
            yield Path(path)


def kill(folders: Iterable[Path], patience: float) -> bool:
    """Kill all processes of these groups; say whether none was left after `patience` seconds.

    A process that is in our group is ours, so that no id can have been taken over by another.
    """
    groups = list(folders)
    end = time.monotonic() + patience
    while left := processes(groups) - {os.getpid()}:
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def remove(folders: Iterable[Path]) -> None:
    """Remove these groups and the groups inside them; one that still holds a process stays."""
    for group in groups_within(folders):
        with contextlib.suppress(OSError):
            group.rmdir()


def offer_controllers(folder: Path) -> None:
    """Let groups inside a version 2 group use its controllers, where the kernel allows it.

    It does not in a group that holds processes itself; limits of units are then not enforced there.
    """
    offered = folder / "cgroup.controllers"
    if offered.exists():
        for controller in offered.read_text().split():
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
