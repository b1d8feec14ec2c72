"""What an inventory says: the service's address, its CA, and how each node is reached by ssh.

Ansible itself resolves the variables, so that templates, group variables and -i behave as in a play.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.units import postgresql_unit, units_of

PROJECT = Path(__file__).resolve().parents[1]
QUESTION = {
    "groups": "{{ group_names }}",
    "address": "{{ node_address | default('') }}",
    "host": "{{ ansible_host | default(inventory_hostname) }}",
    "user": "{{ ansible_user | default('') }}",
    "port": "{{ ansible_port | default('') }}",
    "key": "{{ ansible_ssh_private_key_file | default('') }}",
    "arguments": "{{ ansible_ssh_common_args | default('') }} {{ ansible_ssh_extra_args | default('') }}",
    "authority": "{{ service_ca | default((certificates_folder | default('')) ~ '/ca.crt') }}",
    "secrets": "{{ secrets_folder | default('') }}",
    "state": "{{ local_node_state_folder | default('') }}",
    "postgresql_version": "{{ postgresql_version | default('') }}",
    "url": "{{ service_url | default('') }}",
    "hint": "{{ unreachable_hint | default('') }}",
}


class InventoryError(Exception):
    """Why an inventory could not be read, as a text for a person."""


@dataclass(frozen=True)
class Host:
    """A node: its name, groups, address, and the ssh command that reaches it (without what is to run there).

    The hint says what to do when the node does not answer; units are those that it has to run.
    """

    name: str
    groups: frozenset[str]
    ssh: tuple[str, ...]
    address: str = ""
    hint: str = ""
    units: tuple[str, ...] = ()

    @property
    def short_name(self) -> str:
        """The first label of the name."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Service:
    """What an inventory describes; the url has no slash at its end, the state folder is of local nodes."""

    url: str
    certificate_authority: Path
    secrets_folder: Path
    state_folder: Path
    nodes: tuple[Host, ...]
    postgresql_version: str

    @property
    def postgresql_unit(self) -> str:
        """The unit of PostgreSQL."""
        return postgresql_unit(self.postgresql_version)


def tool(name: str) -> str:
    """Return the path of a program of the Python environment that runs this."""
    return str(Path(sys.executable).parent / name)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment in which Ansible runs: our configuration, whatever the current folder allows."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), **(extra or {})}


def answers(output: str) -> dict[str, dict[str, Any]]:
    """Return each host's message, from the output of ad-hoc `ansible … -m debug` in JSON.

    Raises InventoryError when a host failed or none is there.
    """
    messages = {}
    for match in re.finditer(r"^(\S+) \| (\w+)(?:!)? => (\{.*?^\})", output, re.MULTILINE | re.DOTALL):
        name, word, text = match.groups()
        if word != "SUCCESS":
            raise InventoryError(text)
        messages[name] = json.loads(text)["msg"]
    if not messages:
        raise InventoryError(output.strip()[-2000:] or "The inventory names no host.")
    return messages


def ssh_command(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ssh command for a host from its connection variables."""
    command = ["ssh", *shlex.split(facts["arguments"]), "-o", "ConnectTimeout=5"]
    if facts["key"]:
        command += ["-i", facts["key"]]
    if facts["port"]:
        command += ["-p", str(facts["port"])]
    return (*command, f"{facts['user']}@{facts['host']}" if facts["user"] else facts["host"])


def default_of(role: str, variable: str) -> str:
    """Return a role's default, for an inventory that does not set the variable."""
    return str(yaml.safe_load((PROJECT / f"roles/{role}/defaults/main.yml").read_text())[variable])


def service_of(hosts: Mapping[str, Mapping[str, Any]]) -> Service:
    """Return the service of these hosts; raises InventoryError when no node is in the group web."""
    nodes = {name: one for name, one in hosts.items() if name != "localhost"}
    web = [one for one in nodes.values() if "web" in one["groups"]]
    if not web:
        raise InventoryError("The inventory has no host in the group web.")
    versions = {str(one["postgresql_version"]) for one in nodes.values() if "postgresql" in one["groups"]}
    version = "".join(versions) or default_of("postgresql", "postgresql_version")
    return Service(
        url=(web[0]["url"] or f"https://{web[0]['address']}").rstrip("/"),
        certificate_authority=Path(web[0]["authority"]),
        secrets_folder=Path(web[0]["secrets"]),
        state_folder=Path(web[0]["state"] or default_of("local_node", "local_node_state_folder")),
        nodes=tuple(
            Host(
                name,
                frozenset(one["groups"]),
                ssh_command(one),
                one["address"],
                one["hint"],
                units_of(one["groups"], version),
            )
            for name, one in sorted(nodes.items())
        ),
        postgresql_version=version,
    )


def read_service(inventory: str) -> Service:
    """Read an inventory by Ansible; takes about 0.7 s. Raises InventoryError."""
    command = [tool("ansible"), "-i", inventory, "nodes", "-m", "ansible.builtin.debug"]
    done = subprocess.run(
        [*command, "-a", json.dumps({"msg": QUESTION})],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(
            {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        ),
    )
    try:
        return service_of(answers(done.stdout))
    except InventoryError as error:
        # Ansible explains on stderr what it could not parse.
        reason = f"{error}\n{done.stderr.strip()}".strip()
        raise InventoryError(
            f"The inventory {inventory} cannot be used: {reason}\n"
            "inventories/production is an example to copy."
        ) from error


def pick(nodes: Sequence[Host], name: str) -> Host:
    """Return the node of this full or short name; raises InventoryError naming those there are."""
    for node in nodes:
        if name in (node.name, node.short_name):
            return node
    choices = " or ".join(f"NODE={node.short_name}" for node in nodes)
    raise InventoryError(f"There is no node {name}; use {choices}." if name else f"Name the node: {choices}.")
