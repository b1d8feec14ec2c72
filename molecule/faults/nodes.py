"""What the tests do to the nodes: kill, freeze, cut off, fill up; and how long they take to recover."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import disturbed
import node_programs
from disturbed import ask, failures, run, until

from cli.inventory import Host, Service
from cli.units import ACCESS_LOG

KAFKA = "kafka.service"
COMMAND, CONSUMER, QUERY = (f"timestamp-{name}.service" for name in ("command", "consumer", "query"))
NGINX = "nginx.service"
SPARE_BYTES = 48 << 20
# Of systemd's ten points; the lower, the less a unit may do.
EXPOSURE_CEILING = 2.0


@dataclass(frozen=True)
class Nodes:
    """The nodes of an inventory by what they are for."""

    service: Service
    inventory: str

    @property
    def db(self) -> Host:
        """The first node with Kafka and PostgreSQL."""
        return next(node for node in self.service.nodes if "postgresql" in node.groups)

    @property
    def postgresql(self) -> str:
        """The unit of PostgreSQL on `db`."""
        return self.db.postgresql_unit

    @property
    def web(self) -> Host:
        """The first web node."""
        return next(node for node in self.service.nodes if "web" in node.groups)

    def try_play(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ansible-playbook on the inventory; it may fail."""
        return disturbed.try_play(self.inventory, *arguments)

    def play(self, *arguments: str) -> str:
        """Run ansible-playbook on the inventory; returns what it said, and fails when it fails."""
        done = self.try_play(*arguments)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-1000:]}"
        return done.stdout


def output(node: Host, command: str) -> str:
    """Return what a command on a node prints; it must succeed."""
    done = ask(node, command)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def run_program(nodes: Nodes, name: str, *arguments: str) -> Any:
    """Run a program of molecule/shared/programs on the web node; it prints JSON."""
    return json.loads(output(nodes.web, node_programs.command(name, *arguments)))


def broker(nodes: Nodes) -> str:
    """Return where the broker listens."""
    return f"{next(node.address for node in nodes.service.nodes if 'kafka' in node.groups)}:9092"


def check_hardened(node: Host, unit: str) -> None:
    """Check that a unit, which is there, may do little beside its work."""
    line = output(node, f"systemd-analyze security --no-pager {unit}").splitlines()[-1]
    assert float(line.split(":")[1].split()[0]) <= EXPOSURE_CEILING, line


def seconds_until_healthy(service: Service, begun: float, most: float) -> float:
    """Return how many seconds after `begun` every check of `make diagnose` passes. Fails after `most`."""
    while True:
        left = failures(service)
        passed = time.monotonic() - begun
        if not left:
            return passed
        assert passed < most, f"not healthy {passed:.0f} s after the fault's end: {left}"
        time.sleep(0.2)


def main_process(node: Host, unit: str) -> int:
    """Return the id of a unit's main process."""
    return int(output(node, f"systemctl show --property=MainPID --value {unit}"))


def kill(node: Host, unit: str) -> None:
    """Kill a unit's main process by SIGKILL, without systemd."""
    run(node, f"kill -KILL {main_process(node, unit)}")


def workers(node: Host, unit: str) -> list[int]:
    """Return the process ids of gunicorn's workers."""
    return [int(line) for line in output(node, f"pgrep --parent {main_process(node, unit)}").split()]


def processor_seconds(node: Host, processes: list[int]) -> float:
    """Return how long processes have been on a processor so far, together."""
    ticks = 0
    for process in processes:
        # What stands before may hold anything: the name of the program.
        fields = output(node, f"cat /proc/{process}/stat").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / int(output(node, "getconf CLK_TCK"))


@contextmanager
def stopped(node: Host, unit: str) -> Iterator[None]:
    """Keep a unit stopped."""
    run(node, f"systemctl stop {unit}")
    try:
        yield
    finally:
        run(node, f"systemctl start --no-block {unit}")


@contextmanager
def frozen(node: Host, unit: str) -> Iterator[None]:
    """Freeze all processes of a unit; the kernel goes on acknowledging packets for them."""
    run(node, f"systemctl kill --kill-who=all --signal=STOP {unit}")
    try:
        yield
    finally:
        run(node, f"systemctl kill --kill-who=all --signal=CONT {unit}")


@contextmanager
def cut_off(nodes: Nodes) -> Iterator[None]:
    """Drop each packet between the two nodes silently."""
    pairs = ((nodes.db, nodes.web), (nodes.web, nodes.db))
    try:
        for node, other in pairs:
            run(
                node,
                "nft 'add table inet breakage;"
                " add chain inet breakage input { type filter hook input priority -10; };"
                f" add rule inet breakage input ip saddr {other.address} drop'",
            )
        yield
    finally:
        for node, _ in pairs:
            run(node, "nft delete table inet breakage")


@contextmanager
def small_volume(node: Host, unit: str, folder: str) -> Iterator[None]:
    """Keep a unit's data on a volume of its own in memory, of which more than half is free."""
    kept = "/run/small-volume"
    size = f"$(( $(du --summarize --block-size=1 {folder} | cut -f1) * 5 / 2 + {SPARE_BYTES} ))"
    run(
        node,
        f"systemctl stop {unit}; mkdir -p {kept}"
        f" && mount -t tmpfs -o size={size} none {kept}"
        f" && cp --archive --sparse=always {folder}/. {kept} && mount --bind {kept} {folder}"
        f" && systemctl start {unit}",
    )
    try:
        yield
    finally:
        run(
            node,
            f"systemctl stop {unit}; umount {folder} && find {folder} -mindepth 1 -delete"
            f" && cp --archive --sparse=always {kept}/. {folder} && umount {kept} && systemctl start {unit}",
        )


@contextmanager
def full(node: Host, folder: str) -> Iterator[None]:
    """Fill the volume of a folder to the last byte."""
    run(node, f"cat /dev/zero > {folder}/full 2>/dev/null; [ -s {folder}/full ]")
    try:
        yield
    finally:
        run(node, f"rm {folder}/full")


def first_process(service: Service, node: Host) -> int | None:
    """Return the process id, on this computer, of a local machine's init; None where it is none of ours."""
    if service.state_folder is None:
        return None
    for record in service.state_folder.glob(f"*{node.short_name}/cgroups"):
        for group in record.read_text().splitlines():
            for file in Path(group).glob("**/cgroup.procs"):
                for process in file.read_text().split():
                    try:
                        status = Path(f"/proc/{process}/status").read_text()
                    except OSError:
                        continue
                    inside = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                    if len(inside) > 2 and inside[-1] == "1":
                        return int(process)
    return None


def power_cut(nodes: Nodes, *without: Host) -> None:
    """End local machines as a power cut does, then switch them on again; returns when all have booted."""
    processes = [first_process(nodes.service, node) for node in without]
    assert None not in processes, f"{[node.name for node in without]}: not all are machines of this computer"
    running = [process for process in processes if process is not None]
    for process in running:
        os.kill(process, signal.SIGKILL)
    assert until(lambda: not any(Path(f"/proc/{process}").exists() for process in running), 10)
    nodes.play("playbooks/local_up.yml")


def journal(node: Host, unit: str, since: float) -> list[str]:
    """Return the lines of a unit's journal since a time (Unix)."""
    return output(node, f"journalctl --unit={unit} --since=@{since:.0f} --output=cat --no-pager").splitlines()


def answered_by_5xx(node: Host, since: float) -> list[dict[str, Any]]:
    """Return the lines of nginx's access log since a time (Unix) of requests that a 5xx answered."""
    # A minute of it may have been rotated; no line of it is no error.
    text = output(node, f"cat {ACCESS_LOG}* | grep --text '\"status\":5' || true")
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if datetime.fromisoformat(line["time"]).timestamp() >= int(since)]
