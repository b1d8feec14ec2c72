"""A log or a database that was there once and is absent stops the play: absence is no new beginning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from disturbed import ask, failures, run, until
from nodes import KAFKA, Nodes, output

from cli.inventory import Host

WELL_SECONDS = 60.0
LOG = "/var/lib/kafka/log"
NODE_MEMORY = "/etc/kafka/cluster.properties"
ENABLED = "/etc/systemd/system/multi-user.target.wants/kafka.service"


@contextmanager
def moved(node: Host, unit: str, folder: str) -> Iterator[None]:
    """Take a folder of data away while its unit is stopped, as a volume that is not mounted does."""
    run(node, f"systemctl stop {unit} && mv {folder} {folder}.away")
    try:
        yield
    finally:
        run(node, f"rm -rf {folder} && mv {folder}.away {folder} && systemctl start {unit}")


@contextmanager
def forgotten(node: Host, *files: str) -> Iterator[None]:
    """Take files of a node away."""
    for file in files:
        run(node, f"mv {file} {file}.away")
    try:
        yield
    finally:
        for file in files:
            run(node, f"mv {file}.away {file}")


@contextmanager
def forgotten_by_the_inventory(nodes: Nodes, name: str) -> Iterator[None]:
    """Take a file of the inventory's secrets away."""
    file: Path = nodes.service.secrets_folder / name
    # With its mode, which the next play would set right otherwise.
    away = file.rename(f"{file}.away")
    try:
        yield
    finally:
        away.rename(file)


def refusal(nodes: Nodes) -> str:
    """Run site.yml, which must stop before it changes anything; returns what it said, on one line."""
    done = nodes.try_play("site.yml")
    assert done.returncode != 0, done.stdout[-3000:]
    assert set(re.findall(r"changed=(\d+)", done.stdout)) == {"0"}, done.stdout[-1000:]
    return " ".join((done.stdout + done.stderr).split())


def check_well(nodes: Nodes) -> None:
    assert until(lambda: not failures(nodes.service), WELL_SECONDS), failures(nodes.service)


@contextmanager
def inventory_alone(nodes: Nodes) -> Iterator[None]:
    with forgotten(nodes.db, NODE_MEMORY, ENABLED):
        yield


@contextmanager
def node_alone(nodes: Nodes) -> Iterator[None]:
    with forgotten_by_the_inventory(nodes, "kafka_cluster.yml"), forgotten(nodes.db, ENABLED):
        yield


@contextmanager
def unit_alone(nodes: Nodes) -> Iterator[None]:
    """As on nodes that were set up before anything was remembered."""
    with forgotten_by_the_inventory(nodes, "kafka_cluster.yml"), forgotten(nodes.db, NODE_MEMORY):
        yield


@pytest.mark.short
@pytest.mark.parametrize("known_to", [inventory_alone, node_alone, unit_alone], ids=lambda one: one.__name__)
def test_a_log_that_is_absent_is_not_formatted(
    nodes: Nodes, known_to: Callable[[Nodes], AbstractContextManager[None]]
) -> None:
    with moved(nodes.db, KAFKA, LOG), known_to(nodes):
        said = refusal(nodes)
        assert ask(nodes.db, f"test -e {LOG}").returncode != 0
    assert f"{nodes.db.name}: the log of this broker is absent" in said
    assert "findmnt" in said
    assert "restore.yml" in said
    check_well(nodes)


@pytest.mark.short
def test_the_log_of_another_cluster_is_not_used(nodes: Nodes) -> None:
    properties = f"{LOG}/meta.properties"
    kept = output(nodes.db, f"cat {properties}")
    run(
        nodes.db,
        f"systemctl stop {KAFKA} && sed -i 's/^cluster.id=.*/cluster.id=another/' {properties}",
    )
    try:
        said = refusal(nodes)
    finally:
        run(nodes.db, f"printf '%s\\n' '{kept}' > {properties} && systemctl start {KAFKA}")
    assert "cluster.id is another in its log, but the inventory remembers" in said
    check_well(nodes)


@pytest.mark.short
@pytest.mark.parametrize("known_to_the_inventory", [True, False])
def test_a_database_that_is_absent_is_not_made_anew(nodes: Nodes, *, known_to_the_inventory: bool) -> None:
    folder = output(nodes.db, "readlink --canonicalize /var/lib/postgresql/*/main")
    with moved(nodes.db, nodes.postgresql, folder):
        if known_to_the_inventory:
            said = refusal(nodes)
        else:
            with forgotten_by_the_inventory(nodes, "databases.yml"):
                said = refusal(nodes)
        assert ask(nodes.db, f"test -e {folder}/PG_VERSION").returncode != 0
    assert f"{folder} has no data, though a cluster was made there" in said
    assert "rebuild.yml" in said
    check_well(nodes)


def test_kafka_does_not_start_without_its_volume(nodes: Nodes) -> None:
    """The mount is configured and fails, as after a boot with a broken disk."""
    unit = "/etc/systemd/system/var-lib-kafka.mount"
    mount = "[Mount]\\nWhat=none\\nWhere=/var/lib/kafka\\nType=none-such\\n"
    run(nodes.db, f"systemctl stop {KAFKA} && printf '{mount}' > {unit} && systemctl daemon-reload")
    try:
        assert ask(nodes.db, f"systemctl start {KAFKA}").returncode != 0
        assert output(nodes.db, f"systemctl show --property=ActiveState --value {KAFKA}") == "inactive"
    finally:
        run(
            nodes.db,
            f"rm {unit} && systemctl daemon-reload && systemctl reset-failed && systemctl start {KAFKA}",
        )
    check_well(nodes)
