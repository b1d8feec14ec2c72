"""Kafka: who may do what is tried for real, from the web node, which alone reaches it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import address, connect, run_program, service
from testinfra.host import Host

GROUP = "kafka"
EXPOSURE_CEILING = 1.0
# What each attempt of programs/kafka_client.py must be answered with; "" is what the service needs.
ANSWERS = {
    "command logs in": {""},
    "consumer reads": {""},
    "wrong password": {"_AUTHENTICATION"},
    "unknown user": {"_AUTHENTICATION"},
    "command reads": {"GROUP_AUTHORIZATION_FAILED", "TOPIC_AUTHORIZATION_FAILED"},
    "command joins the group": {"GROUP_AUTHORIZATION_FAILED"},
    "command asks how far a group has read": {""},
    "command asks how far another group has read": {"GROUP_AUTHORIZATION_FAILED"},
    "command changes how far a group has read": {"GROUP_AUTHORIZATION_FAILED"},
    "command writes dead letters": {"TOPIC_AUTHORIZATION_FAILED"},
    "command makes a topic": {"TOPIC_AUTHORIZATION_FAILED"},
    "consumer reads as another group": {"GROUP_AUTHORIZATION_FAILED"},
    # For the proof of a rebuild.
    "consumer reads dead letters": {""},
    "consumer writes commands": {"TOPIC_AUTHORIZATION_FAILED"},
    "plain text": {"closed"},
    "unknown authority": {"SSLCertVerificationError"},
}


@pytest.fixture(scope="module")
def answers() -> Any:
    web = next(node.name for node in service().nodes if "web" in node.groups)
    return run_program(connect(web), "kafka_client.py", f"{address('kafka')}:9092")


def test_unit_runs(node: Host) -> None:
    assert node.service("kafka.service").is_running
    assert node.service("kafka.service").is_enabled


def test_exposure_is_under_the_ceiling(node: Host) -> None:
    line = node.run("systemd-analyze security --no-pager kafka.service").stdout.strip().splitlines()[-1]
    assert float(line.split(":")[1].split()[0]) <= EXPOSURE_CEILING, line


@pytest.mark.parametrize("attempt", ANSWERS)
def test_client_may_do_what_it_needs_and_no_more(answers: dict[str, str], attempt: str) -> None:
    assert answers[attempt] in ANSWERS[attempt]


def test_every_attempt_is_judged(answers: dict[str, str]) -> None:
    assert set(answers) == set(ANSWERS)


def test_controllers_want_a_certificate(node: Host) -> None:
    client = (
        f"(sleep 1) | openssl s_client -connect {address('kafka')}:9093 -CAfile /etc/timestamp-service/ca.crt"
    )
    refused = node.run(f"{client} 2>&1")
    assert "certificate required" in refused.stdout
    key = "/etc/kafka/server.pem"
    taken = node.run(f"{client} -cert {key} -key {key} 2>&1")
    assert "Verify return code: 0 (ok)" in taken.stdout
    assert "certificate required" not in taken.stdout


def test_controllers_take_the_certificates_of_brokers_alone(node: Host, tmp_path: Path) -> None:
    subject = node.check_output("openssl x509 -in /etc/kafka/server.pem -noout -subject -nameopt RFC2253")
    name = node.check_output("hostname --fqdn")
    assert subject == f"subject=CN={name},OU=broker"
    # Another certificate of the same CA, which names the broker's host and no unit.
    authority = service().certificate_authority
    for command in (
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        f" -subj /CN={name} -keyout one.key -out one.csr",
        f"x509 -req -in one.csr -out one.crt -CA {authority} -CAkey {authority.with_suffix('.key')}"
        " -CAserial serial -CAcreateserial",
    ):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    other = node.check_output("mktemp")
    node.check_output(
        "echo %s > %s", "".join((tmp_path / f"one.{end}").read_text() for end in ("key", "crt")), other
    )
    # Kafka looks at the name when the first request comes (ApiVersions, which everybody may send).
    request = r"(printf '\0\0\0\012\0\022\0\0\0\0\0\001\377\377'; sleep 2)"
    reach = f"timeout 4 openssl s_client -quiet -connect {address('kafka')}:9093"
    reach += " -CAfile /etc/timestamp-service/ca.crt"
    answers = {
        file: int(node.run(f"{request} | {reach} -cert {file} -key {file} 2>/dev/null | wc -c").stdout)
        for file in ("/etc/kafka/server.pem", other)
    }
    node.check_output("rm %s", other)
    assert answers["/etc/kafka/server.pem"] > 0
    assert answers[other] == 0


@pytest.mark.parametrize("version", ["tls1_1", "tls1_2"])
def test_only_tls_1_3_is_spoken(node: Host, version: str) -> None:
    command = (
        f"echo | openssl s_client -connect {address('kafka')}:9092 -{version} -cipher 'DEFAULT:@SECLEVEL=0'"
    )
    assert node.run(command).rc != 0


@pytest.mark.parametrize(
    ("path", "mode"), [("/etc/kafka/secrets.properties", 0o640), ("/etc/kafka/server.pem", 0o640)]
)
def test_secrets_are_for_root_and_kafka(node: Host, path: str, mode: int) -> None:
    file = node.file(path)
    assert (file.user, file.group, file.mode) == ("root", "kafka", mode)


def test_log_is_for_kafka_alone(node: Host) -> None:
    assert (node.file("/var/lib/kafka").user, node.file("/var/lib/kafka").mode) == ("kafka", 0o750)
