"""A unit of ours that takes more memory than it may is killed at its limit by the kernel, and is back."""

from __future__ import annotations

import pytest
from disturbed import ask, failures, run, until

from cli.inventory import Service

# It joins the unit's control group, of either version, and takes twice the limit. There the kernel ends the
# unit's own main process before any other: the eater only fills the memory.
EATER = (
    "echo 1000 > /proc/$(systemctl show --property=MainPID --value {unit})/oom_score_adj &&"
    " for one in /sys/fs/cgroup/system.slice /sys/fs/cgroup/memory/system.slice; do"
    " [ ! -e $one/{unit}/cgroup.procs ] || echo $$ > $one/{unit}/cgroup.procs; done;"
    " python3 -c 'x = bytearray({bytes}); print(len(x))'; echo $?"
)
KILLED = "137"


@pytest.mark.parametrize("unit", ["timestamp-command.service", "timestamp-query.service"])
def test_unit_is_killed_at_its_limit_and_starts_again(service: Service, unit: str) -> None:
    web = next(node for node in service.nodes if "web" in node.groups)

    def property_of(name: str) -> str:
        return ask(web, f"systemctl show --property={name} --value {unit}").stdout.strip()

    limit, before, invocation = (
        int(property_of("MemoryMax")),
        property_of("MainPID"),
        property_of("InvocationID"),
    )
    assert limit <= 1 << 30
    assert ask(web, EATER.format(unit=unit, bytes=2 * limit)).stdout.split() == [KILLED]

    assert until(lambda: not failures(service), 60), failures(service)
    assert (property_of("NRestarts"), property_of("ActiveState")) == ("1", "active")
    assert property_of("MainPID") != before
    assert property_of("InvocationID") != invocation
    journal = f"journalctl --no-pager --output=cat _PID=1 INVOCATION_ID={invocation} UNIT={unit}"
    assert "Main process exited, code=killed, status=9/KILL" in ask(web, journal).stdout
    # So that later checks see no restart that was not meant.
    run(web, f"systemctl restart {unit}")
    assert until(lambda: not failures(service), 30), failures(service)
