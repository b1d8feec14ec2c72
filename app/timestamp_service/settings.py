"""Settings: environment variables, read once into frozen objects.

A secret `NAME` may be given as a file instead, by `NAME_FILE`. No error quotes the value of a setting: it may
be a secret, or hold one, if only by mistake.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Environment = Mapping[str, str]

# Nothing else, such as user:password@: the library quotes brokers in its errors, which are logged.
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_URL = re.compile(rf"https?://(?:{_HOST.pattern})(?::(?P<port>[0-9]+))?(?:/[!-~]*)?")

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class SettingError(Exception):
    """A setting is missing or invalid; the message names it, and says what is expected."""

    def __init__(self, name: str, problem: str) -> None:
        """Make the message of `name` and `problem`, such as "is missing"."""
        super().__init__(f"{name} {problem}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Server:
    """Where a process listens, unless systemd hands it sockets, and how it logs."""

    port: int
    log_level: int
    workers: int


@dataclass(frozen=True, slots=True)
class Kafka:
    """How to reach the brokers."""

    brokers: str
    protocol: str
    mechanism: str
    username: str | None
    password: str | None = field(repr=False)
    ca_file: str | None

    def client(self) -> dict[str, Any]:
        """Return librdkafka's settings for the connection."""
        client: dict[str, Any] = {
            "bootstrap.servers": self.brokers,
            "security.protocol": self.protocol,
            # Give up a broker that hangs, and soon connect to one that is back.
            "socket.timeout.ms": 10_000,
            "socket.connection.setup.timeout.ms": 5_000,
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": 2_000,
            # A broker that hangs keeps its connections: that another has taken over is learned by asking.
            "topic.metadata.refresh.interval.ms": 1_000,
            # A single message does not wait for the acknowledgement of earlier packets.
            "socket.nagle.disable": True,
            # The library logs emergencies only, through our logger: what matters arrives as an error as well.
            "log_level": 0,
            "logger": logging.getLogger("kafka"),
        }
        if self.ca_file is not None:
            client["ssl.ca.location"] = self.ca_file
        if self.username is not None and self.password is not None:
            client["sasl.mechanism"] = self.mechanism
            client["sasl.username"] = self.username
            client["sasl.password"] = self.password
        return client


@dataclass(frozen=True, slots=True)
class Database:
    """How to reach PostgreSQL: a libpq URI (which may hold a password), and our role there."""

    url: str = field(repr=False)
    username: str
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Traces:
    """Which requests are traced, and where their spans go: a URL that takes Zipkin's JSON, version 2."""

    url: str
    # Of the requests whose client asks for it, so many a second; of the others this share, from 0 to 1.
    per_second: int
    share: float
    # Requests that take this long are always traced, and so are errors of ours.
    slow_seconds: float


@dataclass(frozen=True, slots=True)
class Command:
    """Settings of the command API."""

    server: Server
    traces: Traces | None
    kafka: Kafka
    topic: str
    partitions: int
    acknowledge_seconds: float
    # In place of it while a cluster fails over.
    failover_seconds: float
    in_flight_max: int
    # The consumer groups whose lag is measured.
    projection_groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Consumer:
    """Settings of the consumer."""

    server: Server
    traces: Traces | None
    # A unix socket, to be made, at which nginx reports its requests.
    nginx_socket: str | None
    kafka: Kafka
    topic: str
    partitions: int
    dead_letter_topic: str
    group_id: str
    group_instance_id: str | None
    # While it is there, a consumer that ends leaves its group for good.
    leave_file: str | None
    database: Database
    batch_max: int


@dataclass(frozen=True, slots=True)
class Query:
    """Settings of the query API."""

    server: Server
    traces: Traces | None
    # Independent projections with the same records, the nearest first.
    databases: tuple[Database, ...]
    connections: int
    waiting_max: int


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Settings of a rebuild."""

    log_level: int
    kafka: Kafka
    topic: str
    partitions: int
    dead_letter_topic: str
    group_id: str
    database: Database
    # Whether a message that can never be projected and has no dead letter fails the rebuild.
    strict: bool
    # How long to wait for such a dead letter: the consumer may be about to write it.
    dead_letters_seconds: int
    # Whether to drop the rows whose records are not in the log.
    drop_unknown: bool


@dataclass(frozen=True, slots=True)
class Backup:
    """Settings of a backup, and of a restore."""

    log_level: int
    kafka: Kafka
    topic: str
    partitions: int
    dead_letter_topic: str
    folder: str


def read_command(environment: Environment) -> Command:
    """Read the settings of the command API. Raises SettingError."""
    acknowledge_seconds = _number(environment, "KAFKA_ACKNOWLEDGE_SECONDS", 5, 1, 300)
    return Command(
        server=read_server(environment),
        traces=_traces(environment),
        kafka=_kafka(environment),
        topic=_topic(environment, "KAFKA_PUBLISH_TOPIC"),
        partitions=_partitions(environment),
        acknowledge_seconds=acknowledge_seconds,
        failover_seconds=max(acknowledge_seconds, _number(environment, "KAFKA_FAILOVER_SECONDS", 15, 1, 300)),
        in_flight_max=_integer(environment, "KAFKA_IN_FLIGHT_MAX", 10_000, 1, 1_000_000),
        projection_groups=_groups(environment, "KAFKA_PROJECTION_GROUPS"),
    )


def read_consumer(environment: Environment) -> Consumer:
    """Read the settings of the consumer. Raises SettingError."""
    server = read_server(environment)
    topic = _topic(environment, "KAFKA_CONSUMER_TOPIC")
    return Consumer(
        server=server,
        traces=_traces(environment),
        nginx_socket=environment.get("TRACES_NGINX_SOCKET") or None,
        kafka=_kafka(environment),
        topic=topic,
        partitions=_partitions(environment),
        dead_letter_topic=_topic(environment, "KAFKA_DEAD_LETTER_TOPIC", f"{topic}.dead-letter"),
        group_id=_text(environment, "KAFKA_GROUP_ID"),
        group_instance_id=environment.get("KAFKA_GROUP_INSTANCE_ID") or None,
        leave_file=environment.get("KAFKA_GROUP_LEAVE_FILE") or None,
        database=read_database(environment),
        batch_max=_integer(environment, "CONSUMER_BATCH_MAX", 10_000, 1, 100_000),
    )


def read_query(environment: Environment) -> Query:
    """Read the settings of the query API. Raises SettingError."""
    return Query(
        server=read_server(environment),
        traces=_traces(environment),
        databases=read_databases(environment),
        connections=_integer(environment, "DB_CONNECTIONS", 2, 1, 100),
        waiting_max=_integer(environment, "QUERY_WAITING_MAX", 1_000, 0, 100_000),
    )


def read_rebuild(environment: Environment) -> Rebuild:
    """Read the settings of a rebuild: mostly those of the consumer. Raises SettingError."""
    topic = _topic(environment, "KAFKA_CONSUMER_TOPIC")
    return Rebuild(
        log_level=read_log_level(environment),
        kafka=_kafka(environment),
        topic=topic,
        partitions=_partitions(environment),
        dead_letter_topic=_topic(environment, "KAFKA_DEAD_LETTER_TOPIC", f"{topic}.dead-letter"),
        group_id=f"{_text(environment, 'KAFKA_GROUP_ID')}-rebuild",
        database=read_database(environment),
        strict=_boolean(environment, "REBUILD_STRICT", default=True),
        dead_letters_seconds=_integer(environment, "REBUILD_DEAD_LETTERS_SECONDS", 30, 0, 3600),
        drop_unknown=_boolean(environment, "REBUILD_DROP_UNKNOWN", default=False),
    )


def read_backup(environment: Environment) -> Backup:
    """Read the settings of a backup or a restore. Raises SettingError."""
    topic = _topic(environment, "KAFKA_CONSUMER_TOPIC")
    folder = _text(environment, "BACKUP_FOLDER")
    if not Path(folder).is_dir():
        raise SettingError("BACKUP_FOLDER", "is not an existing folder")
    return Backup(
        log_level=read_log_level(environment),
        kafka=_kafka(environment),
        topic=topic,
        partitions=_partitions(environment),
        dead_letter_topic=_topic(environment, "KAFKA_DEAD_LETTER_TOPIC", f"{topic}.dead-letter"),
        folder=folder,
    )


def read_log_level(environment: Environment) -> int:
    """Read the log level, as a number of the module `logging`. Raises SettingError."""
    level = environment.get("LOG_LEVEL") or "info"
    if level.lower() not in LEVELS:
        raise SettingError("LOG_LEVEL", f"must be one of {', '.join(LEVELS)}")
    return LEVELS[level.lower()]


def read_server(environment: Environment) -> Server:
    """Read the settings of every process that serves. Raises SettingError."""
    log_level = read_log_level(environment)
    return Server(
        port=_integer(environment, "SERVER_PORT", None, 1, 65_535),
        log_level=log_level,
        workers=_integer(environment, "WORKERS", 1, 1, 256),
    )


def _traces(environment: Environment) -> Traces | None:
    url = environment.get("TRACES_URL", "")
    traces = Traces(
        url=url,
        per_second=_integer(environment, "TRACES_PER_SECOND", 10, 0, 1_000),
        share=_number(environment, "TRACES_SHARE", 0.01, 0, 1),
        slow_seconds=_number(environment, "TRACES_SLOW_SECONDS", 1, 0, 3600),
    )
    if not url:
        return None
    matched = _URL.fullmatch(url)
    if matched is None or (matched["port"] is not None and not _is_port(matched["port"])):
        raise SettingError(
            "TRACES_URL", "must be an http or https URL such as http://127.0.0.1:9411/api/v2/spans"
        )
    return traces


def _kafka(environment: Environment) -> Kafka:
    brokers = _text(environment, "KAFKA_BROKER")
    for broker in brokers.split(","):
        host, colon, port = broker.strip().rpartition(":")
        if _HOST.fullmatch(host) is None or not colon or not _is_port(port):
            raise SettingError("KAFKA_BROKER", "must be host:port, or several separated by commas")
    protocol = environment.get("KAFKA_SECURITY_PROTOCOL") or "PLAINTEXT"
    protocols = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
    if protocol not in protocols:
        raise SettingError("KAFKA_SECURITY_PROTOCOL", f"must be one of {', '.join(protocols)}")
    sasl = protocol.startswith("SASL_")
    mechanism = environment.get("KAFKA_SASL_MECHANISM") or "SCRAM-SHA-512"
    mechanisms = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    if mechanism not in mechanisms:
        raise SettingError("KAFKA_SASL_MECHANISM", f"must be one of {', '.join(mechanisms)}")
    ca_file = environment.get("KAFKA_CA_FILE") or None
    if ca_file is not None and not Path(ca_file).is_file():
        raise SettingError("KAFKA_CA_FILE", "is not an existing file")
    return Kafka(
        brokers=brokers,
        protocol=protocol,
        mechanism=mechanism,
        username=_text(environment, "KAFKA_USERNAME") if sasl else None,
        password=_secret(environment, "KAFKA_PASSWORD") if sasl else None,
        ca_file=ca_file,
    )


def read_database(environment: Environment) -> Database:
    """Read how to reach PostgreSQL. Raises SettingError."""
    return _database(environment, _text(environment, "DB_URL"), "")


def read_databases(environment: Environment) -> tuple[Database, ...]:
    """Read how to reach PostgreSQL, where DB_URL may name several databases. Raises SettingError."""
    urls = _text(environment, "DB_URL").split()
    if len(set(urls)) < len(urls):
        raise SettingError("DB_URL", "names a database twice")
    return tuple(
        _database(environment, url, f"(number {number} of {len(urls)}) " if len(urls) > 1 else "")
        for number, url in enumerate(urls, 1)
    )


def _database(environment: Environment, url: str, which: str) -> Database:
    # The command API does without a PostgreSQL client.
    import psycopg2
    from psycopg2.extensions import parse_dsn

    expected = (
        f"{which}must be a libpq URI such as postgresql://host:port/database;"
        " percent-encode special characters"
    )
    # A space separates databases. After an unencoded @, / or ? libpq takes the rest of a password for another
    # part, and may quote it.
    if re.fullmatch(r"postgres(?:ql)?://(?:[^@/?\s]*@)?[^@\s]*", url) is None:
        raise SettingError("DB_URL", expected)
    try:
        ports = parse_dsn(url).get("port", "").split(",")
    except (psycopg2.Error, UnicodeError):
        raise SettingError("DB_URL", expected) from None
    if not all(_is_port(port) for port in ports if port):
        raise SettingError("DB_URL", expected)
    return Database(
        url=url,
        username=_text(environment, "DB_USERNAME"),
        # None where the server asks for no password, as on a Unix socket with peer authentication.
        password=_secret(environment, "DB_PASSWORD", required=False),
    )


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65_535


def _text(environment: Environment, name: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise SettingError(name, "is missing")
    return value


def _topic(environment: Environment, name: str, default: str | None = None) -> str:
    topic = environment.get(name) or default
    if topic is None:
        raise SettingError(name, "is missing")
    if re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic) is None:
        raise SettingError(
            name, "must be the name of a Kafka topic: 1 to 249 of A-Z, a-z, 0-9, dot, underscore and hyphen"
        )
    return topic


def _groups(environment: Environment, name: str) -> tuple[str, ...]:
    text = environment.get(name, "").strip()
    groups = [group.strip() for group in text.split(",")] if text else []
    if not all(re.fullmatch("[!-~]+", group) for group in groups):
        raise SettingError(name, "must be names of consumer groups separated by commas, of visible ASCII")
    return tuple(dict.fromkeys(groups))


def _partitions(environment: Environment) -> int:
    """Read the number of the topic's partitions, which is chosen when the topic is created."""
    return _integer(environment, "KAFKA_PARTITIONS", 12, 1, 10_000)


def _secret(environment: Environment, name: str, *, required: bool = True) -> str | None:
    file = environment.get(f"{name}_FILE")
    if file:
        if environment.get(name):
            raise SettingError(name, f"and {name}_FILE are both set: set one of them")
        try:
            secret = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingError(f"{name}_FILE", f"names a file that cannot be read: {reason}") from None
        if not secret:
            raise SettingError(f"{name}_FILE", "names an empty file")
        return secret
    if environment.get(name):
        return environment[name]
    if required:
        raise SettingError(name, f"is missing (or {name}_FILE)")
    return None


def _integer(environment: Environment, name: str, default: int | None, least: int, most: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        if default is None:
            raise SettingError(name, "is missing")
        return default
    if re.fullmatch(r"[0-9]{1,9}", text) is None or not least <= int(text) <= most:
        raise SettingError(name, f"must be a whole number from {least} to {most}")
    return int(text)


def _number(environment: Environment, name: str, default: float, least: float, most: float) -> float:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) is None or not least <= float(text) <= most:
        raise SettingError(name, f"must be a number from {least} to {most}")
    return float(text)


def _boolean(environment: Environment, name: str, *, default: bool) -> bool:
    text = environment.get(name, "").strip().lower()
    if not text:
        return default
    if text not in ("true", "false"):
        raise SettingError(name, "must be true or false")
    return text == "true"
