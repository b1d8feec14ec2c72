"""Every template and task of every role, rendered by Ansible itself, for several hosts a group."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import playbooks

PROJECT = Path(__file__).resolve().parents[1]
ROLES = PROJECT / "roles"
# Three brokers, two of which run PostgreSQL too, and two web nodes.
ADDRESSES = {
    "kafka1.example.internal": "192.0.2.11",
    "kafka2.example.internal": "192.0.2.12",
    "kafka3.example.internal": "192.0.2.13",
    "web1.example.internal": "192.0.2.21",
    "web2.example.internal": "192.0.2.22",
}
KAFKA = [name for name in ADDRESSES if name.startswith("kafka")]
WEB = [name for name in ADDRESSES if name.startswith("web")]
DATABASES = KAFKA[:2]
# Where there are separate controllers, these are they.
CONTROLLERS = {f"controller{number}.example.internal": f"192.0.2.3{number}" for number in (1, 2, 3)}
FACTS = {
    "usable_memory_mb": 8192,
    "architecture": "x86_64",
    "all_ipv4_addresses": list(ADDRESSES.values()),
    "distribution": "Debian",
    # What the module node_limits answers.
    "base_limits": {"ahead": 0.0, "new": True, "free_mb": {"/": 8192}},
}
CONTRACT = yaml.safe_load((ROLES / "contract/vars/main.yml").read_text())
RELEASES: list[str] = CONTRACT["contract_debian_releases"]
# What each password begins with.
SECRET = "A" * 40
# The release that runs beside the one that serves.
RELEASE = "1-abc"
CERTIFICATE_SERVICES = ("kafka", "postgresql", "nginx", "peer")
# What the modules that build on the controller return, and what loops over several things hold.
RESULTS = {
    "kafka_distribution_archive_built": {"archive": "/cache/kafka.tgz", "checksum": "0" * 64},
    "kafka_distribution_wheel": {"wheel": "/cache/confluent_kafka-2-cp313-cp313-any.whl"},
    "timestamp_release_archive": {"version": RELEASE, "path": "/cache/release.tar"},
    "certificates_service": "nginx",
    "base_system_unit": {"name": "ssh.service", "file": "/etc/ssh/sshd_config", "state": "reloaded"},
    "firewall_client": "198.51.100.7",
    "firewall_ssh_ports": [22],
    "base_packages_there": {"stdout": ""},
    "base_loaded_modules": {"stdout": ""},
    "kafka_name_step": 3,
    "timestamp_rebuild_host": DATABASES[0],
    "timestamp_moving_host": DATABASES[0],
    "timestamp_removed_consumer": "timestamp-consumer-gone",
    # What the first broker was formatted with, before the others came; they have none yet.
    "kafka_bootstrap_written": (
        "{{ '192.0.2.11:9093,192.0.2.99:9093' if inventory_hostname is search('kafka1') else '' }}"
    ),
    "kafka_gate_without": ["kafka2.example.internal"],
    "kafka_outdated": ["kafka1.example.internal"],
    "kafka_removed": "kafka3.example.internal",
    "kafka_voters": {"stdout": "3 CCCCCCCCCCCCCCCCCCCCCC 1873 0 1764252000400 1764252000300 Follower"},
    "kafka_cluster_remembered": {
        "brokers": {name: {"node_id": number} for number, name in enumerate(KAFKA, start=1)}
    },
    "virtual_address_asked": {
        "stdout": '[{}, {"ifname": "eth0", "addr_info": [{"local": "192.0.2.21", "prefixlen": 24}]}]'
    },
    "kafka_broker": {
        "node_id": "{{ contract_kafka_nodes.index(inventory_hostname) + 1 }}",
        "log_id": "AAAAAAAAAAAAAAAAAAAAAA",
        "founder": True,
        "formatted": True,
    },
}
# Conditions are expressions, not texts.
NOT_RENDERED = ("when", "that", "until", "failed_when", "changed_when", "register", "notify")

# host -> `<role or unit>/<file>` -> text
Texts = dict[str, dict[str, str]]


def inventory(folder: Path, separate: bool = False) -> dict[str, Any]:
    """Return an inventory of hosts that are never reached; its secrets lie in the folder.

    `separate`: Kafka's controllers are hosts of their own.
    """

    def hosts(names: list[str]) -> dict[str, Any]:
        return {"hosts": dict.fromkeys(names)}

    controllers = CONTROLLERS if separate else {}
    return {
        "all": {
            "vars": {
                "secrets_folder": str(folder / "secrets"),
                "certificates_folder": str(folder / "secrets/certificates"),
                "cache_folder": str(folder / "cache"),
                "service_url": "https://service.example.internal",
                "service_ca": str(folder / "service.crt"),
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
            }
        },
        "ungrouped": {"hosts": {"localhost": {"ansible_connection": "local"}}},
        "nodes": {
            "hosts": {name: {"node_address": address} for name, address in (ADDRESSES | controllers).items()},
            "children": {
                "kafka": hosts(KAFKA),
                "postgresql": hosts(DATABASES),
                "web": hosts(WEB),
                **({"kafka_controllers": hosts([*controllers])} if separate else {}),
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
    for name in (f"{one}_password" for one in CONTRACT["contract_password_files"]):
        (folder / "secrets" / name).write_text(password(name))
    for host in ADDRESSES | CONTROLLERS:
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
    groups: dict[str, str] = {}
    for path in (PROJECT / "playbooks/site.yml", *sorted((PROJECT / "playbooks").glob("*.yml"))):
        for play in read(path):
            named = [role["role"] for role in play.get("roles", ())]
            for task in tasks(play.get("tasks")):
                for module in ("ansible.builtin.import_role", "ansible.builtin.include_role"):
                    named += [task[module]["name"]] if module in task else []
            for role in named:
                groups.setdefault(role, play["hosts"])
    return groups


@dataclass(frozen=True)
class Unit:
    """A unit made from the templates of the role timestamp, the role that uses them, and its variables."""

    name: str
    role: str
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def templates(self) -> tuple[str, ...]:
        """A job has no sockets."""
        job = not re.search("api|consumer|moving", str(self.variables["timestamp_unit"]))
        return ("service", "env") if job else ("service", "env", "socket")


def units() -> list[Unit]:
    """Return the processes, each also as one of a release beside the one that serves, and the jobs."""
    beside = {"timestamp_unit_suffix": "-next", "timestamp_release_name": RELEASE}
    described = []
    processes = {
        "timestamp-command": "timestamp_api_units.command",
        "timestamp-consumer": f"timestamp_consumer_units['{DATABASES[0]}']",
        "timestamp-consumer-kafka2": f"timestamp_consumer_units['{DATABASES[1]}']",
        "timestamp-query": "timestamp_api_units.query",
    }
    for name, variable in processes.items():
        unit = {"timestamp_unit": f"{{{{ {variable} }}}}"}
        described += [Unit(name, "timestamp", unit)]
        described += [Unit(f"{name}-next", "timestamp", {**unit, **beside})]
    moving = {"timestamp_unit": "{{ timestamp_moving_unit }}"}
    described.append(Unit("timestamp-consumer-moving", "timestamp", moving))
    for job, role, variable in (
        ("rebuild", "timestamp", "timestamp_rebuild_unit"),
        ("backup", "timestamp_backup", "timestamp_backup_save_unit"),
        ("restore", "timestamp_backup", "timestamp_backup_restore_unit"),
    ):
        described.append(Unit(f"timestamp-{job}", role, {"timestamp_unit": f"{{{{ {variable} }}}}"}))
    return described


def names_in(text: str) -> set[str]:
    """Return the names in a template, those of variables among them."""
    return set(re.findall(r"\w+", text)) if "{{" in text or "{%" in text else set()


def facts(release: str) -> dict[str, Any]:
    """Return the facts of a node with a release of Debian, and what that has."""
    version = {"distribution_major_version": release, "distribution_version": f"{release}.1"}
    return {**FACTS, **version, **read(ROLES / f"contract/vars/debian-{release}.yml")}


def unknown_names() -> set[str]:
    """Return the variables that roles know only while they run, and those that are derived from them."""
    unknown = {
        "item",
        "timestamp_units",
        "unit_state_unit",
        "unit_state_units",
        "base_failed_unit",
        "ansible_failed_result",
        "timestamp_backup_unit_name",
        "kafka_credential_secret",
        "kafka_credential_step",
        "postgresql_credential_secret",
        "postgresql_credential_step",
        "postgresql_dropped",
        "postgresql_here",
        "postgresql_noted",
        "postgresql_step",
        "secrets_name",
    }
    for path in (*ROLES.glob("*/tasks/*.yml"), *ROLES.glob("*/handlers/*.yml")):
        for task in tasks(read(path)):
            unknown |= {str(task["register"])} if "register" in task else set()
            unknown |= set(task.get("ansible.builtin.set_fact", ()))
            unknown |= {task.get("loop_control", {}).get("loop_var", "item")}
    unknown -= set(RESULTS)
    variables = {
        name: json.dumps(value)
        for path in ROLES.glob("*/vars/main.yml")
        for name, value in read(path).items()
    }
    while True:
        more = (
            {name for name, value in variables.items() if names_in(value) & unknown} - unknown - set(RESULTS)
        )
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


def lookup(path: Path) -> str:
    """Return the expression of a template's text."""
    return f"{{{{ lookup('ansible.builtin.template', '{path}') }}}}"


def debug(role: str, variables: Mapping[str, Any], texts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task that says what texts become with these variables, and with those of a role."""
    return {
        "name": "rendered",
        "ansible.builtin.debug": {"msg": texts},
        # Here they come before what the role derives.
        "vars": {**RESULTS, **variables, "role_path": str(ROLES / role)},
    }


def template_tasks(role: str) -> Iterator[dict[str, Any]]:
    """Yield a task for the templates of a role, and one for each unit that it describes."""
    folder = ROLES / role / "templates"
    if role != "timestamp" and folder.is_dir():
        paths = sorted(folder.glob("**/*.j2"))
        yield debug(role, {}, {f"{role}/{path.relative_to(folder)}": lookup(path) for path in paths})
    for unit in units():
        if unit.role == role:
            texts = {
                f"{unit.name}/process.{ending}.j2": lookup(ROLES / f"timestamp/templates/process.{ending}.j2")
                for ending in unit.templates
            }
            yield debug(role, unit.variables, texts)


def file_tasks(role: str) -> Iterator[dict[str, Any]]:
    """Yield a task for the tasks and handlers of a role, and those that check its settings."""
    unknown = unknown_names()
    unit = "{{ timestamp_api_units.command }}"
    paths = [path for part in ("tasks", "handlers") for path in sorted((ROLES / role / part).glob("*.yml"))]
    texts = {f"{role}/{path.parent.name}/{path.name}": renderable(read(path), unknown) for path in paths}
    yield debug(role, {"timestamp_unit": unit, "timestamp_job": {"name": "job", "done": "done"}}, texts)
    specification = read(ROLES / role / "meta/argument_specs.yml")["argument_specs"]["main"]
    yield {
        "ansible.builtin.validate_argument_spec": {
            "argument_spec": "{{ specification }}",
            "provided_arguments": {name: f"{{{{ {name} }}}}" for name in specification["options"]},
        },
        "vars": {"specification": specification["options"], "role_path": str(ROLES / role)},
    }
    preflight = ROLES / role / "tasks/preflight.yml"
    # These ask for files, and for the interfaces of the node.
    if preflight.exists() and role not in ("timestamp_backup", "virtual_address"):
        yield {"ansible.builtin.include_tasks": str(preflight)}


def plays(
    *parts: Callable[[str], Iterator[dict[str, Any]]], only: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return a play for each role, or for some, that says what its texts become; no task of a role runs."""
    made = []
    for role, hosts in groups_of_roles().items():
        if only and role not in only:
            continue
        tasks_of_role = [task for part in parts for task in part(role)]
        # Only for their defaults and variables.
        named = [{"role": one, "tags": "never"} for one in dict.fromkeys(("timestamp", role))]
        if tasks_of_role:
            made.append({"hosts": hosts, "gather_facts": False, "roles": named, "post_tasks": tasks_of_role})
    return made


def run(
    folder: Path,
    plays: list[dict[str, Any]],
    settings: Mapping[str, Any],
    limit: str = "all,localhost",
    release: str = RELEASES[-1],
    separate: bool = False,
) -> Texts:
    """Run plays that render texts, with settings as an inventory has them; returns the texts."""
    write_secrets(folder)
    described = inventory(folder, separate)
    described["all"]["vars"] |= settings
    (folder / "hosts.yml").write_text(yaml.safe_dump(described))
    known = {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.set_fact": {**facts(release), "cacheable": True}}],
    }
    (folder / "render.yml").write_text(yaml.safe_dump([known, *plays]))
    done = playbooks.run(
        *("-i", "hosts.yml", "--limit", limit, "render.yml"),
        folder=folder,
        ANSIBLE_ROLES_PATH=str(ROLES),
        ANSIBLE_STDOUT_CALLBACK="ansible.posix.json",
        ANSIBLE_FORKS="5",
    )
    if done.returncode:
        raise AssertionError(f"The texts could not be rendered:\n{done.stdout[-4000:]}\n{done.stderr}")
    by_host: Texts = {}
    for played in json.loads(done.stdout)["plays"]:
        for task in played["tasks"]:
            if task["task"]["name"] == "rendered":
                for host, result in task["hosts"].items():
                    texts = {
                        name: value if isinstance(value, str) else yaml.safe_dump(value, width=10_000)
                        for name, value in result["msg"].items()
                    }
                    by_host.setdefault(host, {}).update(texts)
    return by_host


def render(folder: Path, release: str = RELEASES[-1]) -> Texts:
    """Render all templates for nodes with a release of Debian, in a few seconds.

    Returns the text by host and `<role or unit>/<template>`.
    """
    return run(folder, plays(template_tasks), {}, release=release)


def render_separate(folder: Path, only: Collection[str]) -> Texts:
    """Render the templates of some roles for nodes of which Kafka's controllers are hosts of their own."""
    return run(folder, plays(template_tasks, only=only), {}, separate=True)


def render_all(folder: Path, settings: Mapping[str, Any], only: Collection[str] = ()) -> Texts:
    """Render all templates, tasks and handlers with settings, which the roles check; for one host a group.

    `only`: of these roles.
    """
    hosts = f"{KAFKA[0]},{WEB[0]},localhost"
    return run(folder, plays(template_tasks, file_tasks, only=only), settings, hosts)
