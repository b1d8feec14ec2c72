#!/usr/bin/python
"""Keep the wheel of one pinned and hashed requirement on the controller, for nodes that reach no registry."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: pinned_wheel
short_description: Download the wheel of one pinned requirement
description:
  - Takes one project's version and hashes from a requirements file that pip-compile made, and keeps the wheel
    that fits the nodes. A file is used only while its SHA-256 is one of those hashes.
options:
  project:
    description: Name of the project, as it stands in I(requirements).
    type: str
    required: true
  requirements:
    description: Requirements file with hashes.
    type: path
    required: true
  destination:
    description: Folder that keeps the wheel. Made when absent.
    type: path
    required: true
  python_version:
    description: Version of the nodes' Python, such as C(3.11).
    type: str
    required: true
  platforms:
    description: Platform tags that the nodes accept, such as C(manylinux_2_28_x86_64).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Fetch the wheel of Kafka's client
  pinned_wheel:
    project: confluent-kafka
    requirements: requirements/nodes.txt
    destination: "{{ cache_folder }}/kafka/wheels"
    python_version: "3.11"
    platforms: [manylinux_2_28_x86_64]
"""

RETURN = r"""
wheel:
  description: Path of the wheel; empty in check mode when it is not there yet.
  type: str
  returned: success
"""


class WheelError(Exception):
    """There is no such wheel to be had; the message says why."""


@dataclass(frozen=True)
class Requirement:
    """One pinned line of a requirements file: its text, version and SHA-256 digests."""

    text: str
    version: str
    digests: frozenset[str]


def find_requirement(project: str, requirements: str) -> Requirement:
    """The project's block of a requirements file. Raises WheelError when it is not pinned with hashes."""
    match = re.search(
        rf"^{re.escape(project)}==([^\s;\\]+)[^\n]*(?:\n\s+--hash=[^\n]+)+", requirements, re.MULTILINE
    )
    if not match:
        raise WheelError(f"{project} is not pinned with hashes in the requirements file")
    return Requirement(
        text=match.group(0).rstrip("\\ ") + "\n",
        version=match.group(1),
        digests=frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", match.group(0))),
    )


def find_wheel(
    folder: Path, requirement: Requirement, project: str, python_version: str, platforms: list[str]
) -> Path | None:
    """The wheel in a folder that the requirement's hashes, the Python and one of the platforms allow."""
    tags = (f"-cp{python_version.replace('.', '')}-", "-abi3-", "-py3-")
    pattern = f"{project.replace('-', '_')}-{requirement.version}-*.whl"
    for wheel in sorted(folder.glob(pattern)):
        fits = any(platform in wheel.name for platform in platforms) or wheel.name.endswith("-any.whl")
        fits = fits and any(tag in wheel.name for tag in tags)
        if fits and hashlib.sha256(wheel.read_bytes()).hexdigest() in requirement.digests:
            return wheel
    return None


def download(folder: Path, requirement: Requirement, python_version: str, platforms: list[str]) -> None:
    """Have pip fetch the wheel aside and move it into place."""
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=folder) as work:
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
            *("--only-binary", ":all:", "--python-version", python_version, "--implementation", "cp"),
            *(option for platform in platforms for option in ("--platform", platform)),
            *("--dest", work, "--requirement", "/dev/stdin"),
        ]
        done = subprocess.run(command, input=requirement.text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WheelError(f"pip could not download the wheel:\n{done.stderr.strip()}")
        for wheel in Path(work).glob("*.whl"):
            wheel.rename(folder / wheel.name)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one run at a time downloads into a cache."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Download the wheel unless it is there."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "requirements": {"type": "path", "required": True},
            "destination": {"type": "path", "required": True},
            "python_version": {"type": "str", "required": True},
            "platforms": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    folder = Path(module.params["destination"])
    project: str = module.params["project"]
    python_version: str = module.params["python_version"]
    platforms: list[str] = module.params["platforms"]
    try:
        requirement = find_requirement(project, Path(module.params["requirements"]).read_text())
        wheel = find_wheel(folder, requirement, project, python_version, platforms)
        changed = wheel is None
        if changed and not module.check_mode:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                wheel = find_wheel(folder, requirement, project, python_version, platforms)
                if wheel is None:
                    download(folder, requirement, python_version, platforms)
                    wheel = find_wheel(folder, requirement, project, python_version, platforms)
                if wheel is None:
                    raise WheelError(f"no wheel of {project} fits {', '.join(platforms)}")
        module.exit_json(changed=changed, wheel=str(wheel or ""))
    except (WheelError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
