"""Tests of what deploys the application: the modules of the roles, and the files that pin and describe."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import kafka_client
import pytest
from ansible.module_utils import basic

# Ansible puts the role's module_utils there.
sys.modules["ansible.module_utils.kafka_client"] = kafka_client

PROJECT = Path(__file__).resolve().parents[1]


def load_module(role: str, name: str, folder: str = "library") -> ModuleType:
    """Import a module of a role's library, or of its other folders of plugins, which are no packages."""
    path = PROJECT / "roles" / role / folder / f"{name}.py"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


RunModule = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunModule:
    """Return a function that runs a module as Ansible does, and returns its answer."""

    def run(module: ModuleType, parameters: dict[str, Any], check_mode: bool = False) -> dict[str, Any]:
        arguments = {**parameters, "_ansible_check_mode": check_mode}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
        with pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return run
