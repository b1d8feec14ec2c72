"""What the role's modules share: a client that has logged in, and what it knows of partitions."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

# Where the role unpacks it, for the Python of the node; the newest first.
_UNPACKED = Path("/opt/kafka").glob(f"confluent_kafka-*-cp{sys.version_info[0]}{sys.version_info[1]}")
sys.path += [str(folder) for folder in sorted(_UNPACKED, key=lambda one: one.stat().st_mtime, reverse=True)]

try:
    library: Any = importlib.import_module("confluent_kafka")
    kafka: Any = importlib.import_module("confluent_kafka.admin")
except ImportError:
    library = kafka = None

# How each module reaches the cluster.
ACCESS: dict[str, Any] = {
    "bootstrap_servers": {"type": "str", "required": True},
    "ca_file": {"type": "path", "required": True},
    "username": {"type": "str", "required": True},
    "password": {"type": "str", "required": True, "no_log": True},
    "ready_seconds": {"type": "int", "default": 60},
}
REQUEST_SECONDS = 15.0
USUAL, OTHER = "SCRAM-SHA-512", "SCRAM-SHA-256"


class ClusterError(Exception):
    """The cluster is not as it must be and cannot be brought there; the message says why."""


@dataclass(frozen=True)
class Cluster:
    """How to reach the cluster, before it is known as whom."""

    bootstrap_servers: str
    ca_file: str

    def client(self, username: str, password: str, mechanism: str, errors: list[Any]) -> Any:
        """An AdminClient that logs in as a user and appends what librdkafka reports to `errors`."""
        return kafka.AdminClient(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "security.protocol": "SASL_SSL",
                "ssl.ca.location": self.ca_file,
                "sasl.mechanism": mechanism,
                "sasl.username": username,
                "sasl.password": password,
                "error_cb": errors.append,
                # Errors come by error_cb; the log would only repeat them on standard error.
                "log_level": 0,
                "reconnect.backoff.max.ms": 500,
                "socket.timeout.ms": 10000,
            }
        )


def is_refused(errors: Iterable[Any]) -> bool:
    """Whether one of librdkafka's errors says that the password is wrong."""
    return any(error.code() == library.KafkaError._AUTHENTICATION for error in errors)


def connect(cluster: Cluster, username: str, password: str, ready_seconds: float) -> Any:
    """A client of a cluster that answers. Raises ClusterError when it does not in time."""
    errors: list[Any] = []
    mechanisms = [USUAL, OTHER]
    client = cluster.client(username, password, mechanisms.pop(0), errors)
    end = time.monotonic() + ready_seconds
    while True:
        try:
            client.list_topics(timeout=2)
            return client
        except library.KafkaException as error:
            client.poll(0)
            last = errors[-1] if errors else error.args[0]
        if is_refused(errors) and mechanisms:
            # A change of this password was broken off.
            errors.clear()
            client = cluster.client(username, password, mechanisms.pop(0), errors)
            continue
        if is_refused(errors):
            raise ClusterError(
                f"{cluster.bootstrap_servers} refuses the password of {username}: {last.str()}"
            )
        if time.monotonic() > end:
            raise ClusterError(
                f"{cluster.bootstrap_servers} did not answer within {ready_seconds:g} s: {last.str()}"
            )
        time.sleep(0.2)


def client_of(module: AnsibleModule) -> Any:
    """Return the client that a task describes by ACCESS; where there is none, the module fails."""
    if kafka is None:
        module.fail_json(msg=missing_required_lib("confluent-kafka"))
    given = module.params
    cluster = Cluster(given["bootstrap_servers"], given["ca_file"])
    try:
        return connect(cluster, given["username"], given["password"], given["ready_seconds"])
    except ClusterError as error:
        module.fail_json(msg=str(error))


@dataclass(frozen=True)
class Partition:
    """A partition, with the numbers of its brokers, and how many must be in sync for an acknowledgement.

    The first of the replicas is the one that leads when it can; the leader is -1 while there is none.
    """

    topic: str
    number: int
    leader: int
    replicas: tuple[int, ...]
    in_sync: frozenset[int]
    minimum: int

    def __str__(self) -> str:
        """Its name, as Kafka's tools write it."""
        return f"{self.topic}-{self.number}"


def topic_resource(name: str) -> Any:
    """The topic as that whose settings are asked for or changed."""
    return kafka.ConfigResource(kafka.ResourceType.TOPIC, name)


def partitions_of(client: Any) -> list[Partition]:
    """Return all partitions of the cluster, those of Kafka's own topics too. Raises KafkaException."""
    names = sorted(client.list_topics(timeout=REQUEST_SECONDS).topics)
    if not names:
        return []
    resources = [topic_resource(name) for name in names]
    settings = client.describe_configs(resources, request_timeout=REQUEST_SECONDS)
    described = client.describe_topics(library.TopicCollection(names), request_timeout=REQUEST_SECONDS)
    return [
        Partition(
            resource.name,
            partition.id,
            -1 if partition.leader is None else partition.leader.id,
            tuple(node.id for node in partition.replicas),
            frozenset(node.id for node in partition.isr),
            int(settings[resource].result()["min.insync.replicas"].value),
        )
        for resource in resources
        for partition in described[resource.name].result().partitions
    ]


def alter_settings(client: Any, resource: Any, settings: dict[str, str]) -> None:
    """Change these settings of a resource and no other. Raises KafkaException when one is refused."""
    for key, value in settings.items():
        entry = kafka.ConfigEntry(key, value, incremental_operation=kafka.AlterConfigOpType.SET)
        resource.add_incremental_config(entry)
    for future in client.incremental_alter_configs([resource], request_timeout=REQUEST_SECONDS).values():
        future.result()
