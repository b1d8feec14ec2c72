"""`make diagnose` reports what is broken and how to fix it: real nodes are broken in one way after the other.

Each is repaired again, and the nodes must be healthy before the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from disturbed import ask, failures, run, until

from cli.checks import Check
from cli.inventory import Service

HEALTHY_SECONDS = 60.0
DROP_INPUT = (
    "nft 'add table inet breakage;"
    " add chain inet breakage input { type filter hook input priority -10; };"
    " add rule inet breakage input %s drop'"
)
# Every command of a breakage may use it.
PSQL = 'psql_() { runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 "$@"; };'

QUERY_ROLE_BROKEN = """umask 077
psql_ -c "SELECT rolpassword FROM pg_authid WHERE rolname = 'timestamp_query'" > /run/kept.password
psql_ -c "ALTER ROLE timestamp_query PASSWORD 'another'"
psql_ -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'timestamp_query'"
sleep 2"""


@dataclass(frozen=True)
class Breakage:
    """How to break a node, how to undo it, and the check that must fail: parts of its result and its fix."""

    name: str
    group: str
    do: str
    undo: str
    check: str
    result: str
    fix: str
    slow: bool = False


BREAKAGES = (
    Breakage(
        "kafka-stopped",
        "kafka",
        "systemctl stop kafka",
        "systemctl start kafka",
        "kafka.service",
        "inactive",
        "systemctl start kafka.service",
        slow=True,
    ),
    Breakage(
        "postgresql-stopped",
        "postgresql",
        # Both: the first alone does not wait until the second has stopped.
        "systemctl stop postgresql 'postgresql@*'",
        "systemctl start postgresql",
        "postgresql@",
        "inactive",
        "systemctl start postgresql@",
    ),
    Breakage(
        "nginx-masked",
        "web",
        "systemctl mask --now nginx",
        "systemctl unmask nginx && systemctl start nginx",
        "nginx.service",
        "is masked",
        "systemctl unmask --now nginx.service",
    ),
    Breakage(
        "setting-wrong",
        "web",
        "cd /etc/timestamp-service && cp -p timestamp-command.env /run/kept.env"
        " && echo SERVER_PORT=none >> timestamp-command.env; systemctl restart timestamp-command; sleep 2",
        "cp -p /run/kept.env /etc/timestamp-service/timestamp-command.env"
        " && systemctl restart timestamp-command",
        "timestamp-command.service",
        "SERVER_PORT",
        "make logs NODE=web UNIT=timestamp-command.service",
        slow=True,
    ),
    Breakage(
        "process-hangs",
        "web",
        "systemctl kill --signal=STOP timestamp-consumer",
        "systemctl kill --signal=CONT timestamp-consumer; systemctl restart timestamp-consumer",
        "timestamp-consumer.service is ready",
        "timed out",
        "the process hangs",
        slow=True,
    ),
    Breakage(
        "packets-dropped",
        "kafka",
        DROP_INPUT % "tcp dport 9092",
        "nft delete table inet breakage",
        "reaches kafka",
        "timed out",
        "packets are lost",
        slow=True,
    ),
    Breakage(
        "firewall-gone",
        "web",
        "nft delete table inet timestamp_service",
        "systemctl restart timestamp-firewall",
        "firewall",
        "not loaded",
        "systemctl restart timestamp-firewall",
    ),
    Breakage(
        "certificate-ends",
        "web",
        "cd /etc/nginx && cp -p timestamp-service.crt /run/kept.crt"
        " && openssl req -x509 -new -subj /CN=soon -days 5"
        " -key timestamp-service.key -out timestamp-service.crt",
        "cp -p /run/kept.crt /etc/nginx/timestamp-service.crt",
        "certificate /etc/nginx/timestamp-service.crt",
        "valid for 5 more days",
        "ansible-playbook site.yml",
    ),
    Breakage(
        "key-of-another",
        "postgresql",
        "cd /etc/postgresql/*/main && cp -p server.key /run/kept.key"
        " && openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 > server.key",
        "cp -p /run/kept.key /etc/postgresql/*/main/server.key",
        "certificate /etc/postgresql/",
        "its key is missing or belongs to another certificate",
        "ansible-playbook site.yml",
    ),
    Breakage(
        "volume-full",
        "kafka",
        "systemctl stop kafka && mount -t tmpfs -o size=16m none /var/lib/kafka"
        " && head -c 15M /dev/zero > /var/lib/kafka/full",
        "umount /var/lib/kafka && systemctl start kafka",
        "volume of /var/lib/kafka",
        "0.0 GiB free of 0.0",
        "add disk under /var/lib/kafka",
        slow=True,
    ),
    Breakage(
        "table-missing",
        "postgresql",
        "psql_ timestamps -c 'ALTER TABLE timestamp_records RENAME TO kept'",
        # With what was written meanwhile: the query API does without a database that lacks a row.
        "psql_ timestamps -c 'DO $$ BEGIN IF to_regclass($name$timestamp_records$name$) IS NOT NULL THEN"
        " INSERT INTO kept SELECT * FROM timestamp_records; DROP TABLE timestamp_records; END IF; END $$'"
        " -c 'ALTER TABLE kept RENAME TO timestamp_records'",
        "table timestamp_records",
        "missing",
        "restart timestamp-consumer",
    ),
    Breakage(
        "password-changed",
        "postgresql",
        QUERY_ROLE_BROKEN,
        "psql_ -c \"ALTER ROLE timestamp_query PASSWORD '$(cat /run/kept.password)'\"; rm /run/kept.password",
        "timestamp-query.service is ready",
        "",
        "it cannot use PostgreSQL",
    ),
    Breakage(
        "node-unreachable",
        "postgresql",
        # It undoes itself, as nobody can reach the node meanwhile.
        "systemd-run --quiet --on-active=12s nft delete table inet breakage && "
        + DROP_INPUT % "ct state new tcp dport 22",
        "true",
        "answers by ssh",
        "timed out",
        "",
        slow=True,
    ),
)


@contextmanager
def broken(service: Service, breakage: Breakage) -> Iterator[None]:
    node = next(node for node in service.nodes if breakage.group in node.groups)
    try:
        run(node, PSQL + breakage.do)
        yield
    finally:
        assert until(lambda: ask(node, "true").returncode == 0, 30), f"{node.name} no longer answers"
        run(node, PSQL + breakage.undo)


@pytest.fixture(autouse=True)
def healthy_before_and_after(service: Service) -> Iterator[None]:
    yield
    left: list[Check] = []

    def is_healthy() -> bool:
        left[:] = failures(service)
        return not left

    if not until(is_healthy, HEALTHY_SECONDS):
        # Every test after this one would fail for the same reason.
        pytest.exit(f"The nodes are not healthy again after {HEALTHY_SECONDS:g} s: {left}", 1)


def test_all_is_healthy_at_first(service: Service) -> None:
    # Tests before this one may just have started units again.
    assert until(lambda: not failures(service), HEALTHY_SECONDS), failures(service)


@pytest.mark.parametrize(
    "breakage",
    [pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.slow else []) for one in BREAKAGES],
)
def test_breakage_is_reported_with_its_fix(service: Service, breakage: Breakage) -> None:
    with broken(service, breakage):
        seen = failures(service)
    failed = [check for check in seen if check.what.startswith(breakage.check)]
    assert failed, seen
    assert breakage.result in failed[0].result, failed
    assert breakage.fix in failed[0].fix, failed


def test_missing_ca_is_reported(service: Service) -> None:
    kept = service.certificate_authority.with_suffix(".kept")
    service.certificate_authority.rename(kept)
    try:
        seen = failures(service)
    finally:
        kept.rename(service.certificate_authority)
    assert [check.what for check in seen] == ["CA certificate", "end to end"]
    assert "backup" in seen[0].fix
