"""A Kafka broker (KRaft, one node) as a process on loopback."""

import os
import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from confluent_kafka.cimpl import NewTopic

from tests.integration.processes import Server, free_port, until

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller_port}
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
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


class Kafka(Server):
    """A broker. Its data stay when it is stopped and started again."""

    def __init__(self, folder: Path, jvm: Sequence[str] = _JVM) -> None:
        self.libraries = f"{kafka_home()}/libs/*"
        self.port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        properties = folder / "server.properties"
        properties.write_text(_PROPERTIES.format(port=self.port, controller_port=free_port(), folder=folder))
        # One that begins with a dash would be taken for an option.
        cluster = urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        storage_tool = ["java", "-Xmx64m", "-cp", self.libraries, "kafka.tools.StorageTool"]
        subprocess.run(
            [*storage_tool, "format", "--cluster-id", cluster, "--config", str(properties)],
            check=True,
            capture_output=True,
            timeout=60,
        )
        command = ["java", *jvm, "-cp", self.libraries, "kafka.Kafka", str(properties)]
        super().__init__("kafka", command, folder)
        self.start()

    def answers(self) -> bool:
        """Tell whether it knows itself as a broker."""
        try:
            # A client of its own: one that met a closed port waits before it tries again.
            metadata = self.admin().list_topics(timeout=1)
        except KafkaException:
            return False
        return bool(metadata.brokers)

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
        topic = NewTopic(name, partitions, 1, config=dict(config))
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
