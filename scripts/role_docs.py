"""`make docs`: the README of every role and docs/variables.md, made from the roles' argument specs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
# A bar would end the cell of a table.
BAR = "\\|"
MADE_BY = (
    "<!-- Made by `make docs` from roles/*/meta/argument_specs.yml and defaults/main.yml: edit those. -->"
)
INTRODUCTION = f"""{MADE_BY}
# Variables

Every variable of every role, with its default. Set one in your inventory: for all hosts in
`group_vars/all.yml`, for a group in `group_vars/<group>.yml`, for one host in `host_vars/<host>.yml`. What
belongs to the inventory itself (`node_address`, `secrets_folder`, …) is explained in
[inventories/production](../inventories/production/).
"""


@dataclass(frozen=True)
class Variable:
    """One variable of a role; the default is YAML's value, and None where it must be set."""

    name: str
    type: str
    description: str
    required: bool
    default: Any


@dataclass(frozen=True)
class EntryPoint:
    """One way into a role: `main`, or another file of its tasks."""

    name: str
    short_description: str
    variables: tuple[Variable, ...]


@dataclass(frozen=True)
class Role:
    """What a role says of itself."""

    name: str
    entry_points: tuple[EntryPoint, ...]

    @property
    def main(self) -> EntryPoint:
        """The entry point that a play uses."""
        return next(one for one in self.entry_points if one.name == "main")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; one that is not there is empty."""
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def description(option: Mapping[str, Any]) -> str:
    """Return a variable's description, which may be a list of paragraphs, as one line."""
    said = option.get("description", "")
    return " ".join((said if isinstance(said, str) else " ".join(said)).split())


def variable(name: str, option: Mapping[str, Any], defaults: Mapping[str, Any]) -> Variable:
    """Join what the specification and the defaults say of a variable."""
    elements = f" of {option['elements']}" if "elements" in option else ""
    return Variable(
        name=name,
        type=f"{option.get('type', 'str')}{elements}",
        description=description(option),
        required=bool(option.get("required", False)),
        default=defaults.get(name, option.get("default")),
    )


def read_role(folder: Path) -> Role:
    """Read a role's specification and defaults."""
    defaults = read_yaml(folder / "defaults/main.yml")
    specification = read_yaml(folder / "meta/argument_specs.yml")["argument_specs"]
    return Role(
        name=folder.name,
        entry_points=tuple(
            EntryPoint(
                name=name,
                short_description=said["short_description"],
                variables=tuple(
                    variable(key, option, defaults) for key, option in (said.get("options") or {}).items()
                ),
            )
            for name, said in specification.items()
        ),
    )


def read_roles(roles: Path) -> tuple[Role, ...]:
    """Read every role in a folder, by name."""
    return tuple(read_role(path.parents[1]) for path in sorted(roles.glob("*/meta/argument_specs.yml")))


def is_computed(value: Any) -> bool:
    """Whether a default is worked out by a template."""
    return "{{" in json.dumps(value)


def shown_default(one: Variable, defaults: str) -> str:
    """Return the cell for a default; a computed one is a link to the file where it stands."""
    if one.required:
        return "must be set"
    if is_computed(one.default):
        return f"[computed]({defaults})"
    return f"`{json.dumps(one.default, ensure_ascii=False)}`"


def table(variables: Sequence[Variable], defaults: str) -> str:
    """Return a Markdown table of variables."""
    if not variables:
        return "It has no variables.\n"
    rows = ["| variable | type | default | what it is |", "| --- | --- | --- | --- |"]
    for one in variables:
        cells = [f"`{one.name}`", one.type, shown_default(one, defaults), one.description]
        rows.append(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |")
    return "\n".join(rows) + "\n"


def readme(role: Role) -> str:
    """Return the README of a role."""
    parts = [f"{MADE_BY}\n# {role.name}\n\n{role.main.short_description}.\n"]
    for entry in role.entry_points:
        if entry.name != "main":
            parts.append(f"## `tasks_from: {entry.name}`\n\n{entry.short_description}.\n")
        parts.append(table(entry.variables, "defaults/main.yml"))
    return "\n".join(parts)


def variables_page(roles: Sequence[Role]) -> str:
    """Return docs/variables.md."""
    parts = [INTRODUCTION]
    for role in roles:
        parts.append(f"## [{role.name}](../roles/{role.name}/)\n\n{role.main.short_description}.\n")
        parts.append(table(role.main.variables, f"../roles/{role.name}/defaults/main.yml"))
    return "\n".join(parts)


def pages(project: Path) -> dict[Path, str]:
    """Return every page and what must stand in it."""
    roles = read_roles(project / "roles")
    made = {project / "roles" / role.name / "README.md": readme(role) for role in roles}
    return {**made, project / "docs/variables.md": variables_page(roles)}


def stale(project: Path) -> list[Path]:
    """Return the pages that are missing or differ from what would be made."""
    return [
        path
        for path, text in pages(project).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str]) -> int:
    """Make the pages; with --check only say which are not as they would be made."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    chosen = parser.parse_args(arguments)
    old = stale(PROJECT)
    if chosen.check:
        for path in old:
            print(f"{path.relative_to(PROJECT)} is not up to date: run `make docs`.", file=sys.stderr)
        return 1 if old else 0
    for path in old:
        path.parent.mkdir(exist_ok=True)
        path.write_text(pages(PROJECT)[path], encoding="utf-8")
        print(path.relative_to(PROJECT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
