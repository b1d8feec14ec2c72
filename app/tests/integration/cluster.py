"""Three Kafka brokers as processes on loopback, each of them a controller too."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka import ElectionType, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from tests.integration.kafka import Kafka, Plan
from tests.integration.processes import until

_BROKERS = 3
# Small: three of them run beside the tests.
_JVM = ("-Xmx192m", "-Xms96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Cluster:
    """The brokers, which have all partitions in common: three replicas, two of which must have a record."""

    def __init__(self, folder: Path) -> None:
        plan = Plan.of(_BROKERS)
        folders = [folder / str(node) for node in range(1, _BROKERS + 1)]
        for each in folders:
            each.mkdir(parents=True)
        # Together: none answers before two of them have chosen a controller.
        with ThreadPoolExecutor(_BROKERS) as pool:
            starting = [
                pool.submit(Kafka, each, _JVM, plan, node) for node, each in enumerate(folders, start=1)
            ]
        self.brokers = [each.result() for each in starting if each.exception() is None]
        if len(self.brokers) < _BROKERS:
            self.end()
            raise next(filter(None, (each.exception() for each in starting)))

    def admin(self) -> AdminClient:
        """Return an administrator's client."""
        return self.brokers[0].admin()

    def controller(self) -> Kafka:
        """Return the broker whose controller is the active one, by what all of them have on disk."""
        known = [
            json.loads((broker.folder / "data/__cluster_metadata-0/quorum-state").read_text())
            for broker in self.brokers
        ]
        leader = max(known, key=lambda state: int(state["leaderEpoch"]))["leaderId"]
        return self.brokers[int(leader) - 1]

    def leader(self, topic: str, partition: int) -> Kafka:
        """Return the broker that leads a partition."""
        known = self.admin().list_topics(topic, timeout=10).topics[topic].partitions
        return self.brokers[known[partition].leader - 1]

    def repair(self) -> None:
        """Let all brokers run, wait until each has all records, and spread the leaders over them."""
        dead = [broker for broker in self.brokers if not broker.process.running()]
        for broker in self.brokers:
            if broker not in dead:
                broker.thaw()
        with ThreadPoolExecutor(_BROKERS) as pool:
            list(pool.map(Kafka.start, dead))
        until("all replicas are in sync", self._in_sync, 90)
        until("each broker leads its partitions", self._spread, 60)

    def end(self) -> None:
        """End all processes."""
        for broker in self.brokers:
            broker.process.end()

    def _in_sync(self) -> bool:
        try:
            admin = self.admin()
            names = TopicCollection(list(admin.list_topics(timeout=5).topics))
            described = admin.describe_topics(names, request_timeout=5)
            topics = [one.result(10) for one in described.values()]
        except KafkaException:
            return False
        return all(len(partition.isr) == _BROKERS for topic in topics for partition in topic.partitions)

    def _spread(self) -> bool:
        try:
            admin = self.admin()
            admin.elect_leaders(ElectionType.PREFERRED, None).result(10)
            topics = admin.list_topics(timeout=5).topics.values()
        except KafkaException:
            return False
        return all(
            partition.leader == partition.replicas[0]
            for topic in topics
            for partition in topic.partitions.values()
        )
