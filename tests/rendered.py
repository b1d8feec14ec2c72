"""Every template and task of every role, rendered by Ansible itself, for several hosts a group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml

PROJECT = Path(__file__).resolve().parents[1]
ROLES = PROJECT / "roles"
# Three brokers, one of which runs PostgreSQL too, and two web nodes.
ADDRESSES = {
    "kafka1.example.internal": "192.0.2.11",
    "kafka2.example.internal": "192.0.2.12",
    "kafka3.example.internal": "192.0.2.13",
    "web1.example.internal": "192.0.2.21",
    "web2.example.internal": "192.0.2.22",
}
KAFKA = [name for name in ADDRESSES if name.startswith("kafka")]
WEB = [name for name in ADDRESSES if name.startswith("web")]
FACTS = {"memtotal_mb": 8192, "distribution": "Debian", "distribution_major_version": "12", "distribution_version": "12.1"}
# What each password begins with.
SECRET = "A" * 40
# The release that runs beside the one that serves.
RELEASE = "1-abc"
CERTIFICATE_SERVICES = ("kafka", "postgresql", "nginx")
# What the modules that build on the controller return, and what loops over several things hold.
RESULTS = {
    "kafka_distribution_archive_built": {"archive": "/cache/kafka.tgz", "checksum": "0" * 64},
    "kafka_distribution_wheel": {"wheel": "/cache/confluent_kafka-2-cp311-cp311-any.whl"},
    "timestamp_release_archive": {"version": RELEASE, "path": "/cache/release.tar"},
    "certificates_service": "nginx",
}
# Conditions are expressions, not texts, and what a task is called says nothing.
NOT_RENDERED = ("name", "when", "that", "until", "failed_when", "changed_when", "register", "notify")

# host -> `<role or unit>/<file>` -> text
Texts = dict[str, dict[str, str]]


def inventory(folder: Path) -> dict[str, Any]:
    """Return an inventory of hosts that are never reached; its secrets lie in the folder."""

    def hosts(names: list[str]) -> dict[str, Any]:
        return {"hosts": dict.fromkeys(names)}

    return {
        "all": {
            "vars": {
                "secrets_folder": str(folder / "secrets"),
                "certificates_folder": str(folder / "secrets/certificates"),
                "cache_folder": str(folder / "cache"),
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
            }
        },
        "ungrouped": {"hosts": {"localhost": {"ansible_connection": "local"}}},
        "nodes": {
            "hosts": {name: {"node_address": address} for name, address in ADDRESSES.items()},
            "children": {
                "db": {"children": {"kafka": hosts(KAFKA), "postgresql": hosts(KAFKA[:1])}},
                "web": hosts(WEB),
            },
        },
    }


def password(name: str) -> str:
    """Return the password in the file of this name."""
    return SECRET + name.replace("_", "")


def write_secrets(folder: Path) -> None:
    """Write passwords and files in the place of keys, as the templates read them."""
    certificates = folder / "secrets/certificates"
    certificates.mkdir(parents=True)
    for path in read(ROLES / "contract/vars/main.yml")["contract_password_files"].values():
        name = Path(path).name
        (folder / "secrets" / name).write_text(password(name))
    for host in ADDRESSES:
        for service in CERTIFICATE_SERVICES:
            for ending in ("crt", "key"):
                (certificates / f"{host}-{service}.{ending}").write_text(f"{host} {service} {ending}\n")


def read(path: Path) -> Any:
    """Read a YAML file; one that is not there is empty."""
    return (yaml.safe_load(path.read_text()) if path.exists() else None) or {}


def tasks(value: object) -> Iterator[dict[str, Any]]:
    """Yield every task of a file, those in blocks too."""
    for task in value if isinstance(value, list) else []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks(task.get(part))


def groups_of_roles() -> dict[str, str]:
    """Return for each role the hosts that a playbook applies it to; those of site.yml come first."""
    found: dict[str, str] = {}
    for path in (PROJECT / "playbooks/site.yml", *sorted((PROJECT / "playbooks").glob("*.yml"))):
        for play in read(path):
            named = [role["role"] for role in play.get("roles", ())]
            for task in tasks(play.get("tasks")):
                for module in ("ansible.builtin.import_role", "ansible.builtin.include_role"):
                    named += [task[module]["name"]] if module in task else []
            for role in named:
                found.setdefault(role, play["hosts"])
    return found


@dataclass(frozen=True)
class Unit:
    """A unit made from the templates of the role timestamp, the role that uses them, and its variables."""

    name: str
    role: str
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def templates(self) -> tuple[str, ...]:
        """A job has no sockets."""
        job = "process" not in str(self.variables["timestamp_unit"])
        return ("service", "env") if job else ("service", "env", "socket")


def units() -> list[Unit]:
    """Return the processes, each also as one of a release beside the one that serves, and the jobs."""
    beside = {"timestamp_unit_suffix": "-next", "timestamp_deployment_release": RELEASE}
    found = []
    for process in read(ROLES / "timestamp/vars/main.yml")["timestamp_processes"]:
        unit = {"timestamp_unit": f"{{{{ timestamp_process_units['{process}'] }}}}"}
        found += [Unit(f"timestamp-{process}", "timestamp", unit)]
        found += [Unit(f"timestamp-{process}-next", "timestamp", {**unit, **beside})]
    for job, role, variable in (
        ("rebuild", "timestamp", "timestamp_rebuild_unit"),
        ("backup", "timestamp_backup", "timestamp_backup_save_unit"),
        ("restore", "timestamp_backup", "timestamp_backup_restore_unit"),
    ):
        found.append(Unit(f"timestamp-{job}", role, {"timestamp_unit": f"{{{{ {variable} }}}}"}))
    return found


def names_in(text: str) -> set[str]:
    """Return the variables that a template reads."""
    tree = jinja2.Environment(autoescape=True).parse(text)
    return {node.name for node in tree.find_all(jinja2.nodes.Name) if node.ctx == "load"}


def unknown_names(role: str) -> set[str]:
    """Return the variables that a role knows only while it runs, and those that are derived from them."""
    unknown = {"item", "timestamp_process", "base_failed_unit", "ansible_failed_result"}
    for path in (ROLES / role / "tasks").glob("*.yml"):
        for task in tasks(read(path)):
            unknown |= {str(task["register"])} if "register" in task else set()
            unknown |= set(task.get("ansible.builtin.set_fact", ()))
            unknown |= {task.get("loop_control", {}).get("loop_var", "item")}
    unknown -= set(RESULTS)
    variables = read(ROLES / role / "vars/main.yml")
    while True:
        more = {name for name, value in variables.items() if names_in(json.dumps(value)) & unknown} - unknown
        if not more:
            return unknown
        unknown |= more


def renderable(value: Any, unknown: set[str]) -> Any:
    """Return the part of a file of tasks that can be rendered without running it."""
    if isinstance(value, dict):
        more = unknown | {str(name) for name in value.get("vars", ())}
        return {k: renderable(v, more) for k, v in value.items() if k not in NOT_RENDERED}
    if isinstance(value, list):
        return [renderable(one, unknown) for one in value]
    return "" if isinstance(value, str) and names_in(value) & unknown else value


def play(role: str, hosts: str, variables: Mapping[str, Any], rendered: Mapping[str, Any]) -> dict[str, Any]:
    """Return a play that says what texts become with the variables of a role; none of its tasks runs."""
    return {
        "hosts": hosts,
        "gather_facts": False,
        # Only for their defaults and variables.
        "roles": [{"role": one, "tags": "never"} for one in dict.fromkeys(("timestamp", role))],
        "post_tasks": [
            {
                "name": "rendered",
                "ansible.builtin.debug": {"msg": rendered},
                # Here they come before what the role derives.
                "vars": {**RESULTS, **variables, "role_path": str(ROLES / role)},
            }
        ],
    }


def lookup(path: Path) -> str:
    """Return the expression of a template's text."""
    return f"{{{{ lookup('ansible.builtin.template', '{path}') }}}}"


def template_plays() -> Iterator[dict[str, Any]]:
    """Yield a play for the templates of each role and of each unit of the application."""
    groups = groups_of_roles()
    for folder in sorted(ROLES.glob("*/templates")):
        role = folder.parent.name
        if role != "timestamp":
            paths = sorted(folder.glob("**/*.j2"))
            rendered = {f"{role}/{path.relative_to(folder)}": lookup(path) for path in paths}
            yield play(role, groups[role], {}, rendered)
    for unit in units():
        rendered = {
            f"{unit.name}/process.{ending}.j2": lookup(ROLES / f"timestamp/templates/process.{ending}.j2")
            for ending in unit.templates
        }
        yield play(unit.role, groups[unit.role], unit.variables, rendered)


def task_plays() -> Iterator[dict[str, Any]]:
    """Yield a play for the tasks and handlers of each role; it also checks the settings as the role does."""
    for role, hosts in groups_of_roles().items():
        unknown = unknown_names(role)
        variables = units()[0].variables if role == "timestamp" else {}
        paths = [
            path for part in ("tasks", "handlers") for path in sorted((ROLES / role / part).glob("*.yml"))
        ]
        rendered = {
            f"{role}/{path.parent.name}/{path.name}": renderable(read(path), unknown) for path in paths
        }
        made = play(role, hosts, variables, rendered)
        specification = read(ROLES / role / "meta/argument_specs.yml")["argument_specs"]["main"]
        made["post_tasks"].append(
            {
                "ansible.builtin.validate_argument_spec": {
                    "argument_spec": "{{ specification }}",
                    "provided_arguments": {name: f"{{{{ {name} }}}}" for name in specification["options"]},
                },
                "vars": {"specification": specification["options"]},
            }
        )
        preflight = ROLES / role / "tasks/preflight.yml"
        if preflight.exists() and role != "timestamp_backup":
            made["post_tasks"].append({"ansible.builtin.include_tasks": str(preflight)})
        yield made


def run(folder: Path, plays: list[dict[str, Any]], settings: Mapping[str, Any]) -> Texts:
    """Run plays that render texts, with settings as an inventory has them; returns the texts."""
    write_secrets(folder)
    described = inventory(folder)
    described["all"]["vars"] |= settings
    (folder / "hosts.yml").write_text(yaml.safe_dump(described))
    facts = {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.set_fact": {**FACTS, "cacheable": True}}],
    }
    (folder / "render.yml").write_text(yaml.safe_dump([facts, *plays]))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "render.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(ROLES),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_FORKS": "5",
        },
    )
    if done.returncode:
        raise AssertionError(f"The texts could not be rendered:\n{done.stdout[-4000:]}\n{done.stderr}")
    said: Texts = {}
    for played in json.loads(done.stdout)["plays"]:
        for task in played["tasks"]:
            if task["task"]["name"] == "rendered":
                for host, result in task["hosts"].items():
                    texts = {
                        name: value if isinstance(value, str) else yaml.safe_dump(value, width=10_000)
                        for name, value in result["msg"].items()
                    }
                    said.setdefault(host, {}).update(texts)
    return said


def render(folder: Path) -> Texts:
    """Render all templates; returns the text by host and `<role or unit>/<template>`. Takes a few seconds."""
    return run(folder, list(template_plays()), {})


def render_all(folder: Path, settings: Mapping[str, Any]) -> Texts:
    """Render all templates, tasks and handlers with settings, which the roles themselves check."""
    return run(folder, [*template_plays(), *task_plays()], settings)
