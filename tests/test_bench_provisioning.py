"""What the provisioning benchmark reads out of the output of `make up`."""

from __future__ import annotations

from bench.provisioning import measured, table

LINES = [
    (0.0, "[1/5] Debian packages: all installed"),
    (1.0, "[2/5] Python environment: up to date"),
    (3.5, "[3/5] Machines: make and boot those that do not run"),
    (4.0, "localhost                  : ok=2    changed=1    unreachable=0    failed=0    skipped=0"),
    (5.0, "base : Install packages -------------------------------- 12.25s"),
    (5.0, "Gather facts ------------------------------------------- 0.50s"),
    (5.0, "TASK [base : Install packages] **********"),
    (5.0, "web.local.internal         : ok=59   changed=7    unreachable=0    failed=0    skipped=3"),
]


def test_steps_tasks_and_changes_are_read() -> None:
    result = measured(LINES, end=10.0)
    assert result.steps == {"Debian packages": 1.0, "Python environment": 2.5, "Machines": 6.5}
    assert result.tasks == (("base : Install packages", 12.25), ("Gather facts", 0.5))
    assert result.changed == 8


def test_table_says_which_run_is_over_its_limit() -> None:
    text = table({"all cached": measured(LINES, end=10.0), "nothing to do": measured(LINES, end=41.0)})
    assert "all cached: 10.0 s (within 150 s), 8 changed" in text
    assert "nothing to do: 41.0 s (OVER 40 s)" in text
    assert "12.2 s  base : Install packages" in text
