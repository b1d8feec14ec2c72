"""The nodes that may be disturbed: molecule's, or those that TIMESTAMP_INVENTORY names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from inventory import Service, read_service

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def service() -> Service:
    return read_service(os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "molecule/inventory")))
