#!/usr/bin/python
"""Wait until brokers can be taken out of a Kafka cluster without an outage."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kafka_client import (
    ACCESS,
    REQUEST_SECONDS,
    ClusterError,
    Partition,
    client_of,
    library,
    partitions_of,
)

DOCUMENTATION = r"""
module: kafka_gate
short_description: Wait until brokers can be taken out of a Kafka cluster without an outage
description:
  - Waits until every broker is there, every partition would have its C(min.insync.replicas) without
    I(without), and the controllers that remain have caught up and are a majority. Fails with what is not so
    when that takes longer than I(ready_seconds). What cannot be asked for is not so. Changes nothing.
options:
  bootstrap_servers:
    description: Brokers to ask first, HOST:PORT with commas between. They must speak SASL_SSL.
    type: str
    required: true
  ca_file:
    description: Certificate of the CA that signed the brokers' certificates.
    type: path
    required: true
  username:
    description: User who may ask all this.
    type: str
    required: true
  password:
    description: Password of I(username), by SCRAM-SHA-512 or, if that is refused, by SCRAM-SHA-256.
    type: str
    required: true
  brokers:
    description: The numbers of all brokers that must be there, but for I(without).
    type: list
    elements: int
    required: true
  controllers:
    description: The numbers of all controllers that must be voters, but for I(without).
    type: list
    elements: int
    required: true
  without:
    description: The numbers of those that are to be taken out; they may be away already.
    type: list
    elements: int
    default: []
  quorum_command:
    description: The command that describes the quorum, kafka-metadata-quorum.sh with its options.
    type: list
    elements: str
    required: true
  ready_seconds:
    description: Seconds for which to wait.
    type: int
    default: 60
author: timestamp-service developers
"""

EXAMPLES = r"""
- name: Wait until broker 2 can restart
  kafka_gate:
    bootstrap_servers: 192.0.2.10:9092,192.0.2.11:9092,192.0.2.12:9092
    ca_file: /etc/ssl/certs/ca.crt
    username: admin
    password: "{{ lookup('ansible.builtin.unvault', 'kafka_admin_password') | trim }}"
    brokers: [1, 2, 3]
    controllers: [1, 2, 3]
    without: [2]
    quorum_command: [kafka-metadata-quorum.sh, --bootstrap-server, 192.0.2.10:9092]
"""

RETURN = r"""
controller:
  description: The number of the active controller.
  type: int
  returned: success
"""

# A controller that is further behind the active one than this would hold a new one up.
BEHIND_SECONDS = 5.0
# Kafka's tools take some seconds to start.
PAUSE_SECONDS = 1.0
# The most reasons of one kind that are listed.
LISTED = 5


@dataclass(frozen=True)
class Voter:
    """A controller that votes: how many seconds it is behind the active one, which is nought for that one."""

    number: int
    active: bool
    behind: float


def read_voters(text: str) -> list[Voter]:
    """Return the voters of what `kafka-metadata-quorum.sh describe --replication` prints.

    Raises ClusterError when that is not what it prints.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    try:
        names = lines[0]
        rows = [dict(zip(names, line, strict=True)) for line in lines[1:]]
        # Observers are brokers that do not vote, or are gone.
        rows = [row for row in rows if row["Status"] in ("Leader", "Follower")]
        (now,) = (int(row["LastCaughtUpTimestamp"]) for row in rows if row["Status"] == "Leader")
        return [
            Voter(
                int(row["NodeId"]),
                row["Status"] == "Leader",
                (now - int(row["LastCaughtUpTimestamp"])) / 1000,
            )
            for row in rows
        ]
    except (IndexError, KeyError, ValueError):
        raise ClusterError(f"the quorum of controllers was not described: {text[:200]!r}") from None


def few(reasons: Sequence[str]) -> list[str]:
    """The first of the reasons, and how many there are beside them."""
    more = [f"and {len(reasons) - LISTED} more like it"] if len(reasons) > LISTED else []
    return [*reasons[:LISTED], *more]


def closed_because(
    brokers: Iterable[int],
    controllers: Iterable[int],
    there: Collection[int],
    partitions: Sequence[Partition],
    voters: Sequence[Voter],
    without: Collection[int],
) -> list[str]:
    """Return why `without` cannot be taken out now; nothing: they can.

    `brokers` and `controllers`: those that must be; of the brokers, those of `there` answer.
    """
    reasons = [f"broker {one} is away" for one in brokers if one not in without and one not in there]
    votes = {voter.number: voter for voter in voters}
    reasons += [
        f"controller {one} does not vote yet"
        for one in controllers
        if one not in without and one not in votes
    ]
    reasons += [
        f"controller {voter.number} is {voter.behind:g} s behind"
        for voter in voters
        if voter.number not in without and voter.behind > BEHIND_SECONDS
    ]
    remaining = sum(number not in without for number in votes)
    if 2 * remaining <= len(votes):
        reasons.append(f"{remaining} of {len(votes)} controllers would remain, which is no majority")
    reasons += few([f"{partition} has no leader" for partition in partitions if partition.leader < 0])
    return reasons + few(
        [
            f"{partition} would have {left} replicas in sync, of which {partition.minimum} are needed"
            for partition in partitions
            if (left := len(partition.in_sync.difference(without))) < partition.minimum
        ]
    )


def look(module: AnsibleModule, client: Any, given: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return why the gate is closed, and the number of the active controller."""
    code, text, errors = module.run_command([*given["quorum_command"], "describe", "--replication"])
    if code:
        return [f"the quorum of controllers cannot be described: {(errors or text).strip()[-500:]}"], -1
    try:
        voters = read_voters(text)
        there = client.list_topics(timeout=REQUEST_SECONDS).brokers
        partitions = partitions_of(client)
    except ClusterError as error:
        return [str(error)], -1
    except library.KafkaException as error:
        return [f"the cluster does not answer: {error.args[0].str()}"], -1
    active = next(voter.number for voter in voters if voter.active)
    reasons = closed_because(
        given["brokers"], given["controllers"], there, partitions, voters, given["without"]
    )
    return reasons, active


def main() -> None:
    """Wait, and say what is in the way when it takes too long."""
    numbers = {"type": "list", "elements": "int"}
    module = AnsibleModule(
        argument_spec={
            **ACCESS,
            "brokers": {**numbers, "required": True},
            "controllers": {**numbers, "required": True},
            "without": {**numbers, "default": []},
            "quorum_command": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    end = time.monotonic() + given["ready_seconds"]
    client = client_of(module)
    while True:
        reasons, controller = look(module, client, given)
        if not reasons:
            module.exit_json(changed=False, controller=controller)
        if time.monotonic() > end:
            out = ", ".join(map(str, given["without"]))
            module.fail_json(
                msg=f"{f'Node {out} cannot be taken out' if out else 'The cluster is not whole'}: "
                + "; ".join(reasons)
            )
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
