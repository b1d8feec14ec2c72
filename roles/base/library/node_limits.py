#!/usr/bin/python
"""Find out what a node has for the service: memory, free disk and the time of its clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: node_limits
short_description: Find out what memory and disk a node has, and how far its clock is ahead
description:
  - Sets the fact C(usable_memory_mb), the smaller of the memory and the limits of control groups.
  - Returns C(ahead), the seconds that the clock of the node is certainly ahead of the controller's (negative
    if it is behind); the time that the question itself took is no difference.
options:
  paths:
    description: Folders whose volumes are looked at; one that is missing stands for the nearest one above it.
    type: list
    elements: path
    required: true
  mark:
    description: What every node has that was set up before; C(new) says whether it is missing.
    type: path
    required: true
"""
CGROUPS = Path("/sys/fs/cgroup")
MEBIBYTE = 1 << 20


def limits(cgroup: str, mount: Path) -> Iterator[int]:
    """Yield the memory limits in bytes of the groups in the text of /proc/1/cgroup, and of all above them.

    Those of process 1 hold for the whole container: this module runs in a session, which may have less.
    """
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(top):
                break
            try:
                text = (group / name).read_text().strip()
            except OSError:
                # The root of the host has no limit, and a container does not see what is above it.
                continue
            if text.isdecimal():
                yield int(text)


def usable_memory_mb(meminfo: str, cgroup: str, mount: Path) -> int:
    """Return the smaller of the memory, in the text of /proc/meminfo, and the limits, in MiB."""
    (total,) = (int(line.split()[1]) for line in meminfo.splitlines() if line.startswith("MemTotal:"))
    return min([total << 10, *limits(cgroup, mount)]) // MEBIBYTE


def free_mb(path: Path) -> int:
    """Return the free space in MiB of the volume on which a folder is, or will be."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    state = os.statvfs(there)
    return state.f_bavail * state.f_frsize // MEBIBYTE


def main() -> None:
    """Answer."""
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "required": True},
            "mark": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    memory = usable_memory_mb(Path("/proc/meminfo").read_text(), Path("/proc/1/cgroup").read_text(), CGROUPS)
    module.exit_json(
        ansible_facts={"usable_memory_mb": memory},
        new=not Path(module.params["mark"]).exists(),
        free_mb={path: free_mb(Path(path)) for path in module.params["paths"]},
        time=time.time(),
    )


if __name__ == "__main__":
    main()
