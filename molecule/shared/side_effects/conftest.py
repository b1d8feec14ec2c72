"""The nodes that may be disturbed: molecule's, or those that TIMESTAMP_INVENTORY names."""

from __future__ import annotations

import os

import pytest

from cli.inventory import PROJECT, Service, read_service


@pytest.fixture(scope="session")
def service() -> Service:
    return read_service(os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "molecule/shared/inventory")))
