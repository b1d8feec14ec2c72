"""The virtual machine whose power is cut: Vagrant's db, by libvirt. `make vagrant-test` runs these tests.

Helpers come from molecule/faults (`ledgers`) and molecule/shared/side_effects (`disturbed`), which pytest
finds by pyproject.toml.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.inventory import PROJECT, Service, read_service

INVENTORY = os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "inventories/vagrant"))
VAGRANT = Path(os.environ.get("VAGRANT_DOTFILE_PATH", str(PROJECT / ".vagrant")))


@pytest.fixture(scope="session")
def service() -> Service:
    return read_service(INVENTORY)


@pytest.fixture(scope="session")
def domain() -> str:
    """Give libvirt's id of db."""
    return (VAGRANT / "machines/db/libvirt/id").read_text().strip()
