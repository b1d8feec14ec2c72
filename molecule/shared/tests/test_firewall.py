"""The packet filter: a host outside the groups, such as this computer, reaches what is for all alone."""

from __future__ import annotations

import re
import socket

import pytest
from conftest import address
from testinfra.host import Host

GROUP = "nodes"
UNIT_EXPOSURE_MAX = 2.0


@pytest.mark.parametrize("group_port", [("postgresql", 5432), ("kafka", 9092), ("kafka", 9093)], ids=str)
def test_packets_of_others_are_dropped(group_port: tuple[str, int]) -> None:
    group, port = group_port
    with pytest.raises(TimeoutError):
        socket.create_connection((address(group), port), timeout=2)


@pytest.mark.parametrize("port", [7080, 7081, 7082])
def test_processes_are_not_reached_from_outside(port: int) -> None:
    with pytest.raises(TimeoutError):
        socket.create_connection((address("web"), port), timeout=2)


@pytest.mark.parametrize("port", [80, 443])
def test_nginx_is_for_everybody(port: int) -> None:
    socket.create_connection((address("web"), port), timeout=2).close()


def test_rules_are_loaded_at_boot(node: Host) -> None:
    assert node.service("timestamp-firewall.service").is_enabled
    assert "policy drop" in node.check_output("nft list chain inet timestamp_service input")


def test_unit_is_hardened(node: Host) -> None:
    line = node.run("systemd-analyze security --no-pager timestamp-firewall").stdout.strip().splitlines()[-1]
    assert float(re.findall(r"\d+\.\d+", line)[0]) <= UNIT_EXPOSURE_MAX, line


def test_file_of_debian_is_left_alone(node: Host) -> None:
    assert "/etc/nftables.conf" not in node.check_output("dpkg --verify nftables")
