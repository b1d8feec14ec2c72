"""The third layer of validation: a file that its program cannot read is never put in place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from disturbed import ask, try_play

from cli.inventory import PROJECT, Service

INVENTORY = os.environ.get("TIMESTAMP_INVENTORY", str(PROJECT / "molecule/shared/inventory"))
# A role, the group of its node, a setting that only the program itself can know to be wrong, and the file.
WRONG: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("nginx", "web", {"nginx_body_max": "much"}, "/etc/nginx/nginx.conf"),
    (
        "postgresql",
        "postgresql",
        {"postgresql_connections": -1},
        "/etc/postgresql/*/main/conf.d/timestamp-service.conf",
    ),
)


@pytest.mark.parametrize(("role", "group", "settings", "path"), WRONG, ids=lambda value: str(value)[:20])
def test_file_that_cannot_be_read_is_not_put_in_place(
    service: Service, tmp_path: Path, role: str, group: str, settings: dict[str, Any], path: str
) -> None:
    node = next(one for one in service.nodes if group in one.groups)
    before = ask(node, f"sha256sum {path}").stdout
    book = tmp_path / "play.yml"
    # The sizes of PostgreSQL follow the memory of the node, which a play's preflight looks at.
    facts = {"ansible.builtin.import_role": {"name": "base", "tasks_from": "facts"}}
    play = {"hosts": node.name, "become": True, "gather_facts": False, "pre_tasks": [facts], "roles": [role]}
    book.write_text(yaml.safe_dump([play]))
    done = try_play(INVENTORY, str(book), "--extra-vars", json.dumps(settings))
    assert done.returncode != 0
    assert "failed to validate" in done.stdout
    assert before
    assert ask(node, f"sha256sum {path}").stdout == before
