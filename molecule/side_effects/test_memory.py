"""A process that eats memory in a unit of ours is ended at the unit's limit, and the unit is back."""

from __future__ import annotations

from disturbed import ask, failures, run, until
from inventory import Service

UNIT = "timestamp-query.service"
# It joins the unit's control group, and takes more than the limit.
EATER = (
    f"echo $$ > /sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs"
    " && exec python3 -c 'x = bytearray(2 << 30); print(len(x))'"
)


def test_unit_is_limited_and_comes_back(service: Service) -> None:
    web = next(node for node in service.nodes if "web" in node.groups)
    before = ask(web, f"systemctl show --property=MainPID --value {UNIT}").stdout
    eaten = ask(web, EATER)
    assert eaten.returncode != 0
    assert eaten.stdout == ""
    journal = f"journalctl --no-pager --quiet --since=-1min --unit={UNIT} --grep='oom|OOM|killed'"
    assert until(lambda: ask(web, journal).stdout != "", 10)
    assert until(lambda: not failures(service), 60), failures(service)
    # The eater alone may have been ended: then the process is the same one.
    assert ask(web, f"systemctl is-active {UNIT}").stdout == "active\n"
    assert before.strip() != "0"
    # So that later checks see no restart that was not meant.
    run(web, f"systemctl restart {UNIT}")
    assert until(lambda: not failures(service), 30), failures(service)
