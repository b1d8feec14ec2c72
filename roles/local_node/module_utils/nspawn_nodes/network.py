"""The bridge that joins the machines, and their way out: NAT in an nftables table of our own.

The user's own firewall is left as it is. The one exception is Docker, which drops all forwarded packets but
keeps a chain for rules of others (https://docs.docker.com/engine/network/packet-filtering-firewalls/).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .spec import Spec
from .system import NodeError, lock, make_folder, read, run, succeeds, write

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# Gone after a reboot of this computer, and so is what it remembers.
MEMORY = Path("/run/timestamp-service")
DOCKER_CHAIN = ("ip", "filter", "DOCKER-USER")


def table_name(bridge: str) -> str:
    """Name our nftables table after the bridge; nftables allows no dash in a name."""
    return f"timestamp_service_{re.sub(r'[^0-9A-Za-z]', '_', bridge)}"


def ruleset(bridge: str, network: ipaddress.IPv4Network) -> str:
    """Return the rules for nft, which replace the table as a whole: a repetition changes nothing."""
    table = table_name(bridge)
    return f"""\
table ip {table}
delete table ip {table}
table ip {table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {network} oifname != "{bridge}" masquerade
    }}
}}
"""


def conflict(routes: Sequence[dict[str, Any]], bridge: str, network: ipaddress.IPv4Network) -> str | None:
    """Return the route (of `ip -j route`) of another device that overlaps the network, or None."""
    for route in routes:
        if route["dst"] == "default" or route.get("dev") == bridge:
            continue
        if ipaddress.ip_network(route["dst"], strict=False).overlaps(network):
            return f"{route['dst']} by {route.get('dev', 'no device')}"
    return None


def default_device(routes: Sequence[dict[str, Any]]) -> str | None:
    """Return the device of the default route with the lowest metric, or None without a default route."""
    ways = [route for route in routes if route["dst"] == "default" and "dev" in route]
    return str(min(ways, key=lambda route: route.get("metric", 0))["dev"]) if ways else None


def packet_size() -> int:
    """Return the largest packet in bytes that the way out of this computer takes (its MTU)."""
    device = default_device(json.loads(run(["ip", "-json", "-4", "route", "show"])))
    size = read(Path(f"/sys/class/net/{device}/mtu")) if device else None
    return int(size) if size else 1500


def dropping_chains(listing: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the chains (of `nft -j list chains`) that drop forwarded packets unless a rule accepts them."""
    chains = [entry["chain"] for entry in listing["nftables"] if "chain" in entry]
    return [
        (chain["family"], chain["table"], chain["name"])
        for chain in chains
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain["family"] in ("ip", "inet")
    ]


def our_handles(listing: dict[str, Any], bridge: str) -> list[int]:
    """Return the handles of the rules (of `nft -j -a list chain`) that match our bridge."""
    handles = []
    for entry in listing["nftables"]:
        for expression in entry.get("rule", {}).get("expr", []):
            match = expression.get("match", {})
            if match.get("right") == bridge and match["left"].get("meta", {}).get("key") in (
                "iifname",
                "oifname",
            ):
                handles.append(int(entry["rule"]["handle"]))
    return handles


def is_up(spec: Spec) -> bool:
    """Say whether the bridge with its address, the table and the forwarding are there."""
    if (read(FORWARD) or "").strip() != "1" or not succeeds(
        ["nft", "list", "table", "ip", table_name(spec.bridge)]
    ):
        return False
    return str(spec.gateway) in _addresses(spec.bridge)


def up(spec: Spec) -> list[str]:
    """Make the network, and return warnings.

    Raises NodeError when another device has the bridge's name or a part of its network.
    """
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all", "type", "unicast"]))
    other = conflict(routes, spec.bridge, spec.gateway.network)
    if other:
        raise NodeError(
            f"This computer already has a route into {spec.gateway.network} ({other}): set "
            "local_node_gateway, and the node_address of each node, to a free network in the inventory."
        )
    size = packet_size()
    if not _exists(spec.bridge):
        run(["ip", "link", "add", "name", spec.bridge, "type", "bridge"])
        run(["ip", "link", "set", "dev", spec.bridge, "alias", _mark(spec)])
    elif not _is_ours(spec):
        raise NodeError(
            f"This computer already has a network device {spec.bridge} that is not ours: set "
            "local_node_bridge to a free name in the inventory."
        )
    if str(spec.gateway) not in _addresses(spec.bridge):
        run(["ip", "address", "add", str(spec.gateway), "dev", spec.bridge])
    run(["ip", "link", "set", "dev", spec.bridge, "mtu", str(size), "up"])
    run(["nft", "--file", "-"], text=ruleset(spec.bridge, spec.gateway.network))
    _forward(spec)
    plug(spec)
    return _pass_other_firewalls(spec)


def exists(spec: Spec) -> bool:
    """Say whether any part of our network is there."""
    return (
        _is_ours(spec)
        or succeeds(["nft", "list", "table", "ip", table_name(spec.bridge)])
        or _is_forwarding(spec)
    )


def down(spec: Spec) -> None:
    """Remove all that `up` made; what is missing already is no error."""
    if _is_ours(spec):
        run(["ip", "link", "delete", "dev", spec.bridge])
    if succeeds(["nft", "list", "table", "ip", table_name(spec.bridge)]):
        run(["nft", "delete", "table", "ip", table_name(spec.bridge)])
    if succeeds(["nft", "list", "chain", *DOCKER_CHAIN]):
        _leave_docker(spec.bridge)
    _stop_forwarding(spec)


def cable_bridge(name: str) -> str | None:
    """Return the bridge that the host's end of a machine's cable is plugged into, or None."""
    master = Path(f"/sys/class/net/{name}/master")
    return master.readlink().name if master.exists() else None


def plug(spec: Spec) -> None:
    """Plug the cables of machines that run without a bridge (someone removed it) into the bridge again."""
    for node in spec.nodes:
        if _exists(node.cable) and cable_bridge(node.cable) is None:
            run(["ip", "link", "set", "dev", node.cable, "master", spec.bridge, "up"])


def remove_cable(name: str, bridge: str) -> None:
    """Remove the host's end of a machine's cable that a machine without an orderly end left behind.

    Raises NodeError when it belongs to a machine of the same name on another bridge.
    """
    other = cable_bridge(name)
    if other not in (None, bridge):
        raise NodeError(
            f"This computer already runs a machine whose network cable is {name}, on the bridge {other}: set "
            "local_node_machine_prefix in the inventory."
        )
    # The kernel removes the cable of a machine that has just ended, and may do so before us.
    if _exists(name) and not succeeds(["ip", "link", "delete", "dev", name]) and _exists(name):
        raise NodeError(f"The network cable {name} of a machine that has ended cannot be removed.")


def _exists(device: str) -> bool:
    return Path(f"/sys/class/net/{device}").exists()


def _mark(spec: Spec) -> str:
    return f"timestamp-service {spec.state_folder}"


def _is_ours(spec: Spec) -> bool:
    return (read(Path(f"/sys/class/net/{spec.bridge}/ifalias")) or "").strip() == _mark(spec)


def _addresses(device: str) -> list[str]:
    if not _exists(device):
        return []
    listing = json.loads(run(["ip", "-json", "-4", "address", "show", "dev", device]))
    return [f"{one['local']}/{one['prefixlen']}" for entry in listing for one in entry.get("addr_info", [])]


def _memory(spec: Spec) -> Path:
    return MEMORY / "forwarding" / table_name(spec.bridge)


def _is_forwarding(spec: Spec) -> bool:
    return _memory(spec).exists()


def _forward(spec: Spec) -> None:
    """Switch forwarding on; the first of several networks remembers how it was."""
    folder = _memory(spec).parent
    with lock(MEMORY / "lock", patience=30):
        make_folder(folder)
        before = folder / "before"
        if not before.exists():
            write(before, read(FORWARD) or "0")
        write(_memory(spec), "")
        FORWARD.write_text("1")


def _stop_forwarding(spec: Spec) -> None:
    """Give forwarding back as it was, when no other network of ours needs it any more."""
    folder = _memory(spec).parent
    with lock(MEMORY / "lock", patience=30):
        _memory(spec).unlink(missing_ok=True)
        before = folder / "before"
        if before.exists() and len(list(folder.iterdir())) == 1:
            if before.read_text().strip() == "0":
                FORWARD.write_text("0")
            before.unlink()
            folder.rmdir()


def _pass_other_firewalls(spec: Spec) -> list[str]:
    """Ask Docker's chain to let the machines out; for any other firewall return what its owner has to do."""
    warnings = []
    for chain in dropping_chains(json.loads(run(["nft", "--json", "list", "chains"]))):
        if chain[:2] == DOCKER_CHAIN[:2] and succeeds(["nft", "list", "chain", *DOCKER_CHAIN]):
            _leave_docker(spec.bridge)
            for side in ("iifname", "oifname"):
                run(["nft", "insert", "rule", *DOCKER_CHAIN, side, spec.bridge, "counter", "accept"])
        else:
            warnings.append(
                f"The firewall of this computer (chain {' '.join(chain)}) drops forwarded packets: if the "
                f"nodes reach no mirror, let it accept those from and to {spec.bridge}."
            )
    return warnings


def _leave_docker(bridge: str) -> None:
    listing = json.loads(run(["nft", "--json", "--handle", "list", "chain", *DOCKER_CHAIN]))
    for handle in our_handles(listing, bridge):
        run(["nft", "delete", "rule", *DOCKER_CHAIN, "handle", str(handle)])
