"""The programs of molecule/shared/programs, which run on a node by the application's own Python."""

from __future__ import annotations

import base64
import io
import shlex
import tarfile

from cli.inventory import PROJECT

PROGRAMS = PROJECT / "molecule/shared/programs"
PYTHON = "/opt/timestamp-service/current/venv/bin/python"


def command(name: str, *arguments: str) -> str:
    """Return the shell command that brings all programs to a node, runs one of them, and removes them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for file in sorted(PROGRAMS.glob("*.py")):
            archive.add(file, file.name)
    source = base64.b64encode(packed.getvalue()).decode()
    return (
        "folder=$(mktemp --directory) || exit;"
        f" echo {source} | base64 -d | tar --extract --gzip --no-same-owner --directory=$folder"
        f" && {PYTHON} -B $folder/{name} {shlex.join(arguments)}; status=$?; rm -r $folder; exit $status"
    )
