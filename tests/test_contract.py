"""What several roles must agree on stands in the role contract, and nowhere else."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import units

PROJECT = Path(__file__).resolve().parents[1]
CONTRACT: dict[str, Any] = yaml.safe_load((PROJECT / "roles/contract/vars/main.yml").read_text())
NODE_STATE = PROJECT / "roles/base/files/node_state.py"
# A page that is made from docs/alerts.md, whose readers want the names written out.
ALERTS_PAGE = PROJECT / "roles/monitoring/files/dashboard/alerts.html"
PARTS = ("defaults", "vars", "tasks", "handlers", "templates", "files", "meta")
FILES = [
    path
    for folder in (*(f"roles/*/{part}" for part in PARTS), "playbooks")
    for path in sorted(PROJECT.glob(f"{folder}/**/*"))
    if path.is_file()
    # The distribution's own example of a configuration is not used; the program runs without Ansible.
    and not {"contract", "kafka_distribution/files"} & {path.parts[-3], "/".join(path.parts[-4:-2])}
    and path not in (NODE_STATE, ALERTS_PAGE)
]
FILES.append(Path(units.__file__))


def constants(value: Any = CONTRACT) -> list[str]:
    """Return the values that are written out; those that are worked out from them repeat nothing."""
    if isinstance(value, dict):
        return [constant for one in value.values() for constant in constants(one)]
    if isinstance(value, list):
        return [constant for one in value for constant in constants(one)]
    # Words as short as a release of Debian stand everywhere.
    return [] if "{%" in str(value) or "{{" in str(value) or len(str(value)) < 3 else [str(value)]


@pytest.mark.parametrize("constant", constants())
def test_constant_is_written_once(constant: str) -> None:
    whole = re.compile(rf"(?<![\w.-]){re.escape(constant)}(?![\w-])")
    copies = [str(path.relative_to(PROJECT)) for path in FILES if whole.search(path.read_text())]
    assert copies == []


@pytest.mark.parametrize("name", CONTRACT)
def test_constant_is_read_by_roles_that_depend_on_the_contract(name: str) -> None:
    reading = {path.parts[-3] for path in FILES if re.search(rf"\b{name}\b", path.read_text())}
    roles = {role for role in reading if (PROJECT / "roles" / role / "meta/main.yml").exists()}
    inside = (PROJECT / "roles/contract/vars/main.yml").read_text().count(name) > 1
    assert roles or inside, f"{name} is read by no role"
    # The tasks of unit_state run within roles that depend on it; another dependency costs a task each time.
    for role in roles - {"unit_state"}:
        meta = yaml.safe_load((PROJECT / "roles" / role / "meta/main.yml").read_text())
        assert {"role": "contract"} in meta["dependencies"], role


def test_program_on_the_nodes_has_the_same_constants() -> None:
    """It is sent to nodes that were never set up, and holds copies for that."""
    specification = importlib.util.spec_from_file_location("node_state", NODE_STATE)
    assert specification
    assert specification.loader
    node_state = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(node_state)
    authority = CONTRACT["contract_ca_file"].replace(
        "{{ contract_settings_folder }}", CONTRACT["contract_settings_folder"]
    )
    assert authority == node_state.CERTIFICATE_AUTHORITY
    assert CONTRACT["contract_kafka_folder"] in node_state.VOLUMES
    assert f'port == "{CONTRACT["contract_broker_port"]}"' in NODE_STATE.read_text()
