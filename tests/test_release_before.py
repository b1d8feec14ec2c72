"""A rollback returns all nodes to one release."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from conftest import load_module

release_before = load_module("timestamp", "release_before", "filter_plugins").release_before


@pytest.mark.parametrize(
    "nodes",
    [
        [("3", "2")],
        [("3", "2"), ("3", "2")],
        # A deployment that was broken off has not reached the last two.
        [("3", "2"), ("2", "1"), ("2", "1")],
        # A rollback that was broken off has done the first.
        [("2", ""), ("3", "2"), ("3", "2")],
    ],
)
def test_all_return_to_the_release_before_the_newest(nodes: list[tuple[str, str]]) -> None:
    listed = {f"web{number}": [*node, "1", "2"] for number, node in enumerate(nodes)}
    assert release_before(listed) == "2"


@pytest.mark.parametrize(
    "nodes",
    [
        [("3", "")],
        [("3", "2"), ("3", "1")],
        [("3", "2"), ("4", "2")],
        [("3", "2"), ("2", "3")],
    ],
)
def test_where_it_is_not_clear_all_are_named(nodes: list[tuple[str, str]]) -> None:
    listed = {
        f"web{number}": [*node, "1", "2", "only here" if number == 1 else "3"]
        for number, node in enumerate(nodes)
    }
    with pytest.raises(AnsibleFilterError, match="rollback_release; all nodes have 1, 2") as raised:
        release_before(listed)
    for number, (current, _) in enumerate(nodes):
        assert f"web{number} runs {current}" in str(raised.value)
