"""The nodes that may be disturbed: those of the scenario faults, or those that TIMESTAMP_INVENTORY names.

Helpers come from molecule/shared/side_effects (`disturbed`), which pytest finds by pyproject.toml.
"""

from __future__ import annotations

import os

import pytest
from nodes import Nodes

from cli.inventory import PROJECT, Service, read_service

INVENTORY = os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "molecule/faults/inventory"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ledger-rate", type=float, default=500, help="records a second while a fault lasts")
    parser.addoption(
        "--recovery-seconds", type=float, default=30, help="in which all must recover after a fault"
    )


@pytest.fixture(scope="session")
def service() -> Service:
    return read_service(INVENTORY)


@pytest.fixture(scope="session")
def inventory() -> str:
    """Give the path of the inventory, for plays."""
    return INVENTORY


@pytest.fixture(scope="session")
def nodes(service: Service, inventory: str) -> Nodes:
    return Nodes(service, inventory)
