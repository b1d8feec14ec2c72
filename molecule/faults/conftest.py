"""The nodes that may be disturbed: those of the scenario faults, or those that TIMESTAMP_INVENTORY names.

Helpers come from molecule/side_effects (`disturbed`) and scripts, which pytest finds by pyproject.toml.
"""

from __future__ import annotations

import os

import pytest
from inventory import PROJECT, Service, read_service

INVENTORY = os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "molecule/faults/inventory"))


@pytest.fixture(scope="session")
def service() -> Service:
    return read_service(INVENTORY)


@pytest.fixture(scope="session")
def inventory() -> str:
    """Give the path of the inventory, for plays."""
    return INVENTORY
