"""The few ways in which the other modules touch this computer: commands, files, locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


class NodeError(Exception):
    """What went wrong and how to fix it, as one text."""


def run(command: Sequence[str], text: str | None = None, timeout: float | None = None) -> str:
    """Run a command and return its output; `text` is its standard input.

    Raises NodeError with the command and the end of its messages where it does not exit with 0.
    """
    try:
        done = subprocess.run(
            command, input=text or "", text=True, capture_output=True, timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        raise NodeError(f"{command[0]} is not installed: run `make setup`.") from error
    except subprocess.TimeoutExpired as error:
        raise NodeError(f"No end after {timeout:g} s: {' '.join(command)}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise NodeError(f"Exit status {done.returncode}: {' '.join(command)}\n{said}")
    return done.stdout


def succeeds(command: Sequence[str]) -> bool:
    """Say whether a command exits with 0."""
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0


def read(path: Path) -> str | None:
    """Return the text of a file, or None where there is none."""
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: Path, text: str, mode: int = 0o644, owner: tuple[int, int] | None = None) -> bool:
    """Make a file hold exactly this text, and say whether that changed it.

    A reader sees the old or the new file, never half of one. The mode of an unchanged file is left alone.
    """
    if read(path) == text and not path.is_symlink():
        return False
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        if owner:
            os.fchown(descriptor, *owner)
        file.write(text)
    aside.rename(path)
    return True


def make_folder(path: Path, mode: int = 0o755, owner: tuple[int, int] | None = None) -> None:
    """Make a folder and its missing parents; each new one gets the owner of the folder that it lies in.

    The mode is the last folder's alone. Folders that exist are left as they are.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    above = path.parent.stat()
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(mode)
        os.chown(path, *(owner or (above.st_uid, above.st_gid)))


def mounts_below(folder: Path, mountinfo: str) -> list[Path]:
    """Return what is mounted inside a folder, innermost first, from the text of /proc/self/mountinfo."""
    points = [line.split(" ")[4] for line in mountinfo.splitlines()]
    return [Path(point) for point in reversed(points) if point.startswith(f"{folder}/")]


def erase(folder: Path) -> None:
    """Remove a folder of ours with all that is in it; what is mounted inside is unmounted, never gone into.

    Raises NodeError, and removes nothing, when something stays mounted.
    """
    table = Path("/proc/self/mountinfo")
    for point in mounts_below(folder, table.read_text()):
        succeeds(["umount", str(point)])
    left = mounts_below(folder, table.read_text())
    if left:
        raise NodeError(f"Still mounted, so nothing is erased: {', '.join(map(str, left))}")
    if folder.exists():
        shutil.rmtree(folder)


@contextlib.contextmanager
def lock(path: Path, patience: float) -> Iterator[None]:
    """Hold an exclusive lock on a file; raises NodeError when another has it for `patience` seconds."""
    make_folder(path.parent)
    with path.open("w") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise NodeError(f"Another run holds {path}: wait for it to end, then repeat.") from error
                time.sleep(0.1)
        yield
