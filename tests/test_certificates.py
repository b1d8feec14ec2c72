"""Whom a certificate names, and when it is replaced: the role runs for a host that is this computer."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cryptography import x509

import playbooks

PROJECT = Path(__file__).resolve().parents[1]
HOST = "db.example.internal"
GROUPS = {"kafka": "kafka", "postgresql": "postgresql", "web": "nginx"}
BROKER = f"CN={HOST},OU=broker"


def run(folder: Path) -> dict[str, str]:
    """Run the role for a host of all groups; returns the subject of each service's certificate."""
    play = {"hosts": HOST, "gather_facts": False, "roles": ["certificates"]}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    hosts = {HOST: {"node_address": "192.0.2.1", "ansible_connection": "local"}}
    (folder / "hosts.yml").write_text(
        yaml.safe_dump({"all": {"children": {group: {"hosts": hosts} for group in GROUPS}}})
    )
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
    return {service: certificate(folder, service).subject.rfc4514_string() for service in GROUPS.values()}


def certificate(folder: Path, service: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{HOST}-{service}.crt").read_bytes())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("certificates")
    return folder, run(folder)


def test_brokers_alone_have_the_unit_of_brokers(made: tuple[Path, dict[str, str]]) -> None:
    assert made[1] == {"kafka": BROKER, "postgresql": f"CN={HOST}", "nginx": f"CN={HOST}"}


def test_certificate_that_names_somebody_else_is_replaced_and_no_other(
    made: tuple[Path, dict[str, str]],
) -> None:
    folder, subjects = made
    serials = {service: certificate(folder, service).serial_number for service in GROUPS.values()}
    # The database's certificate becomes that of a broker, and the broker's loses the unit.
    for ending in ("crt", "key"):
        kafka, database = (folder / f"{HOST}-{service}.{ending}" for service in ("kafka", "postgresql"))
        contents = kafka.read_bytes(), database.read_bytes()
        database.write_bytes(contents[0])
        kafka.write_bytes(contents[1])
    assert run(folder) == subjects
    again = {service: certificate(folder, service).serial_number for service in GROUPS.values()}
    assert again["nginx"] == serials["nginx"]
    assert set(again.values()) & set(serials.values()) == {serials["nginx"]}
