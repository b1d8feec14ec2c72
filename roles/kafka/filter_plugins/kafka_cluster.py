"""What the inventory, the nodes and their disks know of a Kafka cluster, put together.

A log that was formatted once is never formatted over: its absence is reported, not taken for a new beginning.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

REMEDY = (
    "Nothing was changed. Mount its volume (findmnt, /etc/fstab) and run the play again. If the log is lost,"
    " playbooks/replace.yml gets it from the others; where there are none, playbooks/restore.yml restores a"
    " backup into a new one."
)


def new_id() -> str:
    """Return a random UUID as Kafka writes it: 22 characters of base64url."""
    # One that begins with a dash would be taken for an option, and those near zero are reserved.
    return (
        urlsafe_b64encode(bytes([secrets.randbelow(128) + 1]) + secrets.token_bytes(15)).decode().rstrip("=")
    )


def properties(text: str) -> dict[str, str]:
    """Return the properties of a file; none of a file that is not there."""
    lines = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in lines if name.strip()}


def kafka_cluster(
    nodes: Mapping[str, Mapping[str, Any]],
    remembered: Mapping[str, Any] | None,
    group: Sequence[str],
    chosen: Mapping[str, Any],
    new_logs: Sequence[str] = (),
    controllers: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the cluster: its id, what was `chosen` for good, and its nodes (`brokers`), by host.

    `nodes`: what each host of this run has, as texts ("" where there is no such file): `log` is the
    meta.properties of its log, `memory` what it noted when that was formatted; `started`: whether Kafka was
    ever enabled there. `remembered`: what the inventory has noted, as this returns it. `group`: all nodes.
    `new_logs`: hosts whose log, if it is absent, is given up for a new one. `controllers`: nodes that are no
    brokers; each node has a `role` then, broker or controller, and without them each is both. A node that is
    not `formatted` is to be formatted; the `founder`s of the quorum form it together, all others join it. One
    that was `removed` is noted for its number, which no other gets. Raises AnsibleFilterError that names each
    contradiction and its remedy.
    """
    known: dict[str, Any] = {"cluster_id": "", **chosen, **(remembered or {})}
    noted: dict[str, dict[str, Any]] = known.get("brokers", {})
    removed = {host: broker for host, broker in noted.items() if broker.get("removed")}
    brokers = {
        host: dict(broker)
        for host, broker in noted.items()
        if host not in removed and (broker["formatted"] or host in group)
    }
    logs = {host: properties(node["log"]) for host, node in nodes.items()}
    roles = {host: _role(host, controllers) for host in group}
    known_roles = {host: broker.get("role", "") for host, broker in brokers.items()}
    problems = [
        f"{name} was {known[name]} at the first installation and is {value} in the inventory now. It cannot"
        " be changed: set it back."
        for name, value in chosen.items()
        if str(known[name]) != str(value)
    ]
    lost = []
    for host, node in nodes.items():
        log, memory = logs[host], properties(node["memory"])
        broker = brokers.get(host, {})
        if log or memory:
            role = noted.get(host, {}).get("role") or memory.get("process.roles", "")
            known_roles.setdefault(host, role)
        if log:
            source = "the inventory" if remembered else "another broker"
            problems += _contradictions(
                host, log, {source: _noted(broker, known["cluster_id"]), "the node": memory}
            )
            known["cluster_id"] = known["cluster_id"] or log["cluster.id"]
            brokers[host] = {
                "node_id": int(log["node.id"]),
                "log_id": log.get("directory.id", ""),
                "founder": broker.get("founder", False),
                "formatted": True,
                **roles.get(host, {}),
            }
        elif broker.get("formatted") or memory or node["started"]:
            lost.append(host)
            number = broker.get("node_id") or memory.get("node.id")
            if number is not None:
                brokers[host] = {**broker, "node_id": int(number)}
            if host not in new_logs:
                cluster = known["cluster_id"] or memory.get("cluster.id")
                problems.append(
                    f"{host}: the log of this broker is absent from its folder"
                    f"{f', though cluster {cluster} was formatted there' if cluster else ''}. {REMEDY}"
                )
    # One that has another name now.
    present = {broker["log_id"] for host, broker in brokers.items() if logs.get(host)}
    brokers = {
        host: broker
        for host, broker in brokers.items()
        if host in group or broker.get("log_id") not in present
    }
    new = [host for host in group if host not in brokers]
    all_lost = bool(lost) and not any(logs.values())
    if not all_lost:
        problems += _changed_roles(known_roles, roles)
        problems += _lost_parts(lost, roles) if set(lost) <= set(new_logs) else []
    missing = [host for host in group if host not in nodes]
    if missing and (new or lost):
        problems.append(
            f"{', '.join([*new, *lost])} is not formatted yet, and that takes all hosts of the group kafka:"
            f" run without --limit, with every one of them reachable ({', '.join(missing)} is missing)."
        )
    gone = [host for host, broker in brokers.items() if host not in group and broker["formatted"]]
    for what, where in (("broker", "kafka"), ("controller", "kafka_controllers")):
        if hosts := [host for host in gone if brokers[host].get("role", "broker") == what]:
            problems.append(
                f"{', '.join(hosts)} is a {what} of this cluster and not in the group {where} any more. Put"
                " it back; if it is to go for good, playbooks/remove.yml takes it out of the cluster first."
            )
    problems += _same_numbers(brokers)
    if problems:
        raise AnsibleFilterError(" ".join(problems))
    if all_lost:
        # All is lost: another cluster begins, which no broker of the old one can enter.
        known["cluster_id"] = ""
    founding = not known["cluster_id"]
    for host in [*lost, *new]:
        number = (
            brokers.get(host, {}).get("node_id")
            or max((broker.get("node_id", 0) for broker in [*removed.values(), *brokers.values()]), default=0)
            + 1
        )
        founder = founding and roles[host].get("role") != "broker"
        brokers[host] = {
            "node_id": number,
            "log_id": new_id() if founder else "",
            "founder": founder,
            "formatted": False,
            **roles[host],
        }
    known["cluster_id"] = known["cluster_id"] or new_id()
    return {
        "cluster_id": known["cluster_id"],
        **{name: known[name] for name in chosen},
        "brokers": {**{host: broker for host, broker in removed.items() if host not in brokers}, **brokers},
    }


def _noted(broker: Mapping[str, Any], cluster_id: str) -> dict[str, str]:
    return {
        "cluster.id": cluster_id,
        "node.id": str(broker.get("node_id", "")),
        "directory.id": broker.get("log_id", ""),
    }


def _contradictions(host: str, log: Mapping[str, str], sources: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [
        f"{host}: {name} is {log[name]} in its log, but {who} remembers {values[name]}. Nothing was"
        " changed. Mount the right volume, or use the inventory (with its secrets) that set this node up."
        for who, values in sources.items()
        for name in ("cluster.id", "node.id", "directory.id")
        if values.get(name) and name in log and values[name] != log[name]
    ]


def _role(host: str, controllers: Sequence[str]) -> dict[str, str]:
    return {"role": "controller" if host in controllers else "broker"} if controllers else {}


def _changed_roles(known: Mapping[str, str], wanted: Mapping[str, Mapping[str, str]]) -> list[str]:
    both = "broker and controller in one"
    return [
        f"{host} is {was or both} in this cluster, and the groups kafka and kafka_controllers make it"
        f" {wanted[host].get('role', both)} now. Nothing was changed. A cluster that is there keeps its"
        " parts: set the groups back (docs/cluster.md, Separate controllers, says how to go on)."
        for host, was in known.items()
        if host in wanted and was != wanted[host].get("role", "")
    ]


def _lost_parts(lost: Sequence[str], roles: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Refuse that one part begins anew while the other one goes on with what it knows of the first."""
    controllers, brokers = (
        [host for host, one in roles.items() if one.get("role") == role] for role in ("controller", "broker")
    )
    no_majority = controllers and 2 * sum(host in lost for host in controllers) >= len(controllers)
    if not no_majority and (not brokers or set(brokers).difference(lost)):
        return []
    others = [host for host in roles if host not in lost]
    return [
        f"The logs of {', '.join(lost)} are lost, and without them those of {', '.join(others)} are of no"
        " use. Nothing was changed. Only a backup can be restored, into a new cluster: on each of these"
        " others, `systemctl stop kafka` and move the folder log.dirs of its /etc/kafka/server.properties"
        " away; then run playbooks/restore.yml."
    ]


def _same_numbers(brokers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    hosts: dict[int, list[str]] = {}
    for host, broker in brokers.items():
        hosts.setdefault(broker.get("node_id", 0), []).append(host)
    return [
        f"{' and '.join(same)} are both broker {number}: one of them has the log of the other. Nothing was"
        " changed."
        for number, same in hosts.items()
        if number and len(same) > 1
    ]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Return them by name."""
        return {"kafka_cluster": kafka_cluster}
