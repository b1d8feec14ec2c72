#!/usr/bin/python
"""Bring a Kafka cluster's topics, SCRAM users and access rules to what is listed, in one task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kafka_client import (
    ACCESS,
    OTHER,
    REQUEST_SECONDS,
    USUAL,
    Cluster,
    ClusterError,
    alter_settings,
    client_of,
    is_refused,
    kafka,
    library,
    topic_resource,
)

DOCUMENTATION = r"""
module: kafka_resources
short_description: Bring Kafka's topics, SCRAM users and access rules to what is listed
description:
  - Waits until the cluster answers, then creates what is missing and corrects what differs. Topics and users
    that are not listed stay as they are. Of a listed principal's rules, those that are not listed are
    removed.
  - A topic is never deleted, and its partitions and replicas are never changed.
  - Whether a user has its password is tried by logging in with it. A user may have one for each mechanism, so
    that it has two while its password is changed.
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
  topics:
    description: Topics that must be there.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the topic.
        type: str
        required: true
      partitions:
        description: Number of its partitions.
        type: int
        required: true
      replication_factor:
        description: Number of replicas of each partition, when it is made.
        type: int
        required: true
      config:
        description: Settings of the topic. Others stay as they are.
        type: dict
        default: {}
      initial_config:
        description: Further settings, which it has when it is made; what it has later stays.
        type: dict
        default: {}
  passwords:
    description: Password of each user that must be there, by name.
    type: dict
    default: {}
  mechanism:
    description: The SCRAM mechanism of I(passwords).
    type: str
    choices: [SCRAM-SHA-256, SCRAM-SHA-512]
    default: SCRAM-SHA-512
  exclusive:
    description: Whether the users of I(passwords) have no password of another mechanism.
    type: bool
    default: false
  absent_users:
    description: Users that must not be there.
    type: list
    elements: str
    default: []
  rules:
    description: What is allowed, from any host.
    type: list
    elements: dict
    default: []
    suboptions:
      principal:
        description: Name of the user.
        type: str
        required: true
      resource:
        description: Kind of what it may use.
        type: str
        choices: [topic, group, transactional_id]
        required: true
      name:
        description: Name of what it may use, or the start of it.
        type: str
        required: true
      prefixed:
        description: Whether I(name) is the start of the names that it may use.
        type: bool
        default: false
      operations:
        description: What it may do.
        type: list
        elements: str
        choices: [read, write, describe, alter_configs]
        required: true
  ready_seconds:
    description: Seconds for which to wait until the cluster answers.
    type: int
    default: 60
author: timestamp-service developers
"""

EXAMPLES = r"""
- name: Have a topic and someone who may write it
  kafka_resources:
    bootstrap_servers: 192.0.2.10:9092
    ca_file: /etc/ssl/certs/ca.crt
    username: admin
    password: "{{ lookup('ansible.builtin.unvault', 'kafka_admin_password') | trim }}"
    topics:
      - {name: events, partitions: 3, replication_factor: 1}
    passwords:
      writer: "{{ lookup('ansible.builtin.unvault', 'kafka_writer_password') | trim }}"
    rules:
      - {principal: writer, resource: topic, name: events, operations: [describe, write]}
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode, a line each. Passwords are never in it.
  type: list
  elements: str
  returned: success
"""

ITERATIONS = 8192
LOGIN_SECONDS = 10.0


@dataclass(frozen=True)
class Change:
    """One difference: a line for what is there and one for what must be; empty for nothing."""

    before: str
    after: str

    def __str__(self) -> str:
        """Both sides in one line."""
        return " -> ".join(filter(None, (self.before, self.after)))


def can_log_in(cluster: Cluster, username: str, password: str, mechanism: str) -> bool:
    """Whether the password is the user's. Raises ClusterError when the cluster says neither yes nor no."""
    errors: list[Any] = []
    client = cluster.client(username, password, mechanism, errors)
    end = time.monotonic() + LOGIN_SECONDS
    while time.monotonic() < end:
        try:
            client.list_topics(timeout=0.5)
            return True
        except library.KafkaException:
            client.poll(0)
        if is_refused(errors):
            return False
    raise ClusterError(f"could not find out whether {username} can log in within {LOGIN_SECONDS:g} s")


@dataclass(frozen=True)
class Users:
    """What must be so: passwords by name, their mechanism, if they are the only ones, and who is absent."""

    passwords: dict[str, str]
    mechanism: str
    exclusive: bool
    absent: list[str]


def converge_users(client: Any, cluster: Cluster, users: Users, check_mode: bool) -> list[Change]:
    """Make the users that are missing, set the passwords that differ, then remove what must not be there."""
    known = client.describe_user_scram_credentials(request_timeout=REQUEST_SECONDS).result()
    held = {name: {one.mechanism for one in user.scram_credential_infos} for name, user in known.items()}
    mechanism = kafka.ScramMechanism[users.mechanism.replace("-", "_")]
    changes = []
    for name, password in users.passwords.items():
        if mechanism in held.get(name, ()) and can_log_in(cluster, name, password, users.mechanism):
            continue
        if not check_mode:
            credential = kafka.ScramCredentialInfo(mechanism, ITERATIONS)
            upsertion = kafka.UserScramCredentialUpsertion(name, credential, password.encode())
            for future in client.alter_user_scram_credentials([upsertion]).values():
                future.result()
        before = f"user {name}" if mechanism in held.get(name, ()) else ""
        changes.append(Change(before, f"user {name} with its password ({users.mechanism})"))
    removed = {name: held[name] for name in users.absent if name in held}
    if users.exclusive:
        removed |= {name: held.get(name, set()) - {mechanism} for name in users.passwords}
    for name, mechanisms in removed.items():
        if mechanisms and not check_mode:
            deletions = [kafka.UserScramCredentialDeletion(name, one) for one in mechanisms]
            for future in client.alter_user_scram_credentials(deletions).values():
                future.result()
        changes += [
            Change(f"user {name} ({one.name.replace('_', '-')})", "")
            for one in sorted(mechanisms, key=lambda one: str(one.name))
        ]
    return changes


def as_setting(value: Any) -> str:
    """A setting as Kafka writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def create_topics(client: Any, topics: list[dict[str, Any]]) -> None:
    """Make topics with their settings. Raises KafkaException when one cannot be made."""
    new = [
        kafka.NewTopic(
            topic["name"],
            num_partitions=topic["partitions"],
            replication_factor=topic["replication_factor"],
            config={
                key: as_setting(value) for key, value in (topic["initial_config"] | topic["config"]).items()
            },
        )
        for topic in topics
    ]
    for future in client.create_topics(new, request_timeout=REQUEST_SECONDS).values():
        future.result()


def check_partitions(client: Any, topics: list[dict[str, Any]]) -> None:
    """Raise ClusterError when a topic that is there has another number of partitions."""
    if not topics:
        return
    names = library.TopicCollection([topic["name"] for topic in topics])
    described = client.describe_topics(names, request_timeout=REQUEST_SECONDS)
    for topic in topics:
        partitions = len(described[topic["name"]].result().partitions)
        if partitions != topic["partitions"]:
            raise ClusterError(
                f"topic {topic['name']} has {partitions} partitions, not {topic['partitions']}. That number"
                " is fixed for the life of a topic: say the one that it has, or take another topic."
            )


def converge_topics(client: Any, topics: list[dict[str, Any]], check_mode: bool) -> list[Change]:
    """Create the topics that are missing and correct the settings that differ."""
    known = client.list_topics(timeout=REQUEST_SECONDS).topics
    missing = [topic for topic in topics if topic["name"] not in known]
    there = [topic for topic in topics if topic["name"] in known]
    check_partitions(client, there)
    changes = [
        Change("", "topic {name}: {partitions} partitions, {replication_factor} replicas".format(**topic))
        for topic in missing
    ]
    if missing and not check_mode:
        create_topics(client, missing)
    resources = [topic_resource(topic["name"]) for topic in there]
    described = client.describe_configs(resources, request_timeout=REQUEST_SECONDS) if resources else {}
    for topic, resource in zip(there, resources, strict=True):
        current = {key: entry.value for key, entry in described[resource].result().items()}
        wanted = {key: as_setting(value) for key, value in topic["config"].items()}
        settings = {key: value for key, value in wanted.items() if current.get(key) != value}
        if settings and not check_mode:
            alter_settings(client, topic_resource(topic["name"]), settings)
        changes += [
            Change(
                f"topic {topic['name']}, {key}={current.get(key)}", f"topic {topic['name']}, {key}={value}"
            )
            for key, value in settings.items()
        ]
    return changes


@dataclass(frozen=True, order=True)
class Rule:
    """One allowed operation of a principal on a resource, from any host."""

    principal: str
    resource: str
    name: str
    pattern: str
    operation: str
    host: str = "*"
    permission: str = "allow"

    def __str__(self) -> str:
        """The rule as a person would say it."""
        return (
            f"{self.principal} {self.permission} {self.operation} on {self.resource}"
            f" {self.name} ({self.pattern}) from {self.host}"
        )

    def binding(self, kind: Any) -> Any:
        """The rule as an AclBinding or an AclBindingFilter."""
        return kind(
            kafka.ResourceType[self.resource.upper()],
            self.name,
            kafka.ResourcePatternType[self.pattern.upper()],
            f"User:{self.principal}",
            self.host,
            kafka.AclOperation[self.operation.upper()],
            kafka.AclPermissionType[self.permission.upper()],
        )


def listed_rules(rules: list[dict[str, Any]]) -> set[Rule]:
    """One rule for each operation of what the task lists."""
    return {
        Rule(
            rule["principal"],
            rule["resource"],
            rule["name"],
            "prefixed" if rule["prefixed"] else "literal",
            operation,
        )
        for rule in rules
        for operation in rule["operations"]
    }


def existing_rules(client: Any, principal: str) -> set[Rule]:
    """Every rule of a principal that the cluster has."""
    everything = kafka.AclBindingFilter(
        kafka.ResourceType.ANY,
        None,
        kafka.ResourcePatternType.ANY,
        f"User:{principal}",
        None,
        kafka.AclOperation.ANY,
        kafka.AclPermissionType.ANY,
    )
    return {
        Rule(
            principal,
            binding.restype.name.lower(),
            binding.name,
            binding.resource_pattern_type.name.lower(),
            binding.operation.name.lower(),
            binding.host,
            binding.permission_type.name.lower(),
        )
        for binding in client.describe_acls(everything, request_timeout=REQUEST_SECONDS).result()
    }


def converge_rules(client: Any, rules: list[dict[str, Any]], check_mode: bool) -> list[Change]:
    """Make the rules that are missing, then remove the others of the same principals."""
    wanted = listed_rules(rules)
    existing: set[Rule] = set()
    for principal in sorted({rule.principal for rule in wanted}):
        existing |= existing_rules(client, principal)
    missing, extra = sorted(wanted - existing), sorted(existing - wanted)
    if missing and not check_mode:
        bindings = [rule.binding(kafka.AclBinding) for rule in missing]
        for future in client.create_acls(bindings, request_timeout=REQUEST_SECONDS).values():
            future.result()
    if extra and not check_mode:
        filters = [rule.binding(kafka.AclBindingFilter) for rule in extra]
        for future in client.delete_acls(filters, request_timeout=REQUEST_SECONDS).values():
            future.result()
    return [Change("", str(rule)) for rule in missing] + [Change(str(rule), "") for rule in extra]


def main() -> None:
    """Bring the cluster to what the task lists."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            **ACCESS,
            "topics": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": text,
                    "partitions": {"type": "int", "required": True},
                    "replication_factor": {"type": "int", "required": True},
                    "config": {"type": "dict", "default": {}},
                    "initial_config": {"type": "dict", "default": {}},
                },
            },
            "passwords": {"type": "dict", "default": {}, "no_log": True},
            "mechanism": {"type": "str", "choices": [OTHER, USUAL], "default": USUAL},
            "exclusive": {"type": "bool", "default": False},
            "absent_users": {"type": "list", "elements": "str", "default": []},
            "rules": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "principal": text,
                    "resource": {
                        "type": "str",
                        "required": True,
                        "choices": ["topic", "group", "transactional_id"],
                    },
                    "name": text,
                    "prefixed": {"type": "bool", "default": False},
                    "operations": {
                        "type": "list",
                        "elements": "str",
                        "required": True,
                        "choices": ["read", "write", "describe", "alter_configs"],
                    },
                },
            },
        },
        supports_check_mode=True,
    )
    client = client_of(module)
    given = module.params
    cluster = Cluster(given["bootstrap_servers"], given["ca_file"])
    try:
        changes = converge_topics(client, given["topics"], module.check_mode)
        users = Users(given["passwords"], given["mechanism"], given["exclusive"], given["absent_users"])
        changes += converge_users(client, cluster, users, module.check_mode)
        changes += converge_rules(client, given["rules"], module.check_mode)
    except ClusterError as error:
        module.fail_json(msg=str(error))
    except library.KafkaException as error:
        module.fail_json(msg=error.args[0].str())
    module.exit_json(
        changed=bool(changes),
        changes=[str(change) for change in changes],
        diff={
            "before": "".join(f"{change.before}\n" for change in changes if change.before),
            "after": "".join(f"{change.after}\n" for change in changes if change.after),
        },
    )


if __name__ == "__main__":
    main()
