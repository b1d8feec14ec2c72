"""The three processes of the service, started as the units start them."""

import json
import os
import socket
import sys
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.integration.kafka import Kafka
from tests.integration.postgres import PASSWORDS, Postgres
from tests.integration.processes import Process, free_port, until

GUNICORN = [sys.executable, "-m", "gunicorn", "--config", "python:timestamp_service.gunicorn_conf"]
COMMAND = [*GUNICORN, "timestamp_service.command.api:create_app()"]
QUERY = [*GUNICORN, "timestamp_service.query.api:create_app()"]
CONSUMER = [sys.executable, "-m", "timestamp_service.consumer.main"]
REBUILD = [sys.executable, "-m", "timestamp_service.rebuild.main"]


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return what the JSON of the body says."""
        return json.loads(self.body)


class Service:
    """One of the processes, on a port of its own."""

    def __init__(self, name: str, command: list[str], folder: Path, settings: dict[str, str]) -> None:
        self.port = free_port()
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The limit on the length of such an address is small.
        self._notifications.bind(f"\0timestamp-service-test-{self.port}")
        self._notified: list[str] = []
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SERVER_PORT": str(self.port),
            "NOTIFY_SOCKET": f"@timestamp-service-test-{self.port}",
            **settings,
        }
        self.process = Process(name, command, folder, environment)

    def notifications(self) -> list[str]:
        """Return all notifications that the process has sent to systemd so far."""
        self._notifications.setblocking(False)
        while True:
            try:
                self._notified.append(self._notifications.recv(1000).decode())
            except BlockingIOError:
                return self._notified

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send a request and return the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=40)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            read = response.read()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, read
            )
        finally:
            connection.close()

    def status(self, path: str) -> int:
        """Return the status of a GET; 0 when nobody answers."""
        try:
            return self.ask("GET", path).status
        except (OSError, HTTPException):
            return 0

    def wait_until_ready(self, seconds: float = 30) -> None:
        """Wait until it says that it is ready."""

        def ready() -> bool:
            self.process.check_running()
            return self.status("/ready") == 200

        until(f"{self.process.name} is ready", ready, seconds)

    def wait_until_serving(self) -> None:
        """Wait until it answers at all."""

        def serving() -> bool:
            self.process.check_running()
            return self.status("/health") == 200

        until(f"{self.process.name} serves", serving)

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of its log. Each must be a JSON object in our form."""
        lines = [json.loads(line) for line in self.process.log.read_text().splitlines()]
        for line in lines:
            assert list(line)[:4] == ["time", "level", "service", "event"], line
        return lines

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one event."""
        return [line for line in self.log() if line["event"] == event]

    def requests(self, correlation_id: str) -> list[dict[str, Any]]:
        """Return the lines of the requests of one correlationId."""
        return self.logged("request", "correlationId", correlation_id)

    def logged(self, event: str, name: str, value: str) -> list[dict[str, Any]]:
        """Return the lines of one event with a field of this value; the first may follow after an answer."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.events(event) if line.get(name) == value]

        until(f"{event} of {name} {value} is logged", found, 5)
        return found()


class World:
    """A topic and a database of one's own, and the processes between them."""

    def __init__(self, name: str, kafka: Kafka, postgres: Postgres, folder: Path) -> None:
        self.kafka = kafka
        self.postgres = postgres
        self.topic = f"{name}.v1"
        self.dead_letter_topic = f"{self.topic}.dead-letter"
        self.group = f"timestamp-consumer-{name}"
        self.database = name
        self._folder = folder
        self._services: list[Service] = []

    def make_topics(self) -> None:
        """Make both topics as the contract has them."""
        self.kafka.make_topic(
            self.topic, 12, {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
        )
        self.kafka.make_topic(self.dead_letter_topic, 1, {"max.message.bytes": "2097152"})

    def make_database(self) -> None:
        """Make the database, without the table."""
        self.postgres.make_database(self.database)

    def start_command(self, **settings: str) -> Service:
        """Start the command API."""
        return self._start(
            "command",
            COMMAND,
            {"KAFKA_BROKER": self.kafka.bootstrap, "KAFKA_PUBLISH_TOPIC": self.topic, **settings},
        )

    def start_query(self, **settings: str) -> Service:
        """Start the query API."""
        return self._start("query", QUERY, {**self.database_settings("timestamp_query"), **settings})

    def start_consumer(self, **settings: str) -> Service:
        """Start a consumer."""
        return self._start("consumer", CONSUMER, {**self._consuming(), **settings})

    def start_rebuild(self, **settings: str) -> Service:
        """Start a rebuild."""
        return self._start("rebuild", REBUILD, {**self._consuming(), **settings})

    def start_backup(self, kind: str, folder: Path) -> Service:
        """Start a "backup" to a folder, or a "restore" from it."""
        entry = f"from timestamp_service.backup import main; main.{kind}()"
        settings = {
            "KAFKA_BROKER": self.kafka.bootstrap,
            "KAFKA_CONSUMER_TOPIC": self.topic,
            "BACKUP_FOLDER": str(folder),
        }
        return self._start(kind, [sys.executable, "-c", entry], settings)

    def _consuming(self) -> dict[str, str]:
        return {
            **self.database_settings("timestamp_consumer"),
            "KAFKA_BROKER": self.kafka.bootstrap,
            "KAFKA_CONSUMER_TOPIC": self.topic,
            "KAFKA_GROUP_ID": self.group,
        }

    def database_settings(self, role: str) -> dict[str, str]:
        """Return how a process reaches the database as `role`, as environment variables."""
        return {
            "DB_URL": self.postgres.url(self.database),
            "DB_USERNAME": role,
            "DB_PASSWORD": PASSWORDS[role],
        }

    def _start(self, name: str, command: list[str], settings: dict[str, str]) -> Service:
        service = Service(f"{name}-{len(self._services)}", command, self._folder, settings)
        self._services.append(service)
        return service

    def end(self) -> None:
        """End all processes."""
        for service in self._services:
            service.process.end()

    def rows(self) -> dict[str, tuple[str, int, str]]:
        """Return the rows by id: instant, nanoseconds, time of appending."""
        found = self.postgres.run(
            self.database,
            """
            SET timezone = 'UTC';
            SELECT id::text, event_timestamp::text, event_nanoseconds, created_at::text FROM timestamp_records
            """,
        )
        return {row[0]: (row[1], row[2], row[3]) for row in found}

    def row_count(self) -> int:
        """Return the number of rows."""
        count: int = self.postgres.run(self.database, "SELECT count(*) FROM timestamp_records")[0][0]
        return count

    def has_table(self) -> bool:
        """Tell whether the consumer has made the table."""
        found: bool = self.postgres.run(self.database, "SELECT to_regclass('timestamp_records') IS NOT NULL")[
            0
        ][0]
        return found

    def rows_so_far(self) -> int:
        """Return the number of rows, of which there are none before there is a table."""
        return self.row_count() if self.has_table() else 0

    def produce(self, messages: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]) -> None:
        """Send messages (key, value, headers) to the topic; those of one key go to one partition."""
        producer = Producer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "partitioner": "murmur2_random",
                "message.max.bytes": 2_000_000,
                "log_level": 0,
            }
        )
        failed: list[object] = []
        for key, value, headers in messages:
            producer.produce(
                self.topic,
                value,
                key,
                headers=list(headers),
                on_delivery=lambda error, _message: failed.append(error) if error else None,
            )
        assert producer.flush(30) == 0
        assert not failed

    def read_topic(self, topic: str) -> list[Any]:
        """Return all messages that are in a topic, by partition and offset."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "group.id": "reader",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        try:
            ends: dict[int, int] = {}
            places = []
            for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
                if low < high:
                    ends[partition] = high
                    places.append(TopicPartition(topic, partition, low))
            # All at once: after each assignment the broker's answer to the last request is waited for.
            consumer.assign(places)
            messages = []
            while ends:
                message: Any = consumer.poll(10)
                assert message is not None
                assert message.error() is None
                partition, offset = message.partition(), message.offset()
                if offset < ends.get(partition, 0):
                    messages.append(message)
                if offset + 1 == ends.get(partition):
                    del ends[partition]
            return sorted(messages, key=lambda message: (message.partition(), message.offset()))
        finally:
            consumer.close()

    def committed(self) -> dict[int, int]:
        """Return the offsets that the group has committed, of the partitions that have any."""
        consumer = Consumer(
            {"bootstrap.servers": self.kafka.bootstrap, "group.id": self.group, "log_level": 0}
        )
        try:
            partitions = consumer.list_topics(self.topic, timeout=10).topics[self.topic].partitions
            offsets = consumer.committed([TopicPartition(self.topic, p) for p in partitions], timeout=10)
            return {place.partition: place.offset for place in offsets if place.offset >= 0}
        finally:
            consumer.close()


@dataclass(frozen=True)
class Running:
    """A world, and the three processes that run in it."""

    world: World
    command: Service
    query: Service
    consumer: Service

    def post(self, text: str | None = None, headers: dict[str, str] | None = None) -> str:
        """Record an instant (None: now) and return its id."""
        path = "/api/v1/timestamp" if text is None else f"/api/v1/timestamp/{text}"
        answer = self.command.ask("POST", path, headers)
        assert answer.status == 200, answer
        identifier: str = answer.json()["id"]
        return identifier

    def get(self, identifier: str, headers: dict[str, str] | None = None) -> Answer:
        """Read a record."""
        return self.query.ask("GET", f"/api/v1/timestamp/{identifier}", headers)
