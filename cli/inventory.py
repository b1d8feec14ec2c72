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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cli.root import as_root, password_lines
from cli.units import (
    APIS,
    CONSUMER,
    CONSUMER_PORT,
    CONTRACT,
    debian_postgresql,
    exporters_of,
    postgresql_unit,
    units_of,
    watch_units,
)

PROJECT = Path(__file__).resolve().parents[1]
# That of the Makefile.
DEFAULT_INVENTORY = "inventories/local"
DASHBOARD_PORT = CONTRACT["contract_dashboard_port"]
QUESTION = {
    "groups": "{{ group_names }}",
    "address": "{{ node_address | default('') }}",
    "host": "{{ ansible_host | default(inventory_hostname) }}",
    "user": "{{ ansible_user | default('') }}",
    "port": "{{ ansible_port | default('') }}",
    "key": "{{ ansible_ssh_private_key_file | default('') }}",
    "arguments": "{{ ansible_ssh_common_args | default('') }} {{ ansible_ssh_extra_args | default('') }}",
    "authority": "{{ service_ca | default((certificates_folder | default('')) ~ '/ca.crt') }}",
    "private_authority": "{{ (certificates_folder | default('')) ~ '/ca.crt' }}",
    "secrets": "{{ secrets_folder | default('') }}",
    "state": "{{ local_node_state_folder | default('') }}",
    "firewall": "{{ firewall_enabled | default(true) | bool }}",
    "postgresql_version": "{{ postgresql_version | default('') }}",
    "url": "{{ service_url | default('') }}",
    "moved": "{{ virtual_address_addresses | default([]) }}",
    "watched": "{{ groups['monitoring'] | default([]) | length > 0 }}",
    "canary": "{{ monitoring_canary | default(true) | bool }}",
    "dashboard": "{{ monitoring_port | default('') }}",
    "dashboard_client_ca": "{{ monitoring_client_ca | default('') }}",
    "hint": "{{ unreachable_hint | default('') }}",
    "become_password": "{{ ansible_become_password | default(ansible_become_pass | default('')) }}",
}


class InventoryError(Exception):
    """Why an inventory could not be read, as a text for a person."""


@dataclass(frozen=True)
class Host:
    """A node: its name, groups, address, and the ssh command that reaches it (without what is to run there).

    The hint says what to do when the node does not answer; units are those that it has to run, and
    firewall says whether one of ours does.
    """

    name: str
    groups: frozenset[str]
    ssh: tuple[str, ...]
    address: str = ""
    hint: str = ""
    units: tuple[str, ...] = ()
    firewall: bool = True
    # Of its PostgreSQL, if it is of the group postgresql.
    database_port: int = 0
    # Our units on a web node, by the port on loopback where each says whether it is ready.
    processes: Mapping[int, str] = field(default_factory=dict, hash=False)
    # Where the nodes are watched: the exporters of its own, with their ports on loopback.
    exporters: Mapping[str, int] = field(default_factory=dict, hash=False)
    # For sudo; empty when it wants none, or the user is root.
    password: str = field(default="", repr=False)

    @property
    def postgresql_unit(self) -> str:
        """The unit of its PostgreSQL; only of a host of the group postgresql."""
        return next(unit for unit in self.units if unit.startswith("postgresql@"))

    @property
    def short_name(self) -> str:
        """The first label of the name."""
        return self.name.partition(".")[0]

    def root_ssh(self, command: str) -> list[str]:
        """Return the ssh command that runs a command as root; `password_lines` come first in its input."""
        return [*self.ssh, "-o", "BatchMode=yes", as_root(command, self.password)]

    @property
    def password_lines(self) -> str:
        """What the input of `root_ssh` begins with."""
        return password_lines(self.password)

    def run(
        self, command: str, timeout: float | None = None, data: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root there, with data as its input. Raises subprocess.TimeoutExpired.

        It may fail; the exit status is NO_ANSWER where the node is away, NOT_ROOT where the user is not root.
        """
        return subprocess.run(
            self.root_ssh(command),
            # Never our own: an ssh that is killed leaves it non-blocking, with which Ansible does not start.
            input=self.password_lines + data,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@dataclass(frozen=True)
class Service:
    """What an inventory describes; the url has no slash at its end, only local nodes have a state folder."""

    url: str
    certificate_authority: Path
    secrets_folder: Path
    state_folder: Path | None
    nodes: tuple[Host, ...]
    inventory: str = DEFAULT_INVENTORY
    # Addresses of the dashboard, the authority of its certificate, and whether it wants a certificate of
    # whoever looks instead of a password.
    dashboards: tuple[str, ...] = ()
    dashboard_authority: Path = Path()
    dashboard_wants_certificate: bool = False


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
        raise InventoryError(output.strip()[-2000:])
    return messages


def ssh_command(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ssh command for a host from its connection variables."""
    command = ["ssh", *shlex.split(facts["arguments"]), "-o", "ConnectTimeout=5"]
    if facts["key"]:
        command += ["-i", facts["key"]]
    if facts["port"]:
        command += ["-p", str(facts["port"])]
    return (*command, f"{facts['user']}@{facts['host']}" if facts["user"] else facts["host"])


@dataclass(frozen=True)
class Database:
    """The cluster of PostgreSQL of a host, and its consumer on the web nodes."""

    unit: str
    port: int = CONTRACT["contract_database_port"]
    consumer: str = CONSUMER
    consumer_port: int = CONSUMER_PORT


def databases(secrets_folder: Path) -> dict[str, Database]:
    """Return the database of each host, as role postgresql noted it in the inventory."""
    path = secrets_folder / "databases.yml"
    noted = yaml.safe_load(path.read_text()) if path.is_file() else {}
    found = {}
    for host, one in noted.items():
        # An earlier release noted no name and port, and the one before it no version: it knew 15 alone.
        known: dict[str, Any] = one if isinstance(one, dict) else {"version": 15}
        found[host] = Database(
            postgresql_unit(str(known["version"]), known.get("name", "main")),
            known.get("port", Database.port),
            f"{known['consumer']}.service" if "consumer" in known else CONSUMER,
            known.get("consumer_port", CONSUMER_PORT),
        )
    return found


def is_true(value: object) -> bool:
    """Tell what Ansible means by a condition in a message, which may be a text."""
    return str(value).lower() == "true"


def service_of(hosts: Mapping[str, Mapping[str, Any]], inventory: str = DEFAULT_INVENTORY) -> Service:
    """Return the service of these hosts; raises InventoryError when no node is in the group web."""
    nodes = {name: one for name, one in hosts.items() if name != "localhost"}
    web = [one for one in nodes.values() if "web" in one["groups"]]
    if not web:
        raise InventoryError("The inventory has no host in the group web.")
    known = databases(Path(web[0]["secrets"]))

    def database(name: str, one: Mapping[str, Any]) -> Database:
        new = Database(postgresql_unit(str(one["postgresql_version"]) or debian_postgresql()))
        return known.get(name, new)

    filled = {name: known[name] for name in nodes if name in known and "postgresql" in nodes[name]["groups"]}
    consumers = {one.consumer_port: one.consumer for one in filled.values()} or {CONSUMER_PORT: CONSUMER}
    processes = {**APIS, **consumers}
    watching = [one for _, one in sorted(nodes.items()) if "monitoring" in one["groups"]]

    return Service(
        url=(web[0]["url"] or f"https://{[*web[0]['moved'], web[0]['address']][0]}").rstrip("/"),
        certificate_authority=Path(web[0]["authority"]),
        secrets_folder=Path(web[0]["secrets"]),
        state_folder=Path(web[0]["state"]) if web[0]["state"] else None,
        nodes=tuple(
            Host(
                name,
                frozenset(one["groups"]),
                ssh_command(one),
                one["address"],
                one["hint"],
                units_of(one["groups"], database(name, one).unit, processes.values(), bool(one["moved"]))
                + (watch_units(one["groups"], is_true(one["canary"])) if is_true(one["watched"]) else ()),
                str(one["firewall"]).lower() != "false",
                database(name, one).port if "postgresql" in one["groups"] else 0,
                processes if "web" in one["groups"] else {},
                exporters_of(one["groups"]) if is_true(one["watched"]) else {},
                str(one["become_password"]),
            )
            for name, one in sorted(nodes.items())
        ),
        inventory=inventory,
        dashboards=tuple(
            f"https://{one['address']}:{one['dashboard'] or DASHBOARD_PORT}/" for one in watching
        ),
        dashboard_authority=Path(web[0]["private_authority"]),
        dashboard_wants_certificate=any(one["dashboard_client_ca"] for one in watching),
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
        return service_of(answers(done.stdout), inventory)
    except InventoryError as error:
        # On stderr Ansible says why it did not start, or what it could not parse.
        reason = f"{error}\n{done.stderr.strip()}".strip() or "The inventory names no host."
        advice = "inventories/production is an example to copy."
        if "locale" in reason:
            advice = "Choose a locale that is installed and UTF-8: export LC_ALL=C.UTF-8"
        raise InventoryError(f"The inventory {inventory} cannot be used: {reason}\n{advice}") from error


def require_local(service: Service) -> Path:
    """Return the folder of the local nodes; raises InventoryError when the inventory is not made of them."""
    if service.state_folder is None:
        raise InventoryError(
            f"The inventory {service.inventory} is not made of machines on this computer (it sets no"
            " local_node_state_folder), so none are created, stopped or erased for it. Nothing was changed."
            f" Its own machines are set up by: ansible-playbook -i {shlex.quote(service.inventory)} site.yml"
        )
    return service.state_folder


def pick(nodes: Sequence[Host], name: str) -> Host:
    """Return the node of this full or short name; raises InventoryError naming those there are."""
    for node in nodes:
        if name in (node.name, node.short_name):
            return node
    choices = " or ".join(f"NODE={node.short_name}" for node in nodes)
    raise InventoryError(f"There is no node {name}; use {choices}." if name else f"Name the node: {choices}.")
