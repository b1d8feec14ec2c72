"""A process that eats memory in a unit of ours is ended at the unit's limit, and the unit is back."""

from __future__ import annotations

import pytest
from disturbed import ask, failures, run, until
from inventory import Service

# It joins the unit's control group, of either version, and takes more than any of our limits.
EATER = (
    "for one in /sys/fs/cgroup/system.slice /sys/fs/cgroup/memory/system.slice; do"
    " [ ! -e $one/{unit}/cgroup.procs ] || echo $$ > $one/{unit}/cgroup.procs; done;"
    " python3 -c 'x = bytearray({bytes}); print(len(x))'; echo $?"
)
KILLED = "137"


@pytest.mark.parametrize("unit", ["timestamp-command.service", "timestamp-query.service"])
def test_unit_is_limited_and_comes_back(service: Service, unit: str) -> None:
    web = next(node for node in service.nodes if "web" in node.groups)
    limit = int(ask(web, f"systemctl show --property=MemoryMax --value {unit}").stdout)
    assert limit <= 1 << 30
    assert ask(web, EATER.format(unit=unit, bytes=2 * limit)).stdout.split() == [KILLED]
    assert until(lambda: not failures(service), 60), failures(service)
    # So that later checks see no restart that was not meant.
    run(web, f"systemctl restart {unit}")
    assert until(lambda: not failures(service), 30), failures(service)


def test_process_that_is_ended_comes_back(service: Service) -> None:
    """What the kernel does to a process over the limit: it sends SIGKILL."""
    web = next(node for node in service.nodes if "web" in node.groups)
    unit = "timestamp-query.service"
    before = ask(web, f"systemctl show --property=MainPID --value {unit}").stdout
    run(web, f"systemctl kill --signal=KILL {unit}")
    assert until(lambda: not failures(service), 60), failures(service)
    assert ask(web, f"systemctl show --property=MainPID --value {unit}").stdout != before
    assert ask(web, f"systemctl show --property=NRestarts --value {unit}").stdout == "1\n"
    run(web, f"systemctl restart {unit}")
    assert until(lambda: not failures(service), 30), failures(service)
