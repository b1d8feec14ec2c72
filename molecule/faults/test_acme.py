"""nginx's certificate by ACME, from a real ACME server: Pebble, of Let's Encrypt, as Debian packages it.

It runs on the web node, with a DNS server for tests that knows every name. The ledger judges.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ledgers
import pytest
from cryptography import x509
from disturbed import ask, failures, run, until
from nodes import NGINX, Nodes, check_hardened, journal, main_process, output
from test_deploy import check_unchanged

RATE = 200.0
AROUND_SECONDS = 3.0
# What the ledger calls a kept connection that nginx ends, while it reloads, just as a request is sent on it.
KEPT_SHARE = 0.001
FOLDER = "/opt/pebble-trial"
DIRECTORY = "https://localhost:14000/dir"
MANAGEMENT = "https://localhost:15000"
DNS_MANAGEMENT = "http://localhost:8055"
BLOCKED = "blocked.example.org"
UNIT = "nginx-acme.service"
SITE = ("site.yml", "--tags=nginx")
# The part of it that these tests are about.
PART = ("molecule/faults/nginx.yml",)
SETTINGS = {
    "listenAddress": "127.0.0.1:14000",
    "managementListenAddress": "127.0.0.1:15000",
    "certificate": f"{FOLDER}/pebble.crt",
    "privateKey": f"{FOLDER}/pebble.key",
    "httpPort": 80,
    "tlsPort": 443,
    # Of names with fewer labels than this one, Pebble 2.4 dies.
    "domainBlocklist": [BLOCKED],
    # Ten days.
    "certificateValidityPeriod": 864_000,
}
# Each validation is done at once, and done again for each certificate.
START = (
    "systemd-run --quiet --collect --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_AUTHZREUSE=0"
    " --setenv=PEBBLE_WFE_NONCEREJECT=0 --unit"
)
INSTALL = f"""set -e; mkdir {FOLDER}; cd {FOLDER}
apt-get update -qq
apt-get download -qq pebble
dpkg-deb --extract pebble_*.deb .
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=pebble -days 2 \
    -addext subjectAltName=DNS:localhost -keyout pebble.key -out pebble.crt
"""
REFUSE = (
    "nft 'add table inet breakage;"
    " add chain inet breakage output { type filter hook output priority -10; };"
    " add rule inet breakage output tcp dport 14000 reject with tcp reset'"
)
HOOK = f"""#!/bin/sh -eu
case $1 in
    auth) what=set-txt ;;
    cleanup) what=clear-txt ;;
esac
format='{{"host": "_acme-challenge.%s.", "value": "%s"}}'
record=$(printf "$format" "$CERTBOT_DOMAIN" "$CERTBOT_VALIDATION")
curl --fail --silent --data "$record" {DNS_MANAGEMENT}/$what
"""


@dataclass(frozen=True)
class Acme:
    """An ACME server that issues for the web node: the settings to use it, and how clients reach nginx."""

    nodes: Nodes
    settings: dict[str, Any]
    # By the name of the web node, and with both authorities: the ACME server's and the private one.
    informed: Nodes

    def play(self, *book: str, **settings: object) -> str:
        """Let nginx get its certificate there; returns what the play said."""
        return self.nodes.play(*self.arguments(*book, **settings))

    def arguments(self, *book: str, **settings: object) -> tuple[str, ...]:
        """Return the arguments of a play that does so: of PART, if no other is named."""
        return (*(book or PART), f"--extra-vars={json.dumps({**self.settings, **settings})}")

    def served(self) -> x509.Certificate:
        """Return the certificate that nginx serves."""
        return x509.load_pem_x509_certificate(
            ssl.get_server_certificate((self.nodes.web.address, 443), timeout=10).encode()
        )

    def check_served(self, *names: str) -> x509.Certificate:
        """Check that nginx serves a certificate of the ACME server for these names; returns it."""
        # A worker from before the reload may take one more connection.
        assert until(lambda: is_of_pebble(self.served()), 10)
        certificate = self.served()
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert sorted(held.get_values_for_type(x509.DNSName)) == sorted(names)
        return certificate


def is_of_pebble(certificate: x509.Certificate) -> bool:
    """Tell whether the ACME server has issued a certificate."""
    return "Pebble" in certificate.issuer.rfc4514_string()


@contextmanager
def pebble(nodes: Nodes) -> Iterator[None]:
    """Have the ACME server and its DNS server run on the web node."""
    installed = ask(nodes.web, INSTALL)
    try:
        if installed.returncode:
            pytest.skip(f"Debian's package pebble cannot be had: {installed.stderr[-500:]}")
        dns = (
            "pebble-challtestsrv -http01 '' -https01 '' -tlsalpn01 '' -dns01 127.0.0.1:8053"
            f" -management 127.0.0.1:8055 -defaultIPv6 '' -defaultIPv4 {nodes.web.address}"
        )
        run(nodes.web, f"{START}=pebble-dns {FOLDER}/usr/bin/{dns}")
        run(nodes.web, f"echo '{json.dumps({'pebble': SETTINGS})}' > {FOLDER}/pebble.json")
        server = f"pebble -config {FOLDER}/pebble.json -dnsserver 127.0.0.1:8053"
        run(nodes.web, f"{START}=pebble {FOLDER}/usr/bin/{server}")
        assert until(lambda: ask(nodes.web, f"curl --insecure --silent {DIRECTORY}").returncode == 0, 20)
        yield
    finally:
        ask(nodes.web, f"systemctl stop pebble pebble-dns; rm -r {FOLDER}; nft delete table inet breakage")


@pytest.fixture(scope="module")
def acme(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Acme]:
    """Give an ACME server; afterwards, all is as it was before."""
    folder = tmp_path_factory.mktemp("acme")
    with pebble(nodes):
        (folder / "pebble.crt").write_text(output(nodes.web, f"cat {FOLDER}/pebble.crt"))
        root = output(nodes.web, f"curl --insecure --silent {MANAGEMENT}/roots/0")
        both = folder / "both.crt"
        both.write_text(f"{nodes.service.certificate_authority.read_text()}\n{root}\n")
        url = f"https://{nodes.web.name}"
        informed = Nodes(replace(nodes.service, url=url, certificate_authority=both), nodes.inventory)
        settings = {
            "nginx_acme_directory": DIRECTORY,
            "nginx_acme_ca": str(folder / "pebble.crt"),
            "service_url": url,
            "service_ca": str(both),
        }
        try:
            yield Acme(nodes, settings, informed)
        finally:
            nodes.play(*PART)
            ask(nodes.web, "rm -r /var/lib/private/nginx-acme /var/lib/nginx-acme")


@contextmanager
def recorded(acme: Acme, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record and read all the while; no request fails but on a connection that nginx has just ended."""
    if os.geteuid():
        pytest.skip("only root can let the ledger know the name of the web node")
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{acme.nodes.web.address} {acme.nodes.web.name}\n")
    known = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    monkeypatch.setattr(ledgers, "COMMAND", [*known, *ledgers.COMMAND])
    with ledgers.recording(acme.informed.service, folder, RATE, AROUND_SECONDS) as pair:
        yield
    summaries = pair.summaries
    errors = [summary[method]["errors"] for summary in summaries for method in ("post", "get")]
    assert {kind for one in errors for kind in one} <= {"closed"}, errors
    acknowledged = sum(summary["acknowledged"] for summary in summaries)
    assert sum(sum(one.values()) for one in errors) <= KEPT_SHARE * acknowledged, errors
    assert acknowledged > RATE * AROUND_SECONDS
    assert all(summary["get"]["succeeded"] for summary in summaries)
    pair.check()


def test_no_request_fails_while_certificates_are_exchanged(
    acme: Acme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, name = acme.nodes, acme.nodes.web.name
    acme.play(*SITE, "--check")
    assert not is_of_pebble(acme.served())
    process = main_process(nodes.web, NGINX)
    with recorded(acme, tmp_path, monkeypatch):
        acme.play(*SITE)
        first = acme.check_served(name)
        check_unchanged(acme.play(*SITE))
        # What the timer does.
        run(nodes.web, f"systemctl start {UNIT}")
        assert acme.served() == first
        run(nodes.web, f"touch /run/nginx-acme-renew; systemctl start {UNIT}")
        assert until(lambda: acme.served() != first, 10)
        second = acme.check_served(name)
        assert second.public_key() != first.public_key()
        check_unchanged(acme.play(*SITE))
        assert acme.served() == second
        nodes.play(*SITE)
        assert until(lambda: not is_of_pebble(acme.served()), 10)
    # It was only reloaded.
    assert main_process(nodes.web, NGINX) == process
    # It fails where no unit is there.
    assert ask(nodes.web, "systemctl list-unit-files --no-legend 'nginx-acme*'").stdout == ""
    assert ask(nodes.web, "ls /etc/nginx/acme*").returncode != 0
    assert failures(nodes.service) == []
    check_unchanged(nodes.play(*SITE))


def test_only_root_has_the_keys_and_certbot_has_no_rights(acme: Acme) -> None:
    web = acme.nodes.web
    acme.play()
    check_hardened(web, UNIT)
    for path, mode in (
        ("/var/lib/private", "700 root"),
        ("/etc/nginx/timestamp-service.key", "600 root"),
        ("/etc/nginx/timestamp-service.crt", "644 root"),
    ):
        assert output(web, f"stat --format='%a %U' {path}") == mode
    keys = "find /var/lib/private/nginx-acme -type f -name '*key*'"
    assert len(output(web, keys).splitlines()) >= 2
    assert output(web, f"{keys} -perm /077") == ""
    timer = output(web, "systemctl show --property=ActiveState,UnitFileState nginx-acme.timer")
    assert sorted(timer.split()) == ["ActiveState=active", "UnitFileState=enabled"]
    # Of port 80, no more than before.
    plain = "curl --silent --output /dev/null --write-out '%{http_code} %{redirect_url}' http://localhost"
    assert output(web, f"{plain}/app?x=1") == "308 https://localhost/app?x=1"
    assert output(web, f"{plain}/.well-known/acme-challenge/none").strip() == "404"


def test_server_that_is_away_takes_nothing_away(acme: Acme) -> None:
    nodes = acme.nodes
    acme.play()
    before = acme.check_served(nodes.web.name)
    begun = time.time()
    run(nodes.web, f"{REFUSE} && touch /run/nginx-acme-renew")
    try:
        failed = nodes.try_play(*acme.arguments())
        assert failed.returncode != 0
        said = " ".join(failed.stdout.split())
        assert (
            f"{DIRECTORY} has issued no certificate for {nodes.web.name}. nginx goes on with the one" in said
        )
        assert "Connection refused" in said
        assert acme.served() == before
        assert UNIT in output(nodes.web, "systemctl list-units --state=failed --plain --no-legend")
        (check,) = (one for one in failures(nodes.service) if one.what == UNIT)
        assert "systemctl start nginx-acme.service" in check.fix
    finally:
        run(nodes.web, "nft delete table inet breakage")
    assert any("asks for a new certificate" in line for line in journal(nodes.web, UNIT, begun))
    # The next time succeeds: that of the timer, or of a play.
    acme.play()
    assert until(lambda: acme.served() != before, 10)
    assert UNIT not in output(nodes.web, "systemctl list-units --state=failed --plain --no-legend")


def test_name_that_is_refused_takes_nothing_away(acme: Acme) -> None:
    acme.play()
    before = acme.check_served(acme.nodes.web.name)
    failed = acme.nodes.try_play(*acme.arguments(nginx_acme_names=[BLOCKED]))
    assert failed.returncode != 0
    assert f"has issued no certificate for {BLOCKED}. nginx goes on" in " ".join(failed.stdout.split())
    assert acme.served() == before
    acme.play()
    assert acme.served() == before


def test_hook_proves_names_by_the_dns(acme: Acme, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(HOOK)
    names = ["*.time.example.org", "time.example.org"]
    acme.play(nginx_acme_hook=str(hook), nginx_acme_names=names)
    acme.check_served(*names)
    web = acme.nodes.web
    assert output(web, "stat --format=%a /etc/nginx/acme-hook") == "700"
    assert ask(web, "grep acme-challenge /etc/nginx/nginx.conf").returncode != 0
    # The other way again.
    acme.play()
    acme.check_served(web.name)
    assert ask(web, "ls /etc/nginx/acme-hook").returncode != 0
