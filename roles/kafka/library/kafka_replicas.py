#!/usr/bin/python
"""Give every partition of a Kafka cluster its replicas, spread evenly over the brokers."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kafka_client import (
    ACCESS,
    REQUEST_SECONDS,
    ClusterError,
    Partition,
    alter_settings,
    client_of,
    kafka,
    library,
    partitions_of,
    topic_resource,
)

DOCUMENTATION = r"""
module: kafka_replicas
short_description: Give every partition its replicas, spread evenly over the brokers
description:
  - Moves as few replicas as that takes, of all topics, Kafka's own too. Waits until all replicas are in
    sync, and lets each broker lead as many partitions as the others.
  - Lowers C(min.insync.replicas) of the cluster and of each topic before that, or raises it after that, so
    that records are acknowledged all the while.
  - A run that was broken off is completed by the next.
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
    description: User who may change all this.
    type: str
    required: true
  password:
    description: Password of I(username), by SCRAM-SHA-512 or, if that is refused, by SCRAM-SHA-256.
    type: str
    required: true
  brokers:
    description: The numbers of the brokers that are to have replicas; all others give theirs away.
    type: list
    elements: int
    required: true
  replicas:
    description: Number of replicas of each partition.
    type: int
    required: true
  minimum:
    description: How many of them must have a record before it is acknowledged.
    type: int
    required: true
  reassign_command:
    description: The command that moves replicas, kafka-reassign-partitions.sh with its options.
    type: list
    elements: str
    required: true
  configs_command:
    description: The command that changes settings of all brokers, kafka-configs.sh with its options.
    type: list
    elements: str
    required: true
  election_command:
    description: The command that lets others lead, kafka-leader-election.sh with its options.
    type: list
    elements: str
    required: true
  ready_seconds:
    description: Seconds for which to wait until the cluster answers.
    type: int
    default: 60
  move_seconds:
    description: Seconds for which to wait until all replicas are in sync.
    type: int
    default: 3600
author: timestamp-service developers
"""

EXAMPLES = r"""
- name: Spread three replicas over three brokers
  kafka_replicas:
    bootstrap_servers: 192.0.2.10:9092,192.0.2.11:9092,192.0.2.12:9092
    ca_file: /etc/ssl/certs/ca.crt
    username: admin
    password: "{{ lookup('ansible.builtin.unvault', 'kafka_admin_password') | trim }}"
    brokers: [1, 2, 3]
    replicas: 3
    minimum: 2
    reassign_command: [kafka-reassign-partitions.sh, --bootstrap-server, 192.0.2.10:9092]
    configs_command: [kafka-configs.sh, --bootstrap-server, 192.0.2.10:9092, --entity-default]
    election_command: [kafka-leader-election.sh, --bootstrap-server, 192.0.2.10:9092]
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode, a line each.
  type: list
  elements: str
  returned: success
"""

MINIMUM = "min.insync.replicas"
CLUSTER = "the cluster"
PAUSE_SECONDS = 1.0

Assignment = dict[int, list[int]]


def spread(current: Mapping[int, Sequence[int]], brokers: Sequence[int], replicas: int) -> Assignment:
    """Return the brokers of each partition of a topic, the one that is to lead first.

    `current`: those that they are now. As few as possible are moved; brokers have as many replicas, and lead
    as many partitions, as each other, or one more.
    """
    held = Counter(dict.fromkeys(brokers, 0))
    chosen: Assignment = {}
    for number, old in sorted(current.items()):
        chosen[number] = [broker for broker in old if broker in held]
        held.update(chosen[number])
    for mine in chosen.values():
        while len(mine) > replicas:
            fullest = max(mine, key=lambda broker: held[broker])
            mine.remove(fullest)
            held[fullest] -= 1
        while len(mine) < replicas:
            emptiest = min(
                (broker for broker in brokers if broker not in mine), key=lambda broker: held[broker]
            )
            mine.append(emptiest)
            held[emptiest] += 1
    _even_out(chosen, held)
    _choose_leaders(chosen)
    return chosen


def _even_out(chosen: Assignment, held: Counter[int]) -> None:
    """Move replicas from the fullest brokers to the emptiest, until none has two more than another."""
    while True:
        fullest, emptiest = max(held, key=lambda one: held[one]), min(held, key=lambda one: held[one])
        if held[fullest] - held[emptiest] <= 1:
            return
        mine = next(mine for mine in chosen.values() if fullest in mine and emptiest not in mine)
        mine[mine.index(fullest)] = emptiest
        held[fullest] -= 1
        held[emptiest] += 1


def _choose_leaders(chosen: Assignment) -> None:
    """Put the one that is to lead first. Those that lead now go on, unless another one leads two fewer."""
    leading = Counter(mine[0] for mine in chosen.values())
    changed = True
    while changed:
        changed = False
        for mine in chosen.values():
            first = min(mine, key=lambda broker: leading[broker])
            if leading[first] + 1 < leading[mine[0]]:
                leading.update({first: 1, mine[0]: -1})
                mine.remove(first)
                mine.insert(0, first)
                changed = True


def plan(partitions: Sequence[Partition], brokers: Sequence[int], replicas: int) -> dict[str, Assignment]:
    """Return the brokers of each partition that is to have others, or in another order, by topic."""
    changed: dict[str, Assignment] = {}
    for topic, group in groupby(partitions, key=lambda partition: partition.topic):
        current = {partition.number: partition.replicas for partition in group}
        wanted = spread(current, brokers, replicas)
        moved = {number: new for number, new in wanted.items() if new != list(current[number])}
        if moved:
            changed[topic] = moved
    return changed


def as_json(moves: Mapping[str, Assignment]) -> str:
    """The moves as kafka-reassign-partitions.sh reads them."""
    listed = [
        {"topic": topic, "partition": number, "replicas": brokers}
        for topic, assignment in moves.items()
        for number, brokers in assignment.items()
    ]
    return json.dumps({"version": 1, "partitions": listed})


def unfinished(partitions: Sequence[Partition], replicas: int) -> list[Partition]:
    """Those that have not exactly so many replicas, all of them in sync."""
    return [
        partition
        for partition in partitions
        if len(partition.replicas) != replicas or not partition.in_sync.issuperset(partition.replicas)
    ]


class Spreading:
    """One run: what it changes, and what it has changed or would."""

    def __init__(self, module: AnsibleModule, client: Any) -> None:
        """Work by `client`, as the task of `module` says."""
        self.module = module
        self.client = client
        self.given = module.params
        self.replicas: int = min(self.given["replicas"], len(self.given["brokers"]))
        self.changes: list[str] = []

    def run(self) -> None:
        """Bring all partitions to what the task says. Raises ClusterError and KafkaException."""
        partitions = partitions_of(self.client)
        self.set_minimum(partitions, rising=False)
        moves = plan(partitions, self.given["brokers"], self.replicas)
        self.changes += [
            f"{topic}: other replicas or leaders of {len(moved)} partitions" for topic, moved in moves.items()
        ]
        if not self.module.check_mode:
            if moves:
                self.move(moves)
            partitions = self.wait()
        self.set_minimum(partitions, rising=True)
        self.elect(partitions)

    def move(self, moves: Mapping[str, Assignment]) -> None:
        """Begin to move replicas."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(as_json(moves))
            file.flush()
            # Additional: moves that a run which was broken off has begun may go on still.
            options = ("--execute", "--additional", "--reassignment-json-file", file.name)
            self.run_tool("reassign_command", *options)

    def run_tool(self, name: str, *options: str) -> None:
        """Run one of the commands with further options. Raises ClusterError when it fails."""
        code, text, errors = self.module.run_command([*self.given[name], *options])
        if code:
            raise ClusterError(f"{self.given[name][0]} has failed: {(errors or text).strip()[:500]}")

    def wait(self) -> list[Partition]:
        """Wait until all replicas are there and in sync; returns the partitions as they are then."""
        end = time.monotonic() + self.given["move_seconds"]
        while True:
            partitions: list[Partition] = partitions_of(self.client)
            waiting = unfinished(partitions, self.replicas)
            if not waiting:
                return partitions
            if time.monotonic() > end:
                raise ClusterError(
                    f"after {self.given['move_seconds']} s, {len(waiting)} partitions ({waiting[0]} is one)"
                    f" do not have {self.replicas} replicas in sync. They go on: run the play again."
                )
            time.sleep(PAUSE_SECONDS)

    def set_minimum(self, partitions: Sequence[Partition], rising: bool) -> None:
        """Raise min.insync.replicas where it is too low, or lower it where it is too high."""
        wanted = self.given["minimum"]
        # None of them has its own: what one says is that of the cluster.
        broker = kafka.ConfigResource(kafka.ResourceType.BROKER, str(self.given["brokers"][0]))
        settings = self.client.describe_configs([broker], request_timeout=REQUEST_SECONDS)[broker].result()
        found = {CLUSTER: int(settings[MINIMUM].value)} | {one.topic: one.minimum for one in partitions}
        for name, minimum in found.items():
            if minimum == wanted or (minimum < wanted) is not rising:
                continue
            self.changes.append(f"{name}: {MINIMUM}={minimum} -> {wanted}")
            if self.module.check_mode:
                continue
            if name == CLUSTER:
                # The library takes no name for all brokers.
                self.run_tool("configs_command", "--alter", "--add-config", f"{MINIMUM}={wanted}")
            else:
                alter_settings(self.client, topic_resource(name), {MINIMUM: str(wanted)})

    def elect(self, partitions: Sequence[Partition]) -> None:
        """Let those lead that are to."""
        others = [one for one in partitions if one.leader != one.replicas[0]]
        if not others:
            return
        self.changes.append(f"other leaders of {len(others)} partitions")
        if not self.module.check_mode:
            self.run_tool("election_command", "--election-type", "preferred", "--all-topic-partitions")


def main() -> None:
    """Bring the cluster to what the task says."""
    number = {"type": "int", "required": True}
    command = {"type": "list", "elements": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            **ACCESS,
            "brokers": {"type": "list", "elements": "int", "required": True},
            "replicas": number,
            "minimum": number,
            "reassign_command": command,
            "configs_command": command,
            "election_command": command,
            "move_seconds": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    spreading = Spreading(module, client_of(module))
    try:
        spreading.run()
    except ClusterError as error:
        module.fail_json(msg=str(error))
    except library.KafkaException as error:
        module.fail_json(msg=error.args[0].str())
    module.exit_json(changed=bool(spreading.changes), changes=spreading.changes)


if __name__ == "__main__":
    main()
