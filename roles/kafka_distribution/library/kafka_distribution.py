#!/usr/bin/python
"""Build Kafka's archive on the controller, once, or check the one that a user gives."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: kafka_distribution
short_description: Build Kafka's archive from pinned and checked jars
description:
  - Has Maven fetch the jars that C(pom.xml) names, accepts exactly those that C(jars.sha256) lists, and
    packs them with C(bin/) and C(config/) into C(NAME.tgz) in I(destination), unpacked beside it as C(NAME/).
  - What is there is used again only while every file of it is the one that was built; anything else is
    built again.
options:
  name:
    description: Name of the distribution, C(kafka_SCALA-VERSION).
    type: str
    required: true
  source:
    description: Folder with C(pom.xml), C(jars.sha256), and where there are some C(bin/) and C(config/).
    type: path
    required: true
  destination:
    description: Folder that keeps what is built. Made when absent.
    type: path
    required: true
  archive:
    description: A tarball of the user's own, laid out like Apache's. Nothing is built then.
    type: path
  archive_checksum:
    description: What I(archive) must be, C(sha256:HEX). Required with I(archive).
    type: str
  maven:
    description: The Maven to run.
    type: str
    default: mvn
"""

EXAMPLES = r"""
- name: Build Kafka's archive
  kafka_distribution:
    name: kafka_2.13-4.3.1
    source: "{{ role_path }}/files"
    destination: "{{ cache_folder }}/kafka"
"""

RETURN = r"""
archive:
  description: Path of the archive.
  type: str
  returned: success
checksum:
  description: SHA-256 of the archive, in hexadecimal.
  type: str
  returned: success
folder:
  description: Path of the unpacked distribution; empty for a user's own archive.
  type: str
  returned: success
"""


# Raised whenever the same files are packed in another way.
MADE_BY = 1


class BuildError(Exception):
    """The distribution could not be made; the message says why and how to fix it."""


@dataclass(frozen=True)
class Place:
    """Where the parts of one distribution lie in the cache."""

    root: Path
    name: str

    @property
    def archive(self) -> Path:
        """The packed distribution."""
        return self.root / f"{self.name}.tgz"

    @property
    def folder(self) -> Path:
        """The unpacked distribution."""
        return self.root / self.name

    @property
    def manifest(self) -> Path:
        """Written last: no manifest, no distribution."""
        return self.root / f"{self.name}.json"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_under(folder: Path) -> list[Path]:
    """Every file below a folder, relative to it, in a fixed order."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())


def read_checksums(text: str) -> dict[str, str]:
    """Parse sha256sum's format: file name to digest in hexadecimal. Raises ValueError at any other line."""
    checksums: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise ValueError(f"no sha256sum line: {line!r}")
        checksums[name] = digest
    return checksums


def wanted_files(source: Path) -> dict[str, str]:
    """All that a distribution holds: path within it to SHA-256."""
    own = {
        str(Path(part) / path): sha256_of(source / part / path)
        for part in ("bin", "config")
        for path in files_under(source / part)
    }
    return own | read_checksums((source / "jars.sha256").read_text())


def is_whole(folder: Path, wanted: dict[str, str]) -> bool:
    """Whether a folder holds exactly the wanted files, each with the wanted content."""
    if {str(path) for path in files_under(folder)} != set(wanted):
        return False
    return all(sha256_of(folder / name) == digest for name, digest in wanted.items())


def built_checksum(place: Place, wanted: dict[str, str]) -> str | None:
    """SHA-256 of the archive when all that was built is there and undamaged, else None."""
    try:
        manifest = json.loads(place.manifest.read_text())
        if manifest["made_by"] != MADE_BY or manifest["files"] != wanted:
            return None
        if sha256_of(place.archive) != manifest["archive"]:
            return None
        return manifest["archive"] if is_whole(place.folder, wanted) else None
    except (OSError, ValueError, KeyError):
        return None


def proxy_options(proxies: Mapping[str, str]) -> list[str]:
    """Return Maven's options for proxies by scheme, since Maven itself does not read the environment.

    A user and password are not among them: Maven takes these from its settings.xml alone.
    """
    options = []
    for scheme in ("http", "https"):
        url = proxies.get(scheme, "")
        parts = urllib.parse.urlsplit(url if "//" in url else f"//{url}")
        if parts.hostname:
            options += [f"-D{scheme}.proxyHost={parts.hostname}", f"-D{scheme}.proxyPort={parts.port or 80}"]
    names = [name.strip() for name in proxies.get("no", "").split(",") if name.strip()]
    if options and names:
        # A leading dot names a whole domain.
        options.append(
            "-Dhttp.nonProxyHosts=" + "|".join(f"*{name}" if name[0] == "." else name for name in names)
        )
    return options


def fetch_jars(maven: str, source: Path, work: Path, libs: Path) -> None:
    """Have Maven copy the jars into `libs`. A repository of its own keeps a damaged ~/.m2 out of it."""
    pom = work / "pom.xml"
    shutil.copyfile(source / "pom.xml", pom)
    command = [
        *(maven, "--batch-mode", "--no-transfer-progress", "--strict-checksums", "--file", str(pom)),
        *proxy_options(urllib.request.getproxies()),
        *(f"-Dmaven.repo.local={work / 'repository'}", f"-DoutputDirectory={libs}"),
        "dependency:copy-dependencies",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"{maven} not found: install Maven (Debian: apt-get install maven)") from None
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")]
        raise BuildError(
            "Maven could not fetch the jars:\n" + "\n".join(lines[:10] or done.stderr.splitlines()[-10:])
        )


def check_jars(folder: Path, wanted: dict[str, str]) -> None:
    """Raise BuildError unless the folder holds exactly the wanted jars."""
    actual = {str(path): sha256_of(folder / path) for path in files_under(folder)}
    missing, extra = set(wanted) - set(actual), set(actual) - set(wanted)
    wrong = {name for name in set(wanted) & set(actual) if wanted[name] != actual[name]}
    if missing or extra or wrong:
        raise BuildError(
            "the jars are not those that jars.sha256 lists:"
            f" missing {sorted(missing)}, unexpected {sorted(extra)}, of other content {sorted(wrong)}"
        )


def pack(folder: Path, archive: Path) -> None:
    """Pack a folder so that the same files give the same bytes: sorted, one owner, one time."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = "root"
        entry.mode = 0o755 if entry.isdir() or "/bin/" in entry.name else 0o644
        return entry

    # Jars are compressed already: the quickest level loses nothing.
    with (
        archive.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        tar.add(folder, arcname=folder.name, recursive=False, filter=plain)
        for path in sorted(folder.rglob("*")):
            tar.add(path, arcname=f"{folder.name}/{path.relative_to(folder)}", recursive=False, filter=plain)


def check_archive(archive: Path, name: str, wanted: dict[str, str]) -> None:
    """Raise BuildError unless the archive gives back exactly the wanted files."""
    actual = {}
    with tarfile.open(archive) as tar:
        for entry in tar:
            content = tar.extractfile(entry)
            if content is not None:
                digest = hashlib.sha256(content.read()).hexdigest()
                actual[entry.name.removeprefix(f"{name}/")] = digest
    if actual != wanted:
        raise BuildError(f"{archive} does not hold what went in: is the disk full?")


def flush(path: Path) -> None:
    """Have a file's content on the disk before its name is."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def build(place: Place, source: Path, maven: str, wanted: dict[str, str]) -> str:
    """Make archive, folder and manifest aside and rename them into place. Returns the archive's SHA-256."""
    for left_over in place.root.glob(f".build-{place.name}-*"):
        shutil.rmtree(left_over)
    work = Path(tempfile.mkdtemp(prefix=f".build-{place.name}-", dir=place.root))
    try:
        folder = work / place.name
        fetch_jars(maven, source, work, folder / "libs")
        jars = {name: digest for name, digest in wanted.items() if name.startswith("libs/")}
        check_jars(folder, jars)
        for part in filter(lambda name: (source / name).is_dir(), ("bin", "config")):
            shutil.copytree(source / part, folder / part)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        folder.chmod(0o755)
        archive = work / place.archive.name
        pack(folder, archive)
        check_archive(archive, place.name, wanted)
        checksum = sha256_of(archive)
        manifest = work / place.manifest.name
        manifest.write_text(
            json.dumps({"made_by": MADE_BY, "archive": checksum, "files": wanted}, indent=1) + "\n"
        )
        for path in (archive, manifest):
            flush(path)
        place.manifest.unlink(missing_ok=True)
        archive.rename(place.archive)
        if place.folder.exists():
            place.folder.rename(work / "old")
        folder.rename(place.folder)
        manifest.rename(place.manifest)
        return checksum
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_own_archive(archive: Path, expected: str | None) -> str:
    """SHA-256 of the user's archive. Raises BuildError when it is not the one that the user expects."""
    algorithm, _, digest = (expected or "").partition(":")
    if algorithm != "sha256" or len(digest) != 64:
        raise BuildError(
            "kafka_archive_checksum must be given with kafka_archive, as sha256:<64 hexadecimal digits>"
        )
    if not archive.is_file():
        raise BuildError(f"kafka_archive: there is no file {archive}")
    actual = sha256_of(archive)
    if actual != digest.lower():
        raise BuildError(
            f"kafka_archive: {archive} has SHA-256 {actual}, kafka_archive_checksum says {digest}"
        )
    return actual


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Only one run at a time builds in a cache."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Build the archive unless it is there, or check the one that the user gives."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": {"type": "path", "required": True},
            "destination": {"type": "path", "required": True},
            "archive": {"type": "path"},
            "archive_checksum": {"type": "str"},
            "maven": {"type": "str", "default": "mvn"},
        },
        supports_check_mode=True,
    )
    source = Path(module.params["source"])
    place = Place(Path(module.params["destination"]), module.params["name"])
    try:
        if module.params["archive"]:
            archive = Path(module.params["archive"])
            checksum = check_own_archive(archive, module.params["archive_checksum"])
            module.exit_json(changed=False, archive=str(archive), checksum=checksum, folder="")
        wanted = wanted_files(source)
        built = built_checksum(place, wanted)
        changed = built is None
        if changed and not module.check_mode:
            place.root.mkdir(parents=True, exist_ok=True)
            with locked(place.root):
                # Another run may have built it while this one waited.
                built = built_checksum(place, wanted) or build(place, source, module.params["maven"], wanted)
        module.exit_json(
            changed=changed, archive=str(place.archive), checksum=built or "", folder=str(place.folder)
        )
    except (BuildError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
