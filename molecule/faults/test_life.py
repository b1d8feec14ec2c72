"""Planned work of the years: updates, passwords, another CA, another disk, reboots. The ledgers judge."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from disturbed import ask, break_play_off, run
from faults import BEHIND, GONE, PROXY, UNAVAILABLE
from nodes import QUERY, Nodes, main_process, output
from planned import recorded
from report import Seen

from cli.inventory import PROJECT, Host

STEP_SECONDS = 600.0
# What the ledger calls a kept connection that nginx ends just as a request is sent on it.
KEPT_MOST = 3
UPDATED = {
    "web": r"nginx|nginx-common|openssl|libssl3.*|openssl-provider-legacy|libzstd1|libpq5",
    "db": r"openjdk-.*|postgresql-.*|openssl|libssl3.*|openssl-provider-legacy|libxml2|libpq5",
}
# The older ones of the versions that Debian has of installed packages, as PACKAGE=VERSION.
OLDER = (
    "apt-get update -qq && dpkg-query --show --showformat '${Package}\\n'"
    " | grep --extended-regexp --line-regexp '%s' | xargs apt-cache madison"
    ' | awk \'$NF == "Packages" { if (!($1 in newest)) newest[$1] = $3; oldest[$1] = $3 }'
    ' END { for (name in oldest) if (oldest[name] != newest[name]) print name "=" oldest[name] }\''
)
MOVE = "playbooks/move_database.yml"
WITHOUT_A_RESTART = ("kafka_command", "kafka_consumer", "database_query", "database_consumer", "kafka_admin")


@pytest.fixture(scope="module")
def seen() -> list[Seen]:
    """Give the lines of the report so far."""
    return []


def outdate(node: Host, packages: str) -> list[str]:
    """Install older versions of packages on a node; return those for which Debian has one."""
    older = output(node, OLDER % packages).split()
    if not older:
        pytest.skip(f"Debian has no older version of {packages}")
    run(
        node, f"DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --allow-downgrades {' '.join(older)}"
    )
    return older


def replaced(node: Host) -> str:
    """Return the units of a node that run what an update has replaced."""
    return output(node, "/usr/local/lib/timestamp-service/unit_state replaced")


def check_updated(node: Host, older: list[str], said: str) -> None:
    """Check that older packages are gone, that nothing runs them, and that the play has named each."""
    for package in older:
        name, _, version = package.partition("=")
        assert output(node, f"dpkg-query --show --showformat '${{Version}}' {name}") != version
        assert f"{name} {version} -> " in said
    assert replaced(node) == ""
    # The packages may restart their services themselves again.
    assert ask(node, "test -e /usr/sbin/policy-rc.d").returncode != 0


def test_updates_of_a_web_node(nodes: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    older = outdate(nodes.web, UPDATED["web"])
    assert QUERY in replaced(nodes.web)
    with recorded(nodes, "updates of the web node", tmp_path, seen) as work:
        said = nodes.play("playbooks/upgrade.yml")
    check_updated(nodes.web, older, said)
    work.check(post=GONE, get=GONE)
    assert sum({**work.errors("post"), **work.errors("get")}.values()) <= KEPT_MOST


def test_updates_of_a_database_node(nodes: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    older = outdate(nodes.db, UPDATED["db"])
    with recorded(nodes, "updates of the db node", tmp_path, seen) as work:
        said = nodes.play("playbooks/upgrade.yml")
    check_updated(nodes.db, older, said)
    work.check(post=UNAVAILABLE, get=UNAVAILABLE | BEHIND)


def test_a_dry_run_names_the_updates_and_installs_none(nodes: Nodes) -> None:
    older = outdate(nodes.web, "openssl|libzstd1")
    said = nodes.play("playbooks/upgrade.yml", "--check")
    for package in older:
        name, _, version = package.partition("=")
        assert f"{name} {version} -> " in said
        assert output(nodes.web, f"dpkg-query --show --showformat '${{Version}}' {name}") == version
    nodes.play("playbooks/upgrade.yml")


@pytest.fixture
def older_kafka(nodes: Nodes, tmp_path: Path) -> Iterator[str]:
    """Set the brokers up with the version of Kafka before ours, which writes as that does; gives its version.

    The log is lost with it, and so are the database's records: it is the only way back.
    """
    source = tmp_path / "kafka"
    shutil.copytree(PROJECT / "roles/kafka_distribution/files", source)
    # Pinned for this test alone.
    shutil.copy(Path(__file__).with_name("older_kafka") / "jars.sha256", source)
    pom = source / "pom.xml"
    version = re.search(r"<kafka.version>(.*)</kafka.version>", pom.read_text())
    older = re.search(r"kafka_2.13-(.*)\.jar", (source / "jars.sha256").read_text())
    assert version is not None
    assert older is not None
    pom.write_text(pom.read_text().replace(version[1], older[1]))
    book = tmp_path / "build.yml"
    task = {
        "name": f"kafka_2.13-{older[1]}",
        "source": str(source),
        "destination": str(tmp_path / "built"),
        "maven": "mvn",
    }
    tasks = [
        {"kafka_distribution": task, "register": "built"},
        {"ansible.builtin.debug": {"msg": "sha256:{{ built.checksum }}"}},
    ]
    play = {"hosts": "localhost", "gather_facts": False, "roles": [], "tasks": tasks}
    roles = [{"role": "kafka_distribution", "tags": "never"}]
    book.write_text(yaml.safe_dump([{**play, "roles": roles}]))
    checksum = re.search(r"sha256:[0-9a-f]{64}", nodes.play(str(book)))
    assert checksum is not None
    given = (
        f"--extra-vars=kafka_archive={tmp_path}/built/{task['name']}.tgz",
        f"--extra-vars=kafka_archive_checksum={checksum[0]}",
    )
    run(nodes.db, "systemctl stop kafka.service; find /var/lib/kafka -mindepth 1 -delete")
    run(nodes.db, "rm /etc/kafka/cluster.properties")
    (nodes.service.secrets_folder / "kafka_cluster.yml").unlink()
    run(nodes.db, "systemctl disable kafka.service")
    emptied = "TRUNCATE timestamp_records, timestamp_counts"
    run(nodes.db, f"runuser -u postgres -- psql -XAqc '{emptied}' timestamps")
    nodes.play("site.yml", *given)
    # Its producers go on with numbers of the log that is gone, which another one gets from the new one.
    run(nodes.web, "systemctl restart timestamp-command.service")
    yield older[1]
    nodes.play("site.yml")


def test_a_new_version_of_kafka(nodes: Nodes, older_kafka: str, tmp_path: Path, seen: list[Seen]) -> None:
    with recorded(nodes, f"Kafka {older_kafka} to the version that is pinned", tmp_path, seen) as work:
        said = nodes.play("playbooks/upgrade.yml")
    work.check(post=UNAVAILABLE, get=BEHIND)
    release = output(nodes.db, "readlink /opt/kafka/current")
    assert older_kafka not in release
    assert f"Kafka still writes as version {older_kafka[:3]}" in said
    with recorded(nodes, "its feature levels", tmp_path / "levels", seen) as work:
        nodes.play("playbooks/upgrade.yml", "--extra-vars=kafka_feature_upgrade=true")
    work.check()
    assert "Kafka still writes" not in nodes.play("playbooks/upgrade.yml")


@pytest.mark.parametrize("secret", WITHOUT_A_RESTART)
def test_password(nodes: Nodes, tmp_path: Path, seen: list[Seen], secret: str) -> None:
    file = nodes.service.secrets_folder / f"{secret}_password"
    before = file.read_text()
    with recorded(nodes, f"password {secret}", tmp_path, seen) as work:
        nodes.play("playbooks/rotate.yml", f"--extra-vars=secret={secret}")
    work.check()
    assert file.read_text() != before
    assert not file.with_name(f"{file.name}.next").exists()


def test_password_of_the_brokers(nodes: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    with recorded(nodes, "password kafka_broker", tmp_path, seen) as work:
        nodes.play("playbooks/rotate.yml", "--extra-vars=secret=kafka_broker")
    work.check(post=UNAVAILABLE, get=BEHIND)


def test_a_change_of_a_password_that_is_broken_off_is_completed(
    nodes: Nodes, tmp_path: Path, seen: list[Seen]
) -> None:
    def user() -> str:
        environment = f"/proc/{main_process(nodes.web, QUERY)}/environ"
        return output(nodes.web, f"tr '\\0' '\\n' < {environment} | sed -n 's/^DB_USERNAME=//p'")

    arguments = ("playbooks/rotate.yml", "--extra-vars=secret=database_query")
    with recorded(nodes, "password database_query, broken off", tmp_path, seen) as work:
        break_play_off(nodes.inventory, lambda: user().endswith("_next"), STEP_SECONDS, *arguments)
        nodes.play(*arguments)
        assert user() == "timestamp_query"
    work.check()
    roles = "SELECT count(*) FROM pg_roles WHERE rolname LIKE '%_next'"
    assert output(nodes.db, f'runuser -u postgres -- psql -XAtc "{roles}"') == "0"


def test_another_authority(nodes: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    folder = nodes.service.secrets_folder / "certificates"
    before = (folder / "ca.crt").read_text()
    with recorded(nodes, "another CA: trust it", tmp_path / "trust", seen) as work:
        nodes.play("playbooks/renew_authority.yml")
    work.check(post=UNAVAILABLE, get=BEHIND)
    # What a client trusts that was given the next one in time.
    both = tmp_path / "both.crt"
    both.write_text(before + (folder / "next/ca.crt").read_text())
    informed = Nodes(replace(nodes.service, certificate_authority=both), nodes.inventory)
    with recorded(informed, "another CA: issue, and drop the old one", tmp_path / "rest", seen) as work:
        nodes.play("playbooks/renew_authority.yml", "--extra-vars=authority_all=true")
    work.check(post=UNAVAILABLE | GONE, get=BEHIND | GONE)
    after = (folder / "ca.crt").read_text()
    assert after != before
    for node in nodes.service.nodes:
        assert output(node, "cat /etc/timestamp-service/ca.crt") == after.strip()
    assert not (folder / "next").exists()
    assert not (folder / "old").exists()


@pytest.fixture
def other_folder(nodes: Nodes) -> Iterator[str]:
    """Give a folder of the database's node that is not the usual one; the database is back afterwards."""
    folder = "/srv/postgresql"
    run(nodes.db, f"mkdir -p {folder}")
    yield folder
    for asked in ("", "drop"):
        nodes.play(MOVE, f"--extra-vars=database_move={asked}")
    run(nodes.db, f"rm -r {folder}")


def databases(nodes: Nodes) -> Any:
    """Return what the inventory remembers of the database."""
    return yaml.safe_load((nodes.service.secrets_folder / "databases.yml").read_text())[nodes.db.name]


def step(nodes: Nodes) -> str:
    """Return how far a move of the database is; empty when there is none."""
    return str(databases(nodes).get("next", {}).get("step", ""))


def clusters(nodes: Nodes) -> str:
    """Return version, name, port and state of each cluster of PostgreSQL."""
    return output(nodes.db, "pg_lsclusters --no-header | awk '{print $1, $2, $3, $4}'")


def refused(nodes: Nodes, *arguments: str) -> str:
    """Return what a move says that may not begin."""
    done = nodes.try_play(MOVE, *arguments)
    assert done.returncode != 0
    return done.stdout


def test_the_database_to_another_disk(
    nodes: Nodes, other_folder: str, tmp_path: Path, seen: list[Seen]
) -> None:
    version = databases(nodes)["version"]
    arguments = (MOVE, f"--extra-vars=postgresql_folder={other_folder}")
    assert "has no folder" in refused(nodes, "--extra-vars=postgresql_folder=/srv/nothing")

    # Given up, after the readers were told to change.
    break_play_off(nodes.inventory, lambda: step(nodes) == "read", STEP_SECONDS * 2, *arguments)
    rotation = nodes.try_play("playbooks/rotate.yml", "--extra-vars=secret=database_query")
    assert rotation.returncode != 0
    assert "The database is being moved" in rotation.stdout
    nodes.play(MOVE, "--extra-vars=database_move=cancel")
    assert clusters(nodes) == f"{version} main 5432 online"
    assert output(nodes.db, f"ls -A {other_folder}/{version}") == ""

    with recorded(nodes, "the database to another disk, broken off", tmp_path, seen) as work:
        break_play_off(nodes.inventory, lambda: step(nodes) == "fill", STEP_SECONDS, *arguments)
        nodes.play(*arguments)
    work.check()
    assert clusters(nodes) == f"{version} main 5432 down\n{version} other 5433 online"
    units = output(nodes.web, "systemctl list-unit-files --no-legend 'timestamp-consumer*.service'")
    assert [line.split()[0] for line in units.splitlines()] == ["timestamp-consumer.service"]

    assert "still keeps the cluster of the last move" in refused(nodes)
    nodes.play(MOVE, "--extra-vars=database_move=drop")
    assert clusters(nodes) == f"{version} other 5433 online"
    kept = {"identifier", "version", "name", "port", "folder", "consumer", "consumer_port"}
    assert databases(nodes).keys() == kept


def test_reboots(nodes: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    with recorded(nodes, "reboot of both nodes", tmp_path, seen) as work:
        nodes.play("playbooks/reboot.yml", "--extra-vars=reboot_always=true")
    work.check(post=UNAVAILABLE | GONE | PROXY, get=UNAVAILABLE | BEHIND | GONE | PROXY)


def test_a_node_that_waits_for_nothing_is_not_rebooted(nodes: Nodes) -> None:
    boots = "cat /proc/sys/kernel/random/boot_id; systemctl show --property=UserspaceTimestampMonotonic"
    before = [output(node, boots) for node in nodes.service.nodes]
    nodes.play("playbooks/reboot.yml")
    assert [output(node, boots) for node in nodes.service.nodes] == before
