"""The root file system of a machine: built once from Debian packages, kept in the cache as one archive.

`python3 -m nspawn_nodes.root_image` builds it ahead of time, while the Python environment is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .system import NodeError, erase, lock, make_folder, read, run, write

# Part of the key: raise it when the way of building changes.
RECIPE = 1
# fsync after each package costs more than the rest of its installation, and a machine is quickly remade.
DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
)
APT_OPTIONS = (
    'APT::Install-Recommends "false"',
    'APT::Install-Suggests "false"',
    'Acquire::Languages "none"',
)
# mmdebstrap mounts this computer's /proc, /sys and /dev/shm into the half-made image. So it runs in a mount
# and process namespace of its own, whose processes and mounts are gone when the one that waits for it is.
APART = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
)
# Each machine makes its own identity, and Java's package fails where the folders for manuals are missing,
# which the exclusion above keeps from being made.
STRIP = (
    'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/hostname "$1"/etc/hosts "$1"/etc/resolv.conf && '
    ': > "$1"/etc/machine-id && systemctl --root="$1" --quiet enable systemd-networkd && '
    'for section in 1 5 7 8; do mkdir -p "$1"/usr/share/man/man$section; done'
)


def certificate_authorities(folder: Path) -> dict[str, str]:
    """Return the certificates that this computer trusts beside Debian's own, by file name."""
    return {path.name: path.read_text() for path in sorted(folder.glob("**/*.crt"))}


def key(
    suite: str, mirror: str, architecture: str, packages: Sequence[str], authorities: Mapping[str, str]
) -> str:
    """Name an image after all its parts, so that a change of one gives another image."""
    parts = [str(RECIPE), suite, mirror, architecture, *sorted(packages), *DPKG_OPTIONS, *APT_OPTIONS, STRIP]
    for name, text in sorted(authorities.items()):
        parts += [name, text]
    return f"{suite}-{architecture}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def build_command(
    suite: str, mirror: str, packages: Sequence[str], authorities: Path | None, archive: Path
) -> list[str]:
    """Return the command that builds an image; without a mirror mmdebstrap takes Debian's own."""
    hooks = [STRIP]
    if authorities:
        hooks.append(f'cp {shlex.quote(str(authorities))}/*.crt "$1"/usr/local/share/ca-certificates/')
        hooks.append('chroot "$1" update-ca-certificates >/dev/null')
    return [
        "mmdebstrap",
        "--variant=minbase",
        "--mode=root",
        "--quiet",
        f"--include={','.join(packages)}",
        *(f"--aptopt={option}" for option in APT_OPTIONS),
        *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
        *(f"--customize-hook={hook}" for hook in hooks),
        suite,
        str(archive),
        *([mirror] if mirror else []),
    ]


def checksum(archive: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure(
    cache_folder: Path, suite: str, mirror: str, packages: Sequence[str], authorities_folder: Path
) -> tuple[Path, bool]:
    """Return the archive of the image, and whether it had to be built (about 45 s).

    What lies in the cache is used only when its checksum, written last, fits. Raises NodeError.
    """
    authorities = certificate_authorities(authorities_folder)
    architecture = run(["dpkg", "--print-architecture"]).strip()
    name = key(suite, mirror, architecture, packages, authorities)
    folder = cache_folder / "root"
    make_folder(folder)
    archive = folder / f"{name}.tar.zst"
    sum_file = folder / f"{name}.sha256"
    # Someone who waits here waits for a build, and then has nothing left to do.
    with lock(folder / ".lock", patience=600):
        if archive.exists() and read(sum_file) == f"{checksum(archive)}\n":
            return archive, False
        sum_file.unlink(missing_ok=True)
        # No one else holds the lock, so what was left half-made is nobody's.
        for left in folder.glob("partial*"):
            erase(left)
        partial = folder / "partial"
        make_folder(partial / "authorities")
        for file_name, text in authorities.items():
            write(partial / "authorities" / file_name, text)
        made = partial / archive.name
        command = build_command(
            suite, mirror, packages, partial / "authorities" if authorities else None, made
        )
        try:
            run([*APART, "env", f"TMPDIR={partial}", *command])
            run(["zstd", "--quiet", "--test", str(made)])
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.rename(archive)
            write(sum_file, f"{checksum(archive)}\n")
        finally:
            erase(partial)
        above = cache_folder.stat()
        for path in (archive, sum_file, folder / ".lock"):
            os.chown(path, above.st_uid, above.st_gid)
    return archive, True


def unpack(archive: Path, state_folder: Path) -> Path:
    """Return the folder with the unpacked image, unpacking it when it is not there yet (about 2 s)."""
    folder = state_folder / f"image-{archive.name.removesuffix('.tar.zst')}"
    if folder.is_dir():
        return folder
    partial = state_folder / "image-partial"
    erase(partial)
    partial.mkdir()
    run(["tar", "--extract", "--zstd", "--numeric-owner", "--xattrs", "--xattrs-include=*",
         f"--file={archive}", f"--directory={partial}"])  # fmt: skip
    # mmdebstrap emptied the lists of packages last of all; by their age they would pass for fresh.
    os.utime(partial / "var/lib/apt/lists", (0, 0))
    partial.rename(folder)
    return folder


def main(arguments: Sequence[str]) -> int:
    """Build the image when it is missing; see --help."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the cache folder of timestamp-service")
    parser.add_argument("--suite", default="trixie")
    parser.add_argument("--mirror", default="")
    parser.add_argument("--packages", type=Path, required=True, help="a file with one package a line")
    parser.add_argument("--authorities", type=Path, default=Path("/usr/local/share/ca-certificates"))
    chosen = parser.parse_args(arguments)
    packages = chosen.packages.read_text().split()
    try:
        ensure(chosen.cache, chosen.suite, chosen.mirror, packages, chosen.authorities)
    except NodeError as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
