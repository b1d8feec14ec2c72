"""A Kafka broker (KRaft), alone or one of a cluster, as a process on loopback."""

import os
import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from confluent_kafka.cimpl import NewTopic

from tests.integration.processes import Server, free_port, until

_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters={voters}
log.dirs={folder}/data
auto.create.topics.enable=false
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# As much of the heap is taken at the start.
log.cleaner.dedupe.buffer.size=4194304
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
"""


_JVM = ("-Xmx256m", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def kafka_home() -> Path:
    """Return the folder of Kafka's distribution: $KAFKA_HOME, or the newest that was built for the nodes."""
    given = os.environ.get("KAFKA_HOME")
    if given:
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    built = [path for path in cache.glob("timestamp-service/kafka/kafka_2.13-*") if path.is_dir()]
    assert built, "there is no Kafka: set KAFKA_HOME, or let `make up` build one"
    return max(built, key=lambda path: [int(part) for part in path.name.split("-")[-1].split(".")])


@dataclass(frozen=True)
class Plan:
    """A cluster before it is made: its id, and the port and the controller's port of each broker."""

    identifier: str
    ports: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, brokers: int) -> "Plan":
        """Plan a cluster of so many brokers, each of which is a controller too."""
        # An id that begins with a dash would be taken for an option.
        identifier = urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        return cls(identifier, tuple((free_port(), free_port()) for _ in range(brokers)))


class Kafka(Server):
    """A broker. Its data stay when it is stopped and started again."""

    def __init__(
        self,
        folder: Path,
        jvm: Sequence[str] = _JVM,
        plan: Plan | None = None,
        node: int = 1,
        advertised_port: int | None = None,
    ) -> None:
        """Start broker `node` (from 1) of `plan`: by default the only one. Clients may reach another port."""
        plan = plan or Plan.of(1)
        self.libraries = f"{kafka_home()}/libs/*"
        self.node = node
        self.folder = folder
        self.port, controller_port = plan.ports[node - 1]
        # Of all brokers: a client reaches those that are there.
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port, _ in plan.ports)
        self.replicas = len(plan.ports)
        properties = folder / "server.properties"
        properties.write_text(
            _PROPERTIES.format(
                node=node,
                port=self.port,
                advertised_port=advertised_port or self.port,
                controller_port=controller_port,
                voters=",".join(f"{one}@127.0.0.1:{port}" for one, (_, port) in enumerate(plan.ports, 1)),
                folder=folder,
                replicas=self.replicas,
                in_sync=max(self.replicas - 1, 1),
            )
        )
        storage_tool = ["java", "-Xmx64m", "-cp", self.libraries, "kafka.tools.StorageTool"]
        subprocess.run(
            [*storage_tool, "format", "--cluster-id", plan.identifier, "--config", str(properties)],
            check=True,
            capture_output=True,
            timeout=120,
        )
        command = ["java", *jvm, "-cp", self.libraries, "kafka.Kafka", str(properties)]
        super().__init__("kafka", command, folder)
        self.start()

    def answers(self) -> bool:
        """Tell whether it knows itself as a broker."""
        try:
            # A client of its own: one that met a closed port waits before it tries again.
            client = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0})
            metadata = client.list_topics(timeout=1)
        except KafkaException:
            return False
        return self.node in metadata.brokers

    def admin(self) -> AdminClient:
        """Return an administrator's client."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.end()

    def freeze(self) -> None:
        """Let it answer no more, though its connections stay open."""
        self.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send(signal.SIGCONT)

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str]) -> None:
        """Make a topic; who leads its partitions comes a moment later."""
        topic = NewTopic(name, partitions, self.replicas, config=dict(config))
        # What it has begun ends with it.
        admin = self.admin()
        for made in admin.create_topics([topic]).values():
            made.result(30)

    def make_topic(self, name: str, partitions: int, config: Mapping[str, str]) -> None:
        """Make a topic, and wait until its partitions can be read and written."""
        self.create_topic(name, partitions, config)
        admin = self.admin()
        latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        places = {TopicPartition(name, partition): latest for partition in range(partitions)}

        def led() -> bool:
            try:
                return all(end.result(30).offset == 0 for end in admin.list_offsets(places).values())
            except KafkaException:
                return False

        until(f"all partitions of {name} have leaders", led)
