"""A plugin of pytest: each run writes its results as JUnit XML to a new file in TIMESTAMP_JUNIT_FOLDER.

A stage of `make test` runs pytest more than once, some of it from within Molecule, so one name would not do.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest


# pytest's own plugin for JUnit XML reads the option in the same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Set the option --junitxml."""
    config.option.xmlpath = str(Path(os.environ["TIMESTAMP_JUNIT_FOLDER"]) / f"{uuid.uuid4()}.xml")
