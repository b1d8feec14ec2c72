#!/usr/bin/python
"""Build the archive of a release on the controller: the application's wheel and all that it needs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: release_archive
short_description: Build the archive of a release on the controller
description:
  - The archive holds a wheel of the application and a wheel of everything that it needs, so that the
    node needs neither a compiler nor a registry. It is made once for each content of the sources.
  - Run it with Python's packages pip, build, setuptools and wheel at hand.
options:
  source:
    description: Folder of the application (pyproject.toml and its package).
    type: path
    required: true
  requirements:
    description: The application's requirements, pinned with hashes.
    type: path
    required: true
  installer:
    description: Requirements that pin pip itself, with hashes.
    type: path
    required: true
  archives:
    description: Folder in which archives are kept.
    type: path
    required: true
  python_version:
    description: Python version of the nodes.
    type: str
    required: true
  platforms:
    description: Platforms of which the nodes take wheels.
    type: list
    elements: str
    required: true
author: timestamp-service developers
"""

EXAMPLES = r"""
- name: Build the archive of the release
  release_archive:
    source: app
    requirements: requirements/nodes.txt
    installer: requirements/installer.txt
    archives: /var/cache/releases
    python_version: "3.11"
    platforms: [manylinux_2_28_x86_64]
"""

RETURN = r"""
version:
  description: Version of the application, and the first 12 digits of the SHA-256 over all that went in.
  type: str
  returned: always
path:
  description: The archive.
  type: str
  returned: always
"""


class BuildError(Exception):
    """A step of the build failed; the text says which, and how it ended."""


def packaged_files(source: Path) -> Iterator[Path]:
    """Yield the files of `source` that make up the wheel, in a fixed order."""
    yield source / "pyproject.toml"
    for path in sorted((source / "timestamp_service").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def release_version(source: Path, inputs: list[Path], settings: list[str]) -> str:
    """Name a release after its content: `<version>-<12 hex digits>`.

    Two checkouts with the same content get the same name, whatever their paths and times.
    """
    digest = hashlib.sha256()
    for setting in settings:
        digest.update(setting.encode() + b"\0")
    for path in inputs:
        digest.update(path.read_bytes())
    for path in packaged_files(source):
        digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{application_version(source)}-{digest.hexdigest()[:12]}"


def application_version(source: Path) -> str:
    """Read the application's version from its package, without importing it."""
    text = (source / "timestamp_service" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__\s*=\s*"([^"]+)"', text, re.MULTILINE)
    if not match:
        raise BuildError(f'{source}/timestamp_service/__init__.py has no line __version__ = "..."')
    return match[1]


def run(step: str, command: list[str]) -> None:
    """Run a command of the build; raise BuildError with the end of its output when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{step} failed: {' '.join(command)}\n{done.stdout[-4000:]}")


def build(parameters: dict[str, Any], archive: Path) -> None:
    """Download and build the wheels, and pack them into `archive` in one step."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=archive.parent) as temporary:
        folder = Path(temporary)
        wheels = folder / "wheels"
        target = [f"--python-version={parameters['python_version']}", "--implementation=cp"]
        target += [f"--platform={platform}" for platform in parameters["platforms"]]
        for name in ("requirements", "installer"):
            run(
                f"Downloading the wheels of {parameters[name]}",
                [
                    *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
                    *("--no-deps", "--only-binary=:all:", "--require-hashes", f"--dest={wheels}", *target),
                    f"--requirement={parameters[name]}",
                ],
            )
        # setuptools writes beside the source: it gets a copy.
        source = folder / "source"
        shutil.copytree(
            parameters["source"], source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        )
        run(
            "Building the wheel of the application",
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={wheels}", str(source)],
        )
        shutil.copy(parameters["requirements"], wheels / "requirements.txt")
        unfinished = folder / archive.name
        with tarfile.open(unfinished, "w") as tar:
            tar.add(wheels, arcname="wheels")
        os.replace(unfinished, archive)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "requirements": {"type": "path", "required": True},
            "installer": {"type": "path", "required": True},
            "archives": {"type": "path", "required": True},
            "python_version": {"type": "str", "required": True},
            "platforms": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        version = release_version(
            Path(parameters["source"]),
            [Path(parameters["requirements"]), Path(parameters["installer"])],
            [parameters["python_version"], *parameters["platforms"]],
        )
        archive = Path(parameters["archives"]) / f"timestamp-service-{version}.tar"
        changed = not archive.exists()
        # Check mode builds too: it touches the controller's cache alone, and the next tasks need it.
        if changed:
            build(parameters, archive)
    except (BuildError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, built=changed, version=version, path=str(archive))


if __name__ == "__main__":
    main()
