"""Whom a certificate names, and when it is replaced: the role runs for a host that is this computer."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

import playbooks

PROJECT = Path(__file__).resolve().parents[1]
OTHER = "web2.example.internal"
HOST = "db.example.internal"
GROUPS = {"kafka": ["kafka"], "postgresql": ["postgresql"], "web": ["nginx", "peer"]}
SERVICES = [service for services in GROUPS.values() for service in services]
BROKER = f"CN={HOST},OU=broker"
PEER = f"CN={HOST},OU=web-node"


def run(
    folder: Path, services: list[str] = SERVICES, others: bool = True, kafka: str = "kafka"
) -> dict[str, str]:
    """Run the role for a host of all groups; returns the subject of each service's certificate.

    `others`: whether there is another web node; `kafka`: the group by which the host runs Kafka.
    """
    play = {"hosts": HOST, "gather_facts": False, "roles": ["certificates"]}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    hosts = {HOST: {"node_address": "192.0.2.1", "ansible_connection": "local"}}
    groups = {group: {"hosts": hosts} for group in GROUPS}
    groups[kafka] = groups.pop("kafka")
    groups["web"] = {"hosts": {**hosts, **({OTHER: {}} if others else {})}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    settings = {"certificates_folder": str(folder), "contract_ca_file": str(folder / "node/ca.crt")}
    done = playbooks.run(
        "--inventory=hosts.yml",
        *playbooks.LOCAL,
        *(f"--extra-vars={name}={value}" for name, value in settings.items()),
        "play.yml",
        folder=folder,
        ANSIBLE_ROLES_PATH=str(PROJECT / "roles"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {service: certificate(folder, service).subject.rfc4514_string() for service in services}


def certificate(folder: Path, service: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{HOST}-{service}.crt").read_bytes())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("certificates")
    return folder, run(folder)


def test_brokers_and_web_nodes_alone_have_their_units(made: tuple[Path, dict[str, str]]) -> None:
    assert made[1] == {"kafka": BROKER, "postgresql": f"CN={HOST}", "nginx": f"CN={HOST}", "peer": PEER}


def test_separate_controller_is_certified_as_a_broker_is(tmp_path: Path) -> None:
    assert run(tmp_path, ["kafka"], kafka="kafka_controllers") == {"kafka": BROKER}


def test_only_brokers_and_peers_are_clients_and_peers_share_a_name(made: tuple[Path, dict[str, str]]) -> None:
    clients, shared = set(), set()
    for service in SERVICES:
        extensions = certificate(made[0], service).extensions
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        clients |= {service} if ExtendedKeyUsageOID.CLIENT_AUTH in usage else set()
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shared |= {service} if "web-node.internal" in names.get_values_for_type(x509.DNSName) else set()
    assert clients == {"kafka", "peer"}
    assert shared == {"peer"}


def test_single_web_node_has_no_certificate_for_others(tmp_path: Path) -> None:
    run(tmp_path, ["kafka", "postgresql", "nginx"], others=False)
    assert not list(tmp_path.glob("*-peer.*"))


def test_certificate_that_names_somebody_else_is_replaced_and_no_other(
    made: tuple[Path, dict[str, str]],
) -> None:
    folder, subjects = made
    serials = {service: certificate(folder, service).serial_number for service in SERVICES}
    # The database's certificate becomes that of a broker, and the broker's loses the unit.
    for ending in ("crt", "key"):
        kafka, database = (folder / f"{HOST}-{service}.{ending}" for service in ("kafka", "postgresql"))
        contents = kafka.read_bytes(), database.read_bytes()
        database.write_bytes(contents[0])
        kafka.write_bytes(contents[1])
    assert run(folder) == subjects
    again = {service: certificate(folder, service).serial_number for service in SERVICES}
    unchanged = {service for service in SERVICES if again[service] == serials[service]}
    assert unchanged == {"nginx", "peer"}
    assert set(again.values()) & set(serials.values()) == {serials[service] for service in unchanged}
