"""Every role says the same in its defaults, its argument specification and its pages, and hides no step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered import tasks

from scripts import role_docs

PROJECT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(path for path in (PROJECT / "roles").iterdir() if (path / "tasks").is_dir())
# They belong to the inventory; a role may ask for them.
OF_THE_INVENTORY = {"node_address", "secrets_folder", "certificates_folder", "cache_folder"}
each_role = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def options(folder: Path) -> dict[str, dict[str, Any]]:
    specification = role_docs.read_yaml(folder / "meta/argument_specs.yml")["argument_specs"]
    return specification["main"].get("options") or {}


def defaults(folder: Path) -> dict[str, Any]:
    return role_docs.read_yaml(folder / "defaults/main.yml")


@each_role
def test_specification_and_defaults_list_the_same_variables(folder: Path) -> None:
    optional = {name for name, option in options(folder).items() if not option.get("required")}
    assert optional == set(defaults(folder))


@each_role
def test_specification_and_defaults_give_the_same_values(folder: Path) -> None:
    said = options(folder)
    for name, value in defaults(folder).items():
        # What is worked out from other variables need not be repeated.
        if "default" in said[name] or not role_docs.is_computed(value):
            assert said[name].get("default") == value, name


@each_role
def test_every_variable_is_typed_described_and_named_after_its_role(folder: Path) -> None:
    for name, option in options(folder).items():
        assert name.startswith(f"{folder.name}_") or name in OF_THE_INVENTORY, name
        assert option.get("type"), f"{name} has no type"
        assert role_docs.description(option).endswith("."), f"{name} needs a description"
        assert (option["type"] == "list") == ("elements" in option), f"{name}: elements of the list"


@each_role
def test_no_two_variables_are_described_alike(folder: Path) -> None:
    said = [role_docs.description(option) for option in options(folder).values()]
    assert sorted(said) == sorted(set(said))


@each_role
def test_every_default_has_a_comment(folder: Path) -> None:
    """A comment stands above each variable, or above the group that it is in."""
    path = folder / "defaults/main.yml"
    if not path.exists():
        return
    for block in path.read_text().split("\n\n"):
        if re.search(rf"^{folder.name}_\w+:", block, re.MULTILINE):
            first = block.removeprefix("---\n").splitlines()[0]
            assert first.startswith("#"), f"No comment above:\n{block}"


@each_role
def test_role_says_what_it_is_for(folder: Path) -> None:
    first = (folder / "tasks/main.yml").read_text().removeprefix("---\n").splitlines()[0]
    assert re.match(r"# [A-Za-z].*\.$", first), first


@each_role
def test_templates_say_that_ansible_writes_them(folder: Path) -> None:
    for path in (folder / "templates").glob("**/*"):
        if path.is_file():
            assert path.suffix == ".j2", path.name
            text = path.read_text()
            assert "ansible_managed" in "\n".join(text.splitlines()[:2]) or path.name.endswith(".pem.j2"), (
                path
            )


@each_role
def test_templates_write_the_same_order_each_time(folder: Path) -> None:
    """Ansible's filters of sets give another order in each run, by which a file would change for nothing."""
    for path in (folder / "templates").glob("**/*.j2"):
        for line in path.read_text().splitlines():
            assert not re.search(
                r"\|\s*(difference|intersect|union|symmetric_difference)\(", line
            ) or re.search(r"\|\s*sort\b", line), f"{path}: {line}"


def test_no_play_runs_on_all_hosts() -> None:
    """localhost is a host of every inventory, so a play names the group that it means."""
    for path in (PROJECT / "playbooks").glob("*.yml"):
        for play in yaml.safe_load(path.read_text()):
            assert play.get("hosts") != "all", path.name


def all_tasks() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each task of the roles and the playbooks, with the name of its file."""
    for path in (PROJECT / "roles").glob("*/tasks/*.yml"):
        for task in tasks(yaml.safe_load(path.read_text())):
            yield str(path.relative_to(PROJECT)), task
    for path in (PROJECT / "playbooks").glob("*.yml"):
        for play in yaml.safe_load(path.read_text()):
            for task in tasks(play.get("tasks")):
                yield str(path.relative_to(PROJECT)), task


@pytest.mark.parametrize(
    ("module", "option", "values"),
    [
        # unattended-upgrades holds the lock for minutes.
        ("ansible.builtin.apt", "lock_timeout", {600}),
        # A proxy of the environment is for downloads, and knows nothing of the nodes.
        ("ansible.builtin.uri", "use_proxy", {False}),
        # Else root's umask decides: at 077 no service could read it. The scenario default has such a one.
        ("ansible.builtin.unarchive", "mode", {"u=rwX,go=rX"}),
    ],
)
def test_each_task_of_a_module_has_its_option(module: str, option: str, values: set[object]) -> None:
    found = [(name, task[module].get(option)) for name, task in all_tasks() if module in task]
    assert found
    assert [name for name, value in found if value not in values] == []


def test_each_role_of_the_site_has_a_tag_and_what_all_need_runs_always() -> None:
    plays = yaml.safe_load((PROJECT / "playbooks/site.yml").read_text())
    roles = [role for play in plays for role in play.get("roles", ())]
    assert roles
    assert [role.get("tags") for role in roles] == [role["role"] for role in roles]
    imports = {
        play["ansible.builtin.import_playbook"]: play.get("tags")
        for play in plays
        if "ansible.builtin.import_playbook" in play
    }
    assert imports == {
        "preflight.yml": "always",
        "host_conflicts.yml": "always",
        "nodes.yml": "always",
        "clusters.yml": "always",
        "secrets.yml": "always",
        "acme.yml": "nginx",
        "summary.yml": None,
    }


def test_pages_are_up_to_date() -> None:
    old = [str(path.relative_to(PROJECT)) for path in role_docs.stale(PROJECT)]
    assert old == [], "run `make docs`"


def test_page_shows_what_a_variable_is() -> None:
    role = role_docs.Role(
        "one",
        (
            role_docs.EntryPoint(
                "main",
                "What it does",
                (
                    role_docs.variable("one_a", {"type": "int", "description": "A."}, {"one_a": 3}),
                    role_docs.variable("one_b", {"type": "str", "description": "B|C."}, {"one_b": "{{ x }}"}),
                    role_docs.variable("one_c", {"type": "str", "description": "C.", "required": True}, {}),
                ),
            ),
        ),
    )
    page = role_docs.readme(role)
    assert "| `one_a` | int | `3` | A. |" in page
    assert "| `one_b` | str | [computed](defaults/main.yml) | B\\|C. |" in page
    assert "| `one_c` | str | must be set | C. |" in page
