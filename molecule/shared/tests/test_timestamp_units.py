"""The application's processes as units: timestamp_command, timestamp_query and timestamp_consumer."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

GROUP = "web"
UNITS = {"timestamp-command": 7080, "timestamp-consumer": 7081, "timestamp-query": 7082}
EXPOSURE_CEILING = 1.2


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_active_and_has_not_restarted(node: Host, unit: str) -> None:
    assert node.service(f"{unit}.service").is_running
    assert node.service(f"{unit}.service").is_enabled
    assert node.service(f"{unit}.socket").is_enabled
    assert node.check_output(f"systemctl show {unit}.service --property=NRestarts --value") == "0"


@pytest.mark.parametrize("port", UNITS.values(), ids=UNITS)
def test_port_is_on_loopback_alone(node: Host, port: int) -> None:
    listeners = node.check_output(
        f"ss --no-header --listening --numeric --tcp 'sport = :{port}'"
    ).splitlines()
    assert [line.split()[3] for line in listeners] == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize("port", UNITS.values(), ids=UNITS)
def test_process_is_healthy_and_ready(node: Host, port: int) -> None:
    assert json.loads(node.check_output(f"curl -sSf http://127.0.0.1:{port}/health")) == {"status": "UP"}
    assert node.run(f"curl -sSf http://127.0.0.1:{port}/ready").rc == 0


@pytest.mark.parametrize("unit", UNITS)
def test_exposure_is_under_the_ceiling(node: Host, unit: str) -> None:
    line = node.run(f"systemd-analyze security --no-pager {unit}.service").stdout.strip().splitlines()[-1]
    assert float(line.split("exposure level for")[1].split(":")[1].split()[0]) <= EXPOSURE_CEILING, line


@pytest.mark.parametrize("unit", UNITS)
def test_log_is_json_lines(node: Host, unit: str) -> None:
    program = node.check_output("readlink --canonicalize /usr/bin/python3")
    lines = node.check_output(
        f"journalctl --unit={unit}.service _EXE={program} --output=cat --lines=50"
    ).splitlines()
    assert lines
    for line in lines:
        assert {"time", "level", "service", "event"} <= set(json.loads(line)), line


@pytest.mark.parametrize("unit", UNITS)
def test_secrets_are_readable_by_root_alone(node: Host, unit: str) -> None:
    names = node.check_output(f"ls /etc/timestamp-service/{unit}.*_file").splitlines()
    assert names
    for name in names:
        assert (node.file(name).user, node.file(name).mode) == ("root", 0o600)
