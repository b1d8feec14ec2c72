#!/usr/bin/python
"""Look for what a host had before us and would lose: each finding names its remedy. Changes nothing."""

from __future__ import annotations

import glob
import json
import os
import pathlib
import pwd
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_conflicts
short_description: Find what a host had before, and would lose
description:
  - Looks at listening ports, nginx, PostgreSQL, Kafka, other firewalls, logins by password and the journal.
  - What an earlier run has set up is no conflict. Needs root.
options:
  ports:
    description: TCP ports that are to be used on this host.
    type: list
    elements: int
    required: true
  units:
    description: Patterns of the units that use these ports for us.
    type: list
    elements: str
    required: true
  nginx:
    description: Whether nginx is to be configured.
    type: bool
    default: false
  kafka:
    description: Whether Kafka is to be installed.
    type: bool
    default: false
  postgresql:
    description: The version of PostgreSQL whose cluster `main` is to be used, unless it is known to be ours.
    type: str
    default: ""
  firewall_ports:
    description: TCP ports that other hosts must reach. Empty where no firewall is to be set up.
    type: list
    elements: int
    default: []
  journal_max_use:
    description: Size to which the journal is to be limited, as journald.conf(5) writes it.
    type: str
    default: ""
  ssh_keys_only:
    description: Whether logins by password are to be switched off.
    type: bool
    default: false
author: timestamp-service developers
"""

EXAMPLES = r"""
- name: Look for a web server of others
  host_conflicts:
    ports: [80, 443]
    units: [nginx.service]
    nginx: true
"""

RETURN = r"""
conflicts:
  description: A sentence for each conflict, with its remedy.
  returned: always
  type: list
  elements: str
"""

# Runs a program; returns what it printed, or nothing when it fails or is missing.
Run = Callable[..., str]

JOURNAL_SETTINGS = "etc/systemd/journald.conf.d/timestamp-service.conf"
NO_SHELLS = ("nologin", "false", "sync", "halt", "shutdown")
FIRST_OID_OF_USERS = 16384


def text_of(path: pathlib.Path) -> str:
    """Return a file's text; one that is missing is empty."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def ports_taken(run: Run, root: pathlib.Path, ports: Sequence[int], units: Sequence[str]) -> Iterator[str]:
    """Yield the ports at which something listens that is not ours."""
    sockets = {}
    for line in run("systemctl", "list-sockets", "--no-legend", "--full").splitlines():
        listener, unit, *_ = line.split()
        sockets[listener.rpartition(":")[2]] = unit
    holders: dict[tuple[str, str], set[int]] = {}
    for line in run("ss", "--no-header", "--listening", "--numeric", "--tcp", "--processes").splitlines():
        port = line.split()[3].rpartition(":")[2]
        if int(port) not in ports:
            continue
        process = re.search(r'\("([^"]*)",pid=(\d+)', line)
        name, number = process.groups() if process else ("the kernel", "")
        groups = text_of(root / "proc" / number / "cgroup") if number else ""
        above = re.findall(r"[^/\n]+\.(?:service|scope)", groups) or [""]
        unit = sockets.get(port, "") if number == "1" else above[-1]
        if not any(pathlib.PurePath(unit).match(pattern) for pattern in units):
            who = f"{name} (pid {number}{', unit ' + unit if unit else ''})" if number else name
            holders.setdefault((who, unit), set()).add(int(port))
    for (who, unit), taken in holders.items():
        stop = f"`systemctl disable --now {unit}`" if unit.endswith((".service", ".socket")) else "stop it"
        numbers = ", ".join(map(str, sorted(taken)))
        yield (
            f"{who} listens at the port {numbers}, which the service needs."
            f" Move it to another port or host, or: {stop}"
        )


def sites(run: Run, root: pathlib.Path) -> Iterator[str]:
    """Yield the sites that an nginx serves for others: its configuration would be replaced."""
    folder = root / "etc/nginx"
    if not folder.is_dir() or "timestamp-service" in text_of(folder / "nginx.conf"):
        return
    of_debian = (folder / "sites-available/default").resolve()
    used = [path for path in sorted(folder.glob("sites-enabled/*")) if path.resolve() != of_debian]
    used += sorted(folder.glob("conf.d/*.conf"))
    # Its third character says that the content is not that of the package.
    for line in run("dpkg", "--verify", "nginx-common").splitlines():
        path = root / line.split()[-1].lstrip("/")
        if line[2:3] == "5" and path in (folder / "nginx.conf", folder / "sites-available/default"):
            used.append(path)
    if used:
        names = ", ".join("/" + str(path.relative_to(root)) for path in used)
        yield (
            f"nginx serves something else here already ({names}), and its configuration would be replaced."
            " Use another host for the group web, or remove these files"
        )


def databases(root: pathlib.Path, version: str) -> Iterator[str]:
    """Yield a cluster with databases of others: its settings and its rights would be replaced."""
    if (root / f"etc/postgresql/{version}/main/conf.d/timestamp-service.conf").exists():
        return
    folders = (root / f"var/lib/postgresql/{version}/main/base").glob("*")
    count = sum(folder.name.isdigit() and int(folder.name) >= FIRST_OID_OF_USERS for folder in folders)
    if count:
        yield (
            f"The cluster {version}/main of PostgreSQL holds databases of others ({count}), and their clients"
            " would be locked out. Use another host for the group postgresql, or move them to another"
            f" cluster (pg_renamecluster {version} main other) and port"
        )


def brokers(run: Run, root: pathlib.Path) -> Iterator[str]:
    """Yield parts of a Kafka that somebody else has installed."""
    unit = run("systemctl", "show", "--property=FragmentPath", "--value", "kafka.service").strip().lstrip("/")
    found = []
    if (root / "opt/kafka/bin").exists():
        found.append("/opt/kafka")
    if unit and "/opt/kafka/current/bin/kafka-server-start.sh" not in text_of(root / unit):
        found.append("/" + unit)
    settings = text_of(root / "etc/kafka/server.properties")
    if settings and "BROKER://" not in settings:
        found.append("/etc/kafka/server.properties")
    if found:
        yield (
            f"There is a Kafka of somebody else ({', '.join(found)}), which would be replaced."
            " Use another host for the group kafka, or remove it"
        )


def closed_chains(listing: str) -> Iterator[str]:
    """Yield the chains of nftables, besides ours, that drop what they do not know, by policy or last rule."""
    entries = json.loads(listing or "{}").get("nftables", [])
    last = {}
    for entry in entries:
        rule = entry.get("rule")
        if rule:
            key = (rule["family"], rule["table"], rule["chain"])
            last[key] = [next(iter(part), "") for part in rule["expr"]]
    for entry in entries:
        chain = entry.get("chain", {})
        if chain.get("hook") != "input" or chain["table"] == "timestamp_service":
            continue
        key = (chain["family"], chain["table"], chain["name"])
        drops = [one for one in last.get(key, []) if one != "counter"]
        if chain.get("policy") == "drop" or drops in (["drop"], ["reject"]):
            yield f"chain {' '.join(key)} of nftables"


def firewalls(run: Run, ports: Sequence[int]) -> Iterator[str]:
    """Yield the firewalls that would drop our packets even where ours accepts them."""
    listed = ", ".join(map(str, ports))
    opened = " && ".join(f"ufw allow {port}/tcp" for port in ports)
    rules = " ".join(f"--add-port={port}/tcp" for port in ports)
    own = f"let it accept the TCP ports {listed} from the hosts that may reach them"
    found = []
    if "Status: active" in run("ufw", "status"):
        found.append(("ufw", f"`{opened}`"))
    elif run("firewall-cmd", "--state").strip() == "running":
        found.append(("firewalld", f"`firewall-cmd --permanent {rules} && firewall-cmd --reload`"))
    else:
        found += [(chain, own) for chain in closed_chains(run("nft", "--json", "list", "ruleset"))]
        for program in ("iptables-legacy", "ip6tables-legacy"):
            if "-P INPUT DROP" in run(program, "-S", "INPUT"):
                found.append((f"the chain INPUT of {program}", own))
    for name, fix in found:
        yield (
            f"{name} drops packets that it does not know, beside the firewall of this service. Disable it; or"
            f" open the ports there ({fix}) and set firewall_enabled to false for this host, so that it stays"
            " the only one"
        )


def password_logins(run: Run, root: pathlib.Path) -> Iterator[str]:
    """Yield the accounts that could not log in any more: they have a password and no key."""
    settings = run("sshd", "-T").splitlines()
    keys_elsewhere = not {"authorizedkeyscommand none"} & set(settings)
    if "passwordauthentication yes" not in settings or keys_elsewhere:
        return
    hashes = dict(line.split(":")[:2] for line in text_of(root / "etc/shadow").splitlines() if ":" in line)
    names = []
    for line in text_of(root / "etc/passwd").splitlines():
        account = pwd.struct_passwd(line.split(":")) if line.count(":") == 6 else None
        if account is None or hashes.get(account.pw_name, "")[:1] in ("", "!", "*"):
            continue
        if account.pw_shell.rpartition("/")[2] in NO_SHELLS:
            continue
        if account.pw_name == "root" and "permitrootlogin yes" not in settings:
            continue
        home = root / account.pw_dir.lstrip("/")
        if not any(text_of(home / ".ssh" / name).strip() for name in ("authorized_keys", "authorized_keys2")):
            names.append(account.pw_name)
    if names:
        yield (
            f"ssh would refuse these accounts, which have a password and no key: {', '.join(names)}. Give"
            " each a key (~/.ssh/authorized_keys), lock its password (passwd --lock NAME), or set"
            " base_ssh_hardened to false"
        )


def journal(root: pathlib.Path, limit: str) -> Iterator[str]:
    """Yield a journal that is larger than the limit to come."""
    size = re.fullmatch(r"(\d+)([KMGTPE]?)", limit)
    if not size or (root / JOURNAL_SETTINGS).exists():
        return
    most = int(size[1]) << (10 * " KMGTPE".index(size[2] or " "))
    files = glob.glob(str(root / "var/log/journal/*/*.journal"))
    used = sum(os.stat(path).st_blocks * 512 for path in files)
    if used > most:
        yield (
            f"Its journal takes {used / 2**30:.1f} GiB, and base_journal_max_use ({limit}) would erase the"
            " oldest lines. Set base_journal_max_use to more, or erase them yourself:"
            f" `journalctl --vacuum-size={limit}`"
        )


def conflicts(run: Run, root: pathlib.Path, asked: dict[str, Any]) -> list[str]:
    """Return every conflict below a root folder."""
    found = [*ports_taken(run, root, asked["ports"], asked["units"])]
    found += sites(run, root) if asked["nginx"] else ()
    found += databases(root, asked["postgresql"]) if asked["postgresql"] else ()
    found += brokers(run, root) if asked["kafka"] else ()
    found += firewalls(run, asked["firewall_ports"]) if asked["firewall_ports"] else ()
    found += password_logins(run, root) if asked["ssh_keys_only"] else ()
    found += journal(root, asked["journal_max_use"])
    return found


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "list", "elements": "int", "required": True},
            "units": {"type": "list", "elements": "str", "required": True},
            "nginx": {"type": "bool", "default": False},
            "kafka": {"type": "bool", "default": False},
            "postgresql": {"type": "str", "default": ""},
            "firewall_ports": {"type": "list", "elements": "int", "default": []},
            "journal_max_use": {"type": "str", "default": ""},
            "ssh_keys_only": {"type": "bool", "default": False, "no_log": False},
        },
        supports_check_mode=True,
    )

    def run(*command: str) -> str:
        program = module.get_bin_path(command[0], opt_dirs=["/usr/sbin", "/sbin"])
        if program is None:
            return ""
        code, output, _ = module.run_command([program, *command[1:]], environ_update={"LC_ALL": "C"})
        # dpkg says by its code that it found something.
        return str(output) if code == 0 or command[0] == "dpkg" else ""

    module.exit_json(changed=False, conflicts=conflicts(run, pathlib.Path("/"), module.params))


if __name__ == "__main__":
    main()
