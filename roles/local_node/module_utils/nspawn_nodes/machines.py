"""Start, find and stop machines: as units where systemd manages this computer, else by the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import cgroups, network
from .spec import Node, Spec
from .system import NodeError, read, run, succeeds

SUPERVISOR = ("-m", "nspawn_nodes.supervisor")
PYTHON = "/usr/bin/python3"
# As in systemd's own systemd-nspawn@.service.
UNIT_PROPERTIES = (
    "Type=notify",
    "KillMode=mixed",
    "Delegate=yes",
    "RestartForceExitStatus=133",
    "SuccessExitStatus=133",
    "TasksMax=16384",
)


def systemd_manages() -> bool:
    """Say whether systemd is this computer's service manager (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def command(spec: Spec, node: Node) -> list[str]:
    """Return the command that boots a machine; it ends when that powers off, with 133 when it reboots."""
    return [
        "systemd-nspawn",
        "--quiet",
        "--settings=no",
        "--register=no",
        "--keep-unit",
        f"--directory={node.root}",
        f"--machine={node.machine}",
        f"--network-bridge={spec.bridge}",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        # SIGRTMIN+4 asks systemd to power off (systemd(1)).
        "--kill-signal=SIGRTMIN+4",
        # IPAddressDeny= of units inside is a BPF program.
        "--capability=CAP_BPF",
        "--system-call-filter=bpf",
        f"--bind={package_folder(spec, node)}:/var/cache/apt/archives",
        "/usr/local/sbin/node-init",
    ]


def package_folder(spec: Spec, node: Node) -> Path:
    """Return where a machine's downloaded packages are kept: each has its own, as apt locks it."""
    return spec.cache_folder / "apt" / node.machine


def unit(node: Node) -> str:
    """Return the name of a machine's unit on a computer that systemd manages."""
    return f"timestamp-service-{node.folder.parent.name}-{node.machine}.service"


def is_supervisor(arguments: Sequence[str], state_folder: Path, machine: str) -> bool:
    """Say whether a command line is that of this machine's supervisor."""
    return tuple(arguments[2:6]) == (*SUPERVISOR, str(state_folder), machine)


def supervisor(spec: Spec, node: Node) -> int | None:
    """Return the process id of a machine's supervisor, or None.

    It is found by its command line, so that an id which another process has taken over cannot mislead.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if is_supervisor(line, spec.state_folder, node.machine) and folder.stat().st_uid == 0:
                return int(folder.name)
    return None


def is_running(spec: Spec, node: Node) -> bool:
    """Say whether a machine runs (or is about to, after a reboot)."""
    if systemd_manages():
        state = run(["systemctl", "show", "--property=ActiveState", "--value", unit(node)]).strip()
        return state not in ("inactive", "failed")
    return supervisor(spec, node) is not None


def groups(node: Node) -> list[Path]:
    """Return the control groups that a machine's supervisor made."""
    return [Path(line) for line in (read(node.folder / "cgroups") or "").splitlines()]


def is_traced(spec: Spec, node: Node) -> bool:
    """Say whether anything of a machine is in memory: processes, mounts, groups."""
    return is_running(spec, node) or any(group.exists() for group in groups(node)) or node.root.is_mount()


def mount(node: Node) -> None:
    """Mount a machine's file system: its own changes over its image."""
    if node.root.is_mount():
        return
    image = (read(node.folder / "image") or "").strip()
    options = f"lowerdir={image},upperdir={node.folder}/upper,workdir={node.folder}/work"
    try:
        run(["mount", "-t", "overlay", "overlay", "-o", options, str(node.root)])
    except NodeError as failure:
        raise NodeError(
            f"{failure}\nThe state folder must lie on a file system that overlayfs can write to (ext4, xfs, "
            "btrfs): set local_node_state_folder in the inventory."
        ) from failure


def start(spec: Spec, node: Node) -> None:
    """Boot a machine whose file system is mounted; returns before it has booted."""
    console = node.folder / "console.log"
    if systemd_manages():
        succeeds(["systemctl", "reset-failed", unit(node)])
        run(
            [
                "systemd-run",
                f"--unit={unit(node)}",
                f"--description=Node {node.name} of timestamp-service",
                "--slice=machine.slice",
                "--collect",
                "--quiet",
                *(f"--property={value}" for value in UNIT_PROPERTIES),
                f"--property=StandardOutput=truncate:{console}",
                "--property=StandardError=inherit",
                "--",
                *command(spec, node),
            ]
        )
        return
    with console.open("w") as log:
        subprocess.Popen(
            [PYTHON, "-B", *SUPERVISOR, str(spec.state_folder), node.machine, *command(spec, node)],
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": str(spec.code_folder),
            },
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop(spec: Spec, nodes: Iterable[Node], patience: float) -> list[Node]:
    """Power machines off at the same time; returns those that were still running after `patience` seconds."""
    left = [node for node in nodes if is_running(spec, node)]
    for node in left:
        if systemd_manages():
            run(["systemctl", "stop", "--no-block", unit(node)])
        elif process := supervisor(spec, node):
            os.kill(process, signal.SIGTERM)
    end = time.monotonic() + patience
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = [node for node in left if is_running(spec, node)]
    return left


def outlive(node: Node, patience: float) -> None:
    """Wait for a machine whose supervisor was killed to power off."""
    end = time.monotonic() + patience
    while cgroups.processes(groups(node)) and time.monotonic() < end:
        time.sleep(0.1)


def clear(spec: Spec, node: Node) -> None:
    """Remove all that a machine has in memory, by force where it still runs: the same as a power cut."""
    if systemd_manages():
        succeeds(["systemctl", "kill", "--signal=KILL", unit(node)])
        succeeds(["systemctl", "stop", unit(node)])
    else:
        # First the supervisor, which would take the end of its child for a reason to end in order.
        if process := supervisor(spec, node):
            os.kill(process, signal.SIGKILL)
        if not cgroups.kill(groups(node), patience=10):
            raise NodeError(
                f"Processes of {node.machine} cannot be killed: {sorted(cgroups.processes(groups(node)))}"
            )
        cgroups.remove(groups(node))
        (node.folder / "cgroups").unlink(missing_ok=True)
    network.remove_cable(node.cable, spec.bridge)
    while node.root.is_mount():
        run(["umount", str(node.root)])
