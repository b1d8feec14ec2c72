"""Tests of what deploys the application: the modules of the roles, and the files that pin and describe."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PROJECT = Path(__file__).resolve().parents[1]


def load_module(role: str, name: str) -> ModuleType:
    """Import a module of a role's library, which is no package."""
    path = PROJECT / "roles" / role / "library" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module
