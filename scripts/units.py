"""What the roles make each node run: the units by group, and our processes by port."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# On the web nodes, by the port of loopback on which each says if it is ready.
PROCESSES: Mapping[int, str] = {
    7080: "timestamp-command.service",
    7081: "timestamp-consumer.service",
    7082: "timestamp-query.service",
}
# What is shown as well where it is loaded: a second instance, for example.
PATTERNS = ("timestamp-*.service", "timestamp-*.socket", "postgresql@*.service")


def postgresql_unit(version: str) -> str:
    """Return the unit of PostgreSQL of this major version, as Debian names it."""
    return f"postgresql@{version}-main.service"


def units_of(groups: Collection[str], postgresql_version: str) -> tuple[str, ...]:
    """Return the units that a node of these groups has to run."""
    by_group = {
        "kafka": ("kafka.service",),
        "postgresql": (postgresql_unit(postgresql_version),),
        "web": (
            "nginx.service",
            *PROCESSES.values(),
            *(name.replace(".service", ".socket") for name in PROCESSES.values()),
        ),
    }
    return tuple(name for group, names in by_group.items() if group in groups for name in names)
