"""Certificates: of our CA, for the right names, with the right dates, their keys for few."""

from __future__ import annotations

import datetime

import pytest
from conftest import address, service
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from testinfra.host import Host

GROUP = "nodes"
FILES = {
    "kafka": "/etc/kafka/server.pem",
    "postgresql": "/etc/postgresql/*/main/server.crt",
    "web": "/etc/nginx/timestamp-service.crt",
}
MONTH = datetime.timedelta(days=30)


def read(node: Host, path: str) -> x509.Certificate:
    # Not quoted: the path may be a pattern.
    return x509.load_pem_x509_certificate(node.check_output(f"openssl x509 -in {path}").encode())


def certificates(node: Host) -> list[tuple[str, x509.Certificate]]:
    groups = next(one.groups for one in service().nodes if one.name == node.check_output("hostname --fqdn"))
    return [(group, read(node, path)) for group, path in FILES.items() if group in groups]


def test_certificates_last_more_than_a_month_and_at_most_398_days(node: Host) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for group, certificate in certificates(node):
        assert certificate.not_valid_before_utc <= now, group
        assert certificate.not_valid_after_utc > now + MONTH, group
        lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert lifetime <= datetime.timedelta(days=398), group


def test_certificates_are_of_our_authority_and_for_the_node(node: Host) -> None:
    authority = x509.load_pem_x509_certificate(service().certificate_authority.read_bytes())
    for group, certificate in certificates(node):
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert address(group) in [str(one) for one in names.get_values_for_type(x509.IPAddress)]
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_authority_stands_on_every_node_and_its_key_on_none(node: Host) -> None:
    assert node.file("/etc/timestamp-service/ca.crt").content == service().certificate_authority.read_bytes()
    assert node.run("ls /etc/timestamp-service/*.key").rc != 0


@pytest.mark.parametrize("name", ["ca.key"])
def test_key_of_the_authority_is_for_its_owner_alone(name: str) -> None:
    path = service().certificate_authority.with_name(name)
    assert path.stat().st_mode & 0o077 == 0
