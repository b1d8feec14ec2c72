"""What the roles make each node run: the units by group, and our processes by port."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
CONTRACT = yaml.safe_load((PROJECT / "roles/contract/vars/main.yml").read_text())
# On the web nodes, by the port of loopback on which each says if it is ready.
PROCESSES: Mapping[int, str] = {
    port: f"timestamp-{name}.service" for name, port in CONTRACT["contract_ports"].items()
}
# What is shown as well where it is loaded: a second instance, for example.
PATTERNS = ("timestamp-*.service", "timestamp-*.socket", "postgresql@*.service")

# One JSON object a request, as role nginx has it written on the web nodes; older ones end in .1, .2, …
NGINX = "nginx.service"
ACCESS_LOG = "/var/log/nginx/access.json"


def postgresql_unit(version: str) -> str:
    """Return the unit of PostgreSQL of this major version, as Debian names it."""
    return f"postgresql@{version}-main.service"


def units_of(groups: Collection[str], postgresql_version: str) -> tuple[str, ...]:
    """Return the units that a node of these groups has to run."""
    by_group = {
        "kafka": ("kafka.service",),
        "postgresql": (postgresql_unit(postgresql_version),),
        "web": (
            NGINX,
            "nginx-logrotate.timer",
            *PROCESSES.values(),
            *(name.replace(".service", ".socket") for name in PROCESSES.values()),
        ),
    }
    return tuple(name for group, names in by_group.items() if group in groups for name in names)
