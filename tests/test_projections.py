"""Which consumer fills which database, from what the inventory remembers."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import load_module

projections = load_module("contract", "projections", "filter_plugins").projections
OLD = {"consumer": "timestamp-consumer", "consumer_port": 7081}


def second(name: str, port: int) -> dict[str, Any]:
    return {"consumer": f"timestamp-consumer-{name}", "consumer_port": port}


def test_the_first_database_has_the_consumer_that_has_always_been_there() -> None:
    assert projections(["db1.x", "db2.x"], {}, 7081) == {"db1.x": OLD, "db2.x": second("db2", 7101)}


def test_what_is_remembered_stays_whatever_the_order_of_the_group() -> None:
    known = {"db2.x": {**OLD, "port": 5432}, "db3.x": second("db3", 7102)}
    assert projections(["db1.x", "db3.x", "db2.x"], known, 7081) == {
        "db1.x": second("db1", 7101),
        "db3.x": second("db3", 7102),
        "db2.x": OLD,
    }


def test_nobody_gets_the_consumer_of_a_database_that_is_gone() -> None:
    known = {"db1.x": OLD, "db2.x": second("db2", 7101)}
    assert projections(["db3.x"], known, 7081) == {"db3.x": second("db3", 7102)}


@pytest.mark.parametrize("hosts", [10, 12])
def test_more_databases_than_ports_are_refused_elsewhere(hosts: int) -> None:
    """The check of the inventory names them; until it does, nothing may fail here."""
    assert len(projections([f"db{number}.x" for number in range(hosts)], {}, 7081)) == hosts
