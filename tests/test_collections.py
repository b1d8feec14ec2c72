"""requirements.yml names the versions that the pinned ansible package holds, and all that is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import ansible_collections
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
INSTALLED = Path(next(iter(ansible_collections.__path__)))
REQUIRED = {
    entry["name"]: entry["version"]
    for entry in yaml.safe_load((PROJECT / "requirements.yml").read_text())["collections"]
}


def used_collections() -> Iterator[str]:
    """Yield the collection of every full name in the playbooks, roles and settings."""
    for folder in ("roles", "playbooks", "molecule", ".config", "inventories"):
        for path in (PROJECT / folder).rglob("*.yml"):
            for found in re.finditer(
                r"\b((?:community|ansible)\.(?!builtin)[a-z]+)\.[a-z_0-9]+", path.read_text()
            ):
                yield found[1]


@pytest.mark.parametrize(("name", "version"), REQUIRED.items())
def test_version_is_that_of_the_ansible_package(name: str, version: str) -> None:
    manifest = json.loads((INSTALLED / name.replace(".", "/") / "MANIFEST.json").read_text())
    assert manifest["collection_info"]["version"] == version


def test_every_used_collection_is_named() -> None:
    assert set(used_collections()) == set(REQUIRED)
