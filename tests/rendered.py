"""Every template of every role, rendered by Ansible itself for an inventory with several hosts a group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
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
FACTS = {"memtotal_mb": 8192, "distribution": "Debian", "distribution_major_version": "12"}
SECRET = "A" * 40
# A unit of a release beside the one that serves, as the role timestamp_deployment starts it.
BESIDE = next(
    task["vars"]
    for play in yaml.safe_load((PROJECT / "roles/timestamp_deployment/tasks/main.yml").read_text())
    for task in play.get("block", ())
    if "timestamp_unit_suffix" in task.get("vars", {})
) | {"timestamp_deployment_folder": "/run/next", "timestamp_deployment_release": "1-abc"}
CERTIFICATE_SERVICES = ("kafka", "postgresql", "nginx")


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
        "controller": {"hosts": {"localhost": {"ansible_connection": "local"}}},
        "nodes": {
            "hosts": {name: {"node_address": address} for name, address in ADDRESSES.items()},
            "children": {
                "db": {"children": {"kafka": hosts(KAFKA), "postgresql": hosts(KAFKA[:1])}},
                "web": hosts(WEB),
            },
        },
    }


def write_secrets(folder: Path) -> None:
    """Write passwords and files in the place of keys, as the templates read them."""
    certificates = folder / "secrets/certificates"
    certificates.mkdir(parents=True)
    contract = yaml.safe_load((PROJECT / "roles/contract/vars/main.yml").read_text())
    for path in contract["contract_password_files"].values():
        (folder / "secrets" / Path(path).name).write_text(SECRET)
    for host in ADDRESSES:
        for service in CERTIFICATE_SERVICES:
            for ending in ("crt", "key"):
                (certificates / f"{host}-{service}.{ending}").write_text(f"{host} {service} {ending}\n")


def tasks(value: object) -> Iterator[dict[str, Any]]:
    """Yield every task of a file, those in blocks too."""
    for task in value if isinstance(value, list) else []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks(task.get(part))


def callers(role: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the roles that take this one in with variables of their own, and those variables."""
    found = []
    for path in sorted((PROJECT / "roles").glob("*/tasks/*.yml")):
        for task in tasks(yaml.safe_load(path.read_text())):
            for module in ("ansible.builtin.import_role", "ansible.builtin.include_role"):
                if task.get(module, {}).get("name") == role and "tasks_from" not in task[module]:
                    found.append((path.parents[1].name, task.get("vars", {})))
    return found


def groups_of_roles() -> dict[str, str]:
    """Return the group of hosts that gets each role, as site.yml says."""
    return {
        role["role"]: play["hosts"]
        for play in yaml.safe_load((PROJECT / "playbooks/site.yml").read_text())
        for role in play.get("roles", ())
    }


def plays() -> list[dict[str, Any]]:
    """Return a play for each role and caller that says what its templates become; no task of a role runs."""
    made: list[dict[str, Any]] = [
        {
            "hosts": "nodes",
            "gather_facts": False,
            "tasks": [{"ansible.builtin.set_fact": {**FACTS, "cacheable": True}}],
        }
    ]
    groups = groups_of_roles()
    for folder in sorted((PROJECT / "roles").glob("*/templates")):
        role = folder.parent.name
        names = sorted(str(path.relative_to(folder)) for path in folder.glob("**/*.j2"))
        found = [(role, "", {})] if role in groups else [(one, "", more) for one, more in callers(role)]
        if role == "timestamp_unit":
            found += [(one, BESIDE["timestamp_unit_suffix"], {**more, **BESIDE}) for one, _, more in found]
        for caller, suffix, variables in found:
            rendered = {
                f"{caller}{suffix}/{name}": f"{{{{ lookup('ansible.builtin.template', '{folder / name}') }}}}"
                for name in names
            }
            made.append(
                {
                    "hosts": groups[caller],
                    "gather_facts": False,
                    "vars": dict(variables),
                    # Only for their defaults and variables.
                    "roles": [{"role": one, "tags": "never"} for one in dict.fromkeys((role, caller))],
                    "post_tasks": [{"name": "rendered", "ansible.builtin.debug": {"msg": rendered}}],
                }
            )
    return made


def render(folder: Path) -> dict[str, dict[str, str]]:
    """Render all templates; returns the text by host and `<role>/<template>`. Takes a few seconds."""
    write_secrets(folder)
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory(folder)))
    (folder / "render.yml").write_text(yaml.safe_dump(plays()))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "render.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(PROJECT / "roles"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_FORKS": "5",
        },
    )
    if done.returncode:
        raise AssertionError(f"The templates could not be rendered:\n{done.stdout[-4000:]}\n{done.stderr}")
    said: dict[str, dict[str, str]] = {}
    for play in json.loads(done.stdout)["plays"]:
        for task in play["tasks"]:
            if task["task"]["name"] == "rendered":
                for host, result in task["hosts"].items():
                    said.setdefault(host, {}).update(result["msg"])
    return said
