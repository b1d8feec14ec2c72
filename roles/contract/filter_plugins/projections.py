"""Which consumer fills the database of which host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIRST = "timestamp-consumer"
# Of the others. That of a consumer which a deployment starts beside it is higher by 10.
PORTS = range(7101, 7110)


def projections(
    group: Sequence[str], remembered: Mapping[str, Mapping[str, Any]], first_port: int
) -> dict[str, dict[str, Any]]:
    """Return the unit of the consumer of each host of `group`, and its port on loopback.

    `remembered`: what the inventory has noted of databases, of hosts that are gone too: no other gets theirs.
    The first database ever has the unit (and the group) that has always been there, at `first_port`.
    """
    known = {
        host: {"consumer": noted["consumer"], "consumer_port": noted["consumer_port"]}
        for host, noted in remembered.items()
    }
    for host in group:
        if host in known:
            continue
        taken = [one["consumer"] for one in known.values()]
        ports = {one["consumer_port"] for one in known.values()}
        if FIRST in taken:
            # Where there are more databases than ports, the inventory is refused.
            port = next((port for port in PORTS if port not in ports), PORTS[-1])
            known[host] = {"consumer": f"{FIRST}-{host.partition('.')[0]}", "consumer_port": port}
        else:
            known[host] = {"consumer": FIRST, "consumer_port": first_port}
    return {host: known[host] for host in group}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Return them by name."""
        return {"projections": projections}
