"""Takes the lock of a node for the play that runs, and keeps it until the process of the play has ended.

The lock is a socket with a name (man 7 unix, abstract): one process of the node at a time can have it, and
nothing is left of it when that process ends. It is started by ssh, and ends when it hears no more from here:
when the play has ended, however it did, when this computer is off, or when the connection is lost.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import sys
import time
from getpass import getuser
from pathlib import Path
from socket import gethostname
from typing import Any

from ansible import context
from ansible.plugins.action import ActionBase

# Seconds for which a play that has just ended may still have the lock.
GRACE = 5
# Seconds between two signs of life, and without any until the node gives the lock free.
BEAT, SILENCE = 10, 60
# Seconds within which a node must answer.
ANSWER = 60

# Runs here until the play with this process id has ended. The end of its output ends the other process.
WATCH = f"""
import os, select, sys
play = os.pidfd_open(int(sys.argv[1]))
while not select.select([play], [], [], {BEAT})[0]:
    os.write(1, b".")
"""

# Runs on the node. It answers "held"; or "busy", which process has the lock, and whom that has it for.
HOLD = f"""
import os, select, socket, struct, sys, time
address, owner = chr(0) + sys.argv[1], sys.argv[2]
end = time.monotonic() + {GRACE}
while True:
    lock, other = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    try:
        lock.bind(address)
        lock.listen()
        break
    except OSError:
        pass
    process, said = 0, "an owner that does not answer"
    other.settimeout({GRACE})
    try:
        other.connect(address)
        process = struct.unpack("3i", other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        said = other.makefile().read()
    except OSError:
        pass
    if said == owner:
        sys.exit(print("held"))
    if time.monotonic() > end:
        sys.exit(print("busy", process, said))
    time.sleep(0.2)
print("held", flush=True)
while True:
    ready = select.select([0, lock], [], [], {SILENCE})[0]
    if lock in ready:
        with lock.accept()[0] as asking:
            asking.sendall(owner.encode())
    elif not ready or not os.read(0, 4096):
        break
"""


def started(process: int) -> str:
    """Return when a process of this computer was started."""
    ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    boot = next(line.split()[1] for line in Path("/proc/stat").read_text().splitlines() if "btime" in line)
    seconds = int(boot) + ticks / os.sysconf("SC_CLK_TCK")
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def first_line(output: int) -> str:
    """Return the first line of an output, or what there is of it when it ends or the time is over."""
    said = b""
    end = time.monotonic() + ANSWER
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while b"\n" not in said and selector.select(end - time.monotonic()):
            part = os.read(output, 4096)
            if not part:
                break
            said += part
    return said.decode(errors="replace").partition("\n")[0]


class ActionModule(ActionBase):  # type: ignore[misc]
    """node_lock: {name: NAME}. A play may take its lock again."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Take the lock. Fails, and says who has it, if another play does."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if self._task.check_mode:
            return {**result, "skipped": True}
        play = os.getppid()
        books = " ".join(Path(book).name for book in context.CLIARGS["args"])
        owner = f"{getuser()}@{gethostname()} since {started(play)} for {books} (process {play} there)"
        said = self._hold(play, ["python3", "-c", HOLD, self._task.args["name"], owner])
        if said == "held":
            return {**result, "changed": False}
        busy, process, other = [*said.split(" ", 2), "", ""][:3]
        if busy != "busy":
            return {
                **result,
                "failed": True,
                "msg": f"This node did not say whether it is locked ({said or 'no answer'}). Check that ssh"
                " reaches it, and that python3 runs there.",
            }
        return {
            **result,
            "failed": True,
            "msg": f"This node is locked by {other}. Nothing was changed. Wait until that has ended, and run"
            " this play again. The lock ends with that process, and a minute after its computer is switched"
            f" off or cut off. To break it, end that process, or run on the node: kill {process}",
        }

    def _hold(self, play: int, command: list[str]) -> str:
        """Start what holds the lock until the play has ended; returns its answer."""
        answer, asked = os.pipe()
        alone: Any = {"stderr": subprocess.DEVNULL, "start_new_session": True}
        watch = subprocess.Popen(
            [sys.executable, "-c", WATCH, str(play)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            **alone,
        )
        subprocess.Popen(self._reach(shlex.join(command)), stdin=watch.stdout, stdout=asked, **alone)
        os.close(asked)
        said = first_line(answer)
        if said != "held":
            watch.kill()
        return said

    def _reach(self, command: str) -> list[str]:
        """Return the command that runs a command on the node, as the connection of the task does it."""
        connection = self._connection
        if connection.transport != "ssh":
            return ["/bin/sh", "-c", command]
        host = connection.get_option("host") or self._play_context.remote_addr
        built = connection._build_command(connection.get_option("ssh_executable"), "ssh", host, command)
        return [os.fsdecode(part) for part in built]
