"""The units that the roles run on each node, by group, and our processes by port."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
CONTRACT = yaml.safe_load((PROJECT / "roles/contract/vars/main.yml").read_text())
# On the web nodes, by the port of loopback on which each reports whether it is ready.
APIS: Mapping[int, str] = {
    CONTRACT["contract_ports"][name]: f"timestamp-{name}.service" for name in ("command", "query")
}
# The consumer of the first database.
CONSUMER, CONSUMER_PORT = "timestamp-consumer.service", CONTRACT["contract_ports"]["consumer"]
# Shown as well where they are loaded: a second instance, for example.
PATTERNS = ("timestamp-*.service", "timestamp-*.socket", "postgresql@*.service", "nginx-acme.*")

# One JSON object a request, as role nginx configures it on the web nodes; older files end in .1, .2, …
NGINX = "nginx.service"
# Obtains nginx's certificate by ACME, where role nginx is told to.
NGINX_ACME = "nginx-acme.service"
ACCESS_LOG = "/var/log/nginx/access.json"


NEWEST_DEBIAN = str(CONTRACT["contract_debian_releases"][-1])


def debian_postgresql(release: str = NEWEST_DEBIAN) -> str:
    """Return the major version of PostgreSQL that a release of Debian has; empty if it is not known."""
    path = PROJECT / f"roles/contract/vars/debian-{release}.yml"
    return str(yaml.safe_load(path.read_text())["contract_debian_postgresql"]) if path.is_file() else ""


def postgresql_unit(version: str, name: str = "main") -> str:
    """Return the unit of a cluster of PostgreSQL of this major version and name, as Debian names it."""
    return f"postgresql@{version}-{name}.service"


def units_of(
    groups: Collection[str], database_unit: str, processes: Collection[str], moved: bool = False
) -> tuple[str, ...]:
    """Return the units that a node of these groups has to run.

    database_unit: that of PostgreSQL there. processes: ours on a web node. moved: whether addresses move
    between the web nodes.
    """
    by_group = {
        "kafka": ("kafka.service",),
        "kafka_controllers": ("kafka.service",),
        "postgresql": (database_unit,),
        "web": (
            NGINX,
            "nginx-logrotate.timer",
            *processes,
            *(name.replace(".service", ".socket") for name in processes),
            *(["keepalived.service"] if moved else []),
        ),
    }
    return tuple(name for group, names in by_group.items() if group in groups for name in names)
