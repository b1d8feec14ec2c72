"""Addresses that move between web nodes: the ledger judges.

It needs an inventory (TIMESTAMP_INVENTORY) with two web nodes, an address for each, and no service_url.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disturbed import ask, break_play_off, failures, run, until
from faults import BEHIND, GONE, PROXY
from ledgers import recording
from nodes import COMMAND, NGINX, QUERY, Nodes, output
from test_deploy import check_unchanged

from cli.inventory import Host
from cli.units import CONTRACT

RATE = 200.0
AROUND_SECONDS = 3.0
MOVE_SECONDS = 30.0
REBOOT_SECONDS = 600.0
EXPOSURE_CEILING = 3.0
KEEPALIVED = "keepalived.service"
MARK = CONTRACT["contract_drain_file"]
ADDRESSES = "virtual_address_addresses"
PART = ("site.yml", "--tags=virtual_address")


@pytest.fixture(scope="module")
def web(nodes: Nodes) -> list[Host]:
    """Give the web nodes in the order of the group."""
    return [node for node in nodes.service.nodes if KEEPALIVED in node.units]


@pytest.fixture(scope="module")
def moved(nodes: Nodes, web: list[Host]) -> list[str]:
    """Give the addresses, each at home on the node at the same place."""
    if len(web) < 2:
        pytest.skip("the inventory has no two web nodes with addresses that move")
    settings = output(web[0], "cat /etc/keepalived/keepalived.conf")
    found = [line.split("/")[0].strip() for line in settings.splitlines() if "/32 dev " in line]
    assert nodes.service.url == f"https://{found[0]}"
    return found


def held(node: Host, moved: list[str]) -> list[str]:
    """Return the addresses that a node holds of those that move; none if it is away."""
    shown = ask(node, "ip -4 -oneline address show").stdout
    return [address for address in moved if f" {address}/" in shown]


def are_home(web: list[Host], moved: list[str]) -> bool:
    return [held(node, moved) for node in web] == [moved[place : place + 1] for place in range(len(web))]


@contextmanager
def recorded(nodes: Nodes, web: list[Host], moved: list[str], folder: Path) -> Iterator[None]:
    """Record and read at the first address while it moves and comes home; nothing may be lost."""
    assert until(lambda: are_home(web, moved) and not failures(nodes.service), REBOOT_SECONDS)
    with recording(nodes.service, folder, RATE, AROUND_SECONDS) as pair:
        yield
        assert until(lambda: are_home(web, moved), MOVE_SECONDS)
    pair.check()
    for summary in pair.summaries:
        print(json.dumps({method: summary[method]["errors"] for method in ("post", "get")}))
        assert set(summary["post"]["errors"]) <= GONE | PROXY
        assert set(summary["get"]["errors"]) <= GONE | PROXY | BEHIND
        assert summary["acknowledged"] > RATE * AROUND_SECONDS / 4
    assert until(lambda: not failures(nodes.service), REBOOT_SECONDS), failures(nodes.service)


def test_unit_is_hardened_and_nothing_is_refused_to_it(web: list[Host], moved: list[str]) -> None:
    assert until(lambda: are_home(web, moved), MOVE_SECONDS)
    for node in web:
        line = output(node, f"systemd-analyze security --no-pager {KEEPALIVED}").splitlines()[-1]
        assert float(line.split(":")[1].split()[0]) <= EXPOSURE_CEILING, line
        log = output(node, f"journalctl --boot --unit {KEEPALIVED} --output cat")
        assert "MASTER STATE" in log
        for word in ("not permitted", "denied", "Unsafe permissions", "disabling"):
            assert word not in log


@pytest.mark.parametrize(
    ("leave", "come_back"),
    [
        (f"systemctl stop {NGINX}", f"systemctl start {NGINX}"),
        (
            f"systemctl kill --signal=STOP {COMMAND} {QUERY}",
            f"systemctl kill --signal=CONT {COMMAND} {QUERY}",
        ),
        (f"systemctl stop {KEEPALIVED}", f"systemctl start {KEEPALIVED}"),
        (f"touch {MARK}", f"rm {MARK}"),
    ],
    ids=["nginx stopped", "apis frozen", "keepalived stopped", "drained"],
)
def test_addresses_move_and_come_home(
    nodes: Nodes, web: list[Host], moved: list[str], tmp_path: Path, leave: str, come_back: str
) -> None:
    with recorded(nodes, web, moved, tmp_path):
        try:
            run(web[0], leave)
            assert until(lambda: held(web[1], moved) == moved[:2] and not held(web[0], moved), MOVE_SECONDS)
        finally:
            run(web[0], come_back)


def test_requests_go_to_the_other_node_while_an_api_is_stopped(
    nodes: Nodes, web: list[Host], moved: list[str], tmp_path: Path
) -> None:
    units = " ".join(
        unit.replace(".service", ending) for unit in (COMMAND, QUERY) for ending in (".socket", ".service")
    )
    with recorded(nodes, web, moved, tmp_path):
        try:
            run(web[0], f"systemctl stop {units}")
            url = f"https://{web[0].address}/api/v1/timestamp"
            said = output(web[0], f"curl --silent --fail --insecure --request POST {url}")
            assert "id" in json.loads(said)
        finally:
            run(web[0], f"systemctl start {units}")


@pytest.mark.parametrize("unit", [KEEPALIVED, "systemd-networkd.service"])
def test_address_comes_home_after_a_restart_of_what_sets_addresses(
    nodes: Nodes, web: list[Host], moved: list[str], tmp_path: Path, unit: str
) -> None:
    with recorded(nodes, web, moved, tmp_path):
        run(web[0], f"systemctl restart {unit}")


def test_each_web_node_reboots_after_its_addresses_have_moved(
    nodes: Nodes, web: list[Host], moved: list[str], tmp_path: Path
) -> None:
    with recorded(nodes, web, moved, tmp_path):
        for node in web:
            nodes.play("playbooks/reboot.yml", f"--extra-vars=reboot_node={node.name}")
            assert are_home(web, moved)
            assert ask(node, f"test -e {MARK}").returncode != 0


def test_no_node_stays_drained_after_a_play_that_was_killed(
    nodes: Nodes, web: list[Host], moved: list[str]
) -> None:
    arguments = ("playbooks/reboot.yml", f"--extra-vars=reboot_node={web[0].name}")
    break_play_off(
        nodes.inventory, lambda: ask(web[0], f"test -e {MARK}").returncode == 0, REBOOT_SECONDS, *arguments
    )
    nodes.play(*PART)
    assert ask(web[0], f"test -e {MARK}").returncode != 0
    assert until(lambda: are_home(web, moved), MOVE_SECONDS)
    check_unchanged(nodes.play(*PART))


def test_nothing_is_left_of_addresses_that_are_given_up(
    nodes: Nodes, web: list[Host], moved: list[str]
) -> None:
    try:
        nodes.play(*PART, "--extra-vars", json.dumps({ADDRESSES: []}))
        for node in web:
            assert held(node, moved) == []
            assert ask(node, "ls /etc/keepalived/keepalived.conf").returncode != 0
            assert output(node, f"systemctl show --property=ActiveState --value {KEEPALIVED}") == "inactive"
    finally:
        nodes.play(*PART)
    assert until(lambda: are_home(web, moved), MOVE_SECONDS)
