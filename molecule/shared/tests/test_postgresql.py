"""PostgreSQL: who may do what is tried for real, from the web node, which alone reaches it."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import address, connect, run_program, service
from testinfra.host import Host

GROUP = "postgresql"
UNIT = next(node for node in service().nodes if "postgresql" in node.groups).postgresql_unit
# That of its settings and of its data: 17/main.
FOLDER = UNIT.removeprefix("postgresql@").removesuffix(".service").replace("-", "/", 1)
EXPOSURE_CEILING = 2.3
# What each attempt of programs/postgresql_client.py must be answered with; "" is what the service needs.
ANSWERS = {
    "query reads": "",
    "consumer writes": "",
    "wrong password": "password authentication failed",
    "without TLS": "no encryption",
    "superuser": "no pg_hba.conf entry",
    "owner": "no pg_hba.conf entry",
    "another database": "no pg_hba.conf entry",
    "query writes": "read-only transaction",
    "query writes all the same": "permission denied for table timestamp_records",
    "query makes a table": "permission denied for schema public",
    "query becomes the owner": "permission denied to set role",
    "query reads a file": "permission denied for function pg_read_file",
    "consumer reads records": "permission denied for table timestamp_records",
    "consumer deletes": "permission denied for table timestamp_records",
    "consumer changes": "permission denied for table timestamp_records",
    "consumer drops": "must be owner of table timestamp_records",
    "consumer runs a program": "to COPY to or from an external program",
}


@pytest.fixture(scope="module")
def answers() -> Any:
    web = next(node.name for node in service().nodes if "web" in node.groups)
    return run_program(connect(web), "postgresql_client.py", address("postgresql"))


def setting(node: Host, name: str) -> str:
    return str(node.check_output("runuser -u postgres -- psql -XAtc %s", f"SHOW {name}"))


def test_unit_runs(node: Host) -> None:
    assert node.service(UNIT).is_running
    assert node.service("postgresql.service").is_enabled


def test_exposure_is_under_the_ceiling(node: Host) -> None:
    line = node.run(f"systemd-analyze security --no-pager {UNIT}").stdout.strip().splitlines()[-1]
    assert float(line.split("exposure level for")[1].split(":")[1].split()[0]) <= EXPOSURE_CEILING, line


@pytest.mark.parametrize("attempt", ANSWERS)
def test_client_may_do_what_it_needs_and_no_more(answers: dict[str, str], attempt: str) -> None:
    if ANSWERS[attempt]:
        assert ANSWERS[attempt] in answers[attempt]
    else:
        assert answers[attempt] == ""


def test_every_attempt_is_judged(answers: dict[str, str]) -> None:
    assert set(answers) == set(ANSWERS)


def test_node_itself_must_use_the_socket(node: Host) -> None:
    target = f"host={address('postgresql')} dbname=timestamps sslmode=require"
    refused = node.run("runuser -u postgres -- psql %s -c 'SELECT 1'", target)
    assert "no pg_hba.conf entry" in refused.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ssl", "on"),
        ("ssl_min_protocol_version", "TLSv1.2"),
        ("password_encryption", "scram-sha-256"),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("log_statement", "none"),
    ],
)
def test_setting(node: Host, name: str, value: str) -> None:
    assert setting(node, name) == value


@pytest.mark.parametrize(("version", "spoken"), [("tls1_1", False), ("tls1_2", True), ("tls1_3", True)])
def test_tls_versions(node: Host, version: str, spoken: bool) -> None:
    client = f"echo | openssl s_client -starttls postgres -connect {address('postgresql')}:5432"
    assert (node.run(f"{client} -{version} -cipher 'DEFAULT:@SECLEVEL=0'").rc == 0) is spoken


def test_key_is_for_root_and_postgres(node: Host) -> None:
    file = node.file(f"/etc/postgresql/{FOLDER}/server.key")
    assert (file.user, file.group, file.mode) == ("root", "postgres", 0o640)


def test_data_is_for_postgres_alone(node: Host) -> None:
    folder = node.file(f"/var/lib/postgresql/{FOLDER}")
    assert (folder.user, folder.mode) == ("postgres", 0o700)
