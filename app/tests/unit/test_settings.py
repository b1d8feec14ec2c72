from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from timestamp_service import settings
from timestamp_service.settings import SettingError

COMMAND = {"SERVER_PORT": "7080", "KAFKA_BROKER": "10.0.0.1:9092", "KAFKA_PUBLISH_TOPIC": "topic.v1"}
QUERY = {
    "SERVER_PORT": "7082",
    "DB_URL": "postgresql://10.0.0.1:5432/timestamps?sslmode=verify-full",
    "DB_USERNAME": "timestamp_query",
    "DB_PASSWORD": "secret-of-the-database",
}
CONSUMER = {
    **QUERY,
    "KAFKA_BROKER": "10.0.0.1:9092,10.0.0.2:9092",
    "KAFKA_CONSUMER_TOPIC": "topic.v1",
    "KAFKA_GROUP_ID": "group",
}
SASL = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_USERNAME": "me", "KAFKA_PASSWORD": "secret-of-kafka"}


def test_command() -> None:
    read = settings.read_command({**COMMAND, **SASL, "LOG_LEVEL": "WARNING", "WORKERS": "2"})

    assert (read.server.port, read.server.workers, read.server.log_level) == (7080, 2, 30)
    assert read.topic == "topic.v1"
    assert (read.acknowledge_seconds, read.failover_seconds) == (5, 15)
    client = read.kafka.client()
    assert client["bootstrap.servers"] == "10.0.0.1:9092"
    assert client["sasl.mechanism"] == "SCRAM-SHA-512"
    assert (client["sasl.username"], client["sasl.password"]) == ("me", "secret-of-kafka")


def test_a_failover_is_waited_for_no_less_than_one_broker() -> None:
    read = settings.read_command({**COMMAND, "KAFKA_ACKNOWLEDGE_SECONDS": "20"})
    assert (read.acknowledge_seconds, read.failover_seconds) == (20, 20)


def test_the_groups_whose_lag_is_measured() -> None:
    assert settings.read_command(COMMAND).projection_groups == ()
    read = settings.read_command({**COMMAND, "KAFKA_PROJECTION_GROUPS": "group, group-db2,group"})
    assert read.projection_groups == ("group", "group-db2")
    for wrong in ("group,", ",", "a group", "gr\udcffup"):
        with pytest.raises(SettingError, match=r"^KAFKA_PROJECTION_GROUPS must be"):
            settings.read_command({**COMMAND, "KAFKA_PROJECTION_GROUPS": wrong})


def test_consumer() -> None:
    read = settings.read_consumer(CONSUMER)

    assert read.dead_letter_topic == "topic.v1.dead-letter"
    assert read.group_id == "group"
    assert read.group_instance_id is None
    assert read.leave_file is None
    assert read.database.password == "secret-of-the-database"
    assert "sasl.mechanism" not in read.kafka.client()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9411/api/v2/spans", "https://traces.example.com", "http://[2001:db8::1]:9411/?x=@y"],
)
def test_traces(url: str) -> None:
    for read, good in (
        (settings.read_command, COMMAND),
        (settings.read_consumer, CONSUMER),
        (settings.read_query, QUERY),
    ):
        assert read(good).traces is None
        assert read({**good, "TRACES_URL": url}).traces == settings.Traces(url, 10, 0.01, 1)
        chosen = {"TRACES_PER_SECOND": "7", "TRACES_SHARE": "0.5", "TRACES_SLOW_SECONDS": "0.2"}
        assert read({**good, "TRACES_URL": url, **chosen}).traces == settings.Traces(url, 7, 0.5, 0.2)
    assert settings.read_consumer(CONSUMER).nginx_socket is None
    assert settings.read_consumer({**CONSUMER, "TRACES_NGINX_SOCKET": "/run/x"}).nginx_socket == "/run/x"


def test_the_number_of_partitions() -> None:
    for read, good in (
        (settings.read_command, COMMAND),
        (settings.read_consumer, CONSUMER),
        (settings.read_rebuild, CONSUMER),
        (settings.read_backup, {**CONSUMER, "BACKUP_FOLDER": "/"}),
    ):
        assert read(good).partitions == 12
        assert read({**good, "KAFKA_PARTITIONS": "24"}).partitions == 24


def test_secrets_are_not_shown() -> None:
    url = "postgresql://u:secret@10.0.0.1/timestamps"
    shown = repr(settings.read_consumer({**CONSUMER, **SASL, "DB_URL": url}))
    assert "secret" not in shown


def test_secrets_from_files(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from-a-file\n")
    environment = {name: value for name, value in QUERY.items() if name != "DB_PASSWORD"}

    read = settings.read_query({**environment, "DB_PASSWORD_FILE": str(file)})

    assert read.databases[0].password == "from-a-file"


def test_several_databases() -> None:
    urls = ["postgresql://10.0.0.1/timestamps", "postgres://10.0.0.2:5433/timestamps"]
    read = settings.read_query({**QUERY, "DB_URL": f" {urls[0]}  {urls[1]}\n"})
    assert [database.url for database in read.databases] == urls
    assert {database.username for database in read.databases} == {"timestamp_query"}
    with pytest.raises(SettingError, match=r"DB_URL \(number 2 of 2\) must be"):
        settings.read_query({**QUERY, "DB_URL": f"{urls[0]} 10.0.0.2"})
    with pytest.raises(SettingError, match="DB_URL names a database twice"):
        settings.read_query({**QUERY, "DB_URL": f"{urls[0]} {urls[0]}"})
    # Who writes has one.
    with pytest.raises(SettingError, match="DB_URL"):
        settings.read_consumer({**CONSUMER, **SASL, "DB_URL": " ".join(urls)})


Read = Callable[[settings.Environment], object]


@pytest.mark.parametrize(
    ("read", "good", "name"),
    [
        *((settings.read_command, COMMAND, name) for name in COMMAND),
        *((settings.read_consumer, CONSUMER, name) for name in CONSUMER if name != "DB_PASSWORD"),
        *((settings.read_query, QUERY, name) for name in QUERY if name != "DB_PASSWORD"),
        *(
            (settings.read_command, {**COMMAND, **SASL}, name)
            for name in ("KAFKA_USERNAME", "KAFKA_PASSWORD")
        ),
    ],
)
def test_a_missing_setting_is_named(read: Read, good: dict[str, str], name: str) -> None:
    read(good)
    for missing in ({key: value for key, value in good.items() if key != name}, {**good, name: ""}):
        with pytest.raises(SettingError, match=rf"^{name} is missing") as caught:
            read(missing)
        assert caught.value.name == name


@pytest.mark.parametrize(
    ("read", "good", "name", "value"),
    [
        (settings.read_command, COMMAND, "SERVER_PORT", "0"),
        (settings.read_command, COMMAND, "SERVER_PORT", "65536"),
        (settings.read_command, COMMAND, "SERVER_PORT", "http"),
        (settings.read_command, COMMAND, "LOG_LEVEL", "loud"),
        (settings.read_command, COMMAND, "WORKERS", "-1"),
        (settings.read_command, COMMAND, "KAFKA_BROKER", "10.0.0.1"),
        (settings.read_command, COMMAND, "KAFKA_BROKER", "10.0.0.1:9092,"),
        (settings.read_command, COMMAND, "KAFKA_BROKER", "10.0.0.1:x"),
        (settings.read_command, COMMAND, "KAFKA_BROKER", "me:hunter2@10.0.0.1:9092"),
        (settings.read_command, COMMAND, "KAFKA_BROKER", "10.0.0.1:9092,hunter2@10.0.0.1:9092"),
        (settings.read_command, COMMAND, "KAFKA_BROKER", "hunter2://10.0.0.1:9092"),
        (settings.read_command, COMMAND, "KAFKA_BROKER", ":9092"),
        (settings.read_command, COMMAND, "KAFKA_PUBLISH_TOPIC", "a topic"),
        (settings.read_command, {**COMMAND, **SASL}, "KAFKA_SASL_MECHANISM", "hunter2"),
        # Both are set.
        (settings.read_command, {**COMMAND, **SASL}, "KAFKA_PASSWORD_FILE", "/etc/hostname"),
        (settings.read_query, QUERY, "DB_PASSWORD_FILE", "/etc/hostname"),
        (settings.read_command, COMMAND, "KAFKA_SECURITY_PROTOCOL", "TLS"),
        (settings.read_command, COMMAND, "KAFKA_CA_FILE", "/nowhere/ca.crt"),
        (settings.read_command, COMMAND, "KAFKA_ACKNOWLEDGE_SECONDS", "soon"),
        (settings.read_command, COMMAND, "KAFKA_FAILOVER_SECONDS", "0"),
        (settings.read_command, COMMAND, "KAFKA_PARTITIONS", "0"),
        (settings.read_consumer, CONSUMER, "KAFKA_PARTITIONS", "10001"),
        (settings.read_rebuild, CONSUMER, "KAFKA_PARTITIONS", "twelve"),
        (settings.read_backup, {**CONSUMER, "BACKUP_FOLDER": "/"}, "KAFKA_PARTITIONS", "-1"),
        (settings.read_command, {**COMMAND, **SASL}, "KAFKA_PASSWORD_FILE", "/nowhere/password"),
        (settings.read_query, QUERY, "DB_URL", "10.0.0.1"),
        (settings.read_query, QUERY, "DB_URL", "host=10.0.0.1"),
        (settings.read_query, QUERY, "DB_URL", "postgresql://10.0.0.1/timestamps?nonsense=1"),
        (settings.read_query, QUERY, "DB_URL", "postgresql://user:secret/timestamps"),
        (settings.read_query, QUERY, "DB_URL", "postgresql://10.0.0.1:65536/timestamps"),
        (settings.read_query, QUERY, "DB_CONNECTIONS", "0"),
        *(
            (settings.read_query, QUERY, "TRACES_URL", url)
            for url in (
                "127.0.0.1:9411",
                "ftp://127.0.0.1/",
                "http://me:hunter2@127.0.0.1/",
                "http://127.0.0.1:0/",
                "http://127.0.0.1:65536/",
                "http:///api/v2/spans",
                "http://127.0.0.1/a b",
            )
        ),
        # Also where traces are off.
        (settings.read_query, QUERY, "TRACES_SHARE", "1%"),
    ],
)
def test_a_bad_setting_is_named(read: Read, good: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(SettingError) as caught:
        read({**good, name: value})
    # Which of two that contradict each other is named does not matter.
    assert caught.value.name.removesuffix("_FILE") == name.removesuffix("_FILE")
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("broker", ["kafka-1.example.com:9092", "[2001:db8::1]:9092", "a:1, b:65535"])
def test_brokers(broker: str) -> None:
    assert settings.read_command({**COMMAND, "KAFKA_BROKER": broker}).kafka.brokers == broker


@pytest.mark.parametrize(
    ("read", "good", "name", "least", "most"),
    [
        (settings.read_command, COMMAND, "SERVER_PORT", 1, 65_535),
        (settings.read_command, COMMAND, "WORKERS", 1, 256),
        (settings.read_command, COMMAND, "KAFKA_ACKNOWLEDGE_SECONDS", 1, 300),
        (settings.read_command, COMMAND, "KAFKA_FAILOVER_SECONDS", 1, 300),
        (settings.read_command, COMMAND, "KAFKA_IN_FLIGHT_MAX", 1, 1_000_000),
        (settings.read_command, COMMAND, "KAFKA_PARTITIONS", 1, 10_000),
        (settings.read_consumer, CONSUMER, "CONSUMER_BATCH_MAX", 1, 100_000),
        (settings.read_query, QUERY, "DB_CONNECTIONS", 1, 100),
        (settings.read_query, QUERY, "QUERY_WAITING_MAX", 0, 100_000),
        (settings.read_rebuild, CONSUMER, "REBUILD_DEAD_LETTERS_SECONDS", 0, 3600),
        (settings.read_command, COMMAND, "TRACES_PER_SECOND", 0, 1_000),
        (settings.read_consumer, CONSUMER, "TRACES_SHARE", 0, 1),
        (settings.read_query, QUERY, "TRACES_SLOW_SECONDS", 0, 3600),
    ],
)
def test_bounds(read: Read, good: dict[str, str], name: str, least: int, most: int) -> None:
    read({**good, name: str(least)})
    read({**good, name: str(most)})
    for beyond in (least - 1, most + 1):
        with pytest.raises(SettingError, match=f"^{name} must be a (whole )?number from {least} to {most}$"):
            read({**good, name: str(beyond)})


@pytest.mark.parametrize("name", ["DB_PASSWORD", "KAFKA_PASSWORD"])
def test_a_secret_that_is_given_twice_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2")
    with pytest.raises(SettingError, match=f"^{name} and {name}_FILE are both set: set one of them$"):
        settings.read_consumer({**CONSUMER, **SASL, f"{name}_FILE": str(file)})


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("missing", ["KAFKA_USERNAME", "KAFKA_PASSWORD"])
def test_sasl_needs_credentials(protocol: str, missing: str) -> None:
    for read, good in (
        (settings.read_consumer, CONSUMER),
        (settings.read_rebuild, CONSUMER),
        (settings.read_backup, {**CONSUMER, "BACKUP_FOLDER": "/"}),
    ):
        with pytest.raises(SettingError, match=f"^{missing} is missing"):
            read({**good, **SASL, "KAFKA_SECURITY_PROTOCOL": protocol, missing: ""})


def test_an_empty_secret_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("\n")
    with pytest.raises(SettingError, match="DB_PASSWORD_FILE names an empty file"):
        settings.read_query({**QUERY, "DB_PASSWORD": "", "DB_PASSWORD_FILE": str(file)})


REBUILD = {
    **CONSUMER,
    **SASL,
    "REBUILD_STRICT": "",
    "REBUILD_DEAD_LETTERS_SECONDS": "",
    "REBUILD_DROP_UNKNOWN": "",
}
HOLDING_A_SECRET = (
    "hunter2 is a secret",
    "/nowhere/hunter2",
    "postgresql://u:hunter2@[::1]x/db",
    "postgresql://u:hunter2@host:x/db",
    "postgresql://u:1@hunter2@host/db",
    "postgresql://u:hunter2/1@host/db",
    "postgresql://u:1/hunter2@host/db",
    "postgresql://u:%hunter2@host/db",
    "postgresql://host/db?hunter2",
    "postgresql://host/db?hunter2=1",
    "http://u:hunter2@host/",
    "u:hunter2@host:9092",
    "hunter2@host:9092",
    "hunter2\udcff",
)
# Whatever may be set: all of it could hold a secret, be it by mistake.
EVERY_SETTING = (
    *((settings.read_command, {**COMMAND, **SASL}, name) for name in (*COMMAND, *SASL)),
    *(
        (settings.read_command, {**COMMAND, **SASL}, name)
        for name in (
            "LOG_LEVEL",
            "WORKERS",
            "KAFKA_CA_FILE",
            "KAFKA_SASL_MECHANISM",
            "KAFKA_ACKNOWLEDGE_SECONDS",
            "KAFKA_IN_FLIGHT_MAX",
            "KAFKA_PARTITIONS",
            "KAFKA_PASSWORD_FILE",
            "KAFKA_PROJECTION_GROUPS",
        )
    ),
    *((settings.read_query, QUERY, name) for name in (*QUERY, "DB_CONNECTIONS", "QUERY_WAITING_MAX")),
    *((settings.read_query, {**QUERY, "DB_PASSWORD": ""}, name) for name in ("DB_PASSWORD_FILE",)),
    *((settings.read_consumer, {**CONSUMER, **SASL}, name) for name in (*CONSUMER, "CONSUMER_BATCH_MAX")),
    *((settings.read_consumer, {**CONSUMER, **SASL}, name) for name in ("KAFKA_DEAD_LETTER_TOPIC",)),
    *((settings.read_rebuild, REBUILD, name) for name in REBUILD),
    *(
        (settings.read_backup, {**CONSUMER, "BACKUP_FOLDER": "/"}, name)
        for name in ("BACKUP_FOLDER", *CONSUMER)
    ),
)


@pytest.mark.parametrize(("read", "good", "name"), EVERY_SETTING)
def test_no_error_quotes_a_value(read: Read, good: dict[str, str], name: str) -> None:
    for value in HOLDING_A_SECRET:
        message = ""
        try:
            read({**good, name: value})
        except SettingError as error:
            message = str(error)
        assert "hunter2" not in message


@given(st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1))
@example("se/cret")
@example("1/ret")
@example("se@cret")
@example("1/timestamps?port=cret")
def test_an_unencoded_password_gets_into_no_other_part_of_the_url(password: str) -> None:
    url = f"postgresql://u:{password}@10.0.0.1/timestamps"
    try:
        read = settings.read_database({"DB_URL": url, "DB_USERNAME": "u"})
    except SettingError:
        return
    parts = parse_dsn(read.url)
    assert (parts["host"], parts["dbname"]) == ("10.0.0.1", "timestamps")
