"""Replicas are spread evenly over the brokers, by as few moves as that takes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import RunModule, load_module
from hypothesis import given
from hypothesis import strategies as st
from kafka_client import Partition

kafka_replicas = load_module("kafka", "kafka_replicas")


def spread(
    current: Mapping[int, Sequence[int]], brokers: Sequence[int], replicas: int
) -> dict[int, list[int]]:
    chosen: dict[int, list[int]] = kafka_replicas.spread(current, brokers, replicas)
    return chosen


def loads(chosen: Mapping[int, Sequence[int]]) -> list[int]:
    return sorted(Counter(broker for brokers in chosen.values() for broker in brokers).values())


def leaders(chosen: Mapping[int, Sequence[int]]) -> list[int]:
    return sorted(Counter(brokers[0] for brokers in chosen.values()).values())


def test_one_broker_becomes_three() -> None:
    chosen = spread({number: [1] for number in range(12)}, [1, 2, 3], 3)
    assert all(sorted(brokers) == [1, 2, 3] for brokers in chosen.values())
    assert leaders(chosen) == [4, 4, 4]


def test_fourth_broker_takes_its_share_and_no_more_is_moved() -> None:
    before = spread({number: [1] for number in range(12)}, [1, 2, 3], 3)
    chosen = spread(before, [1, 2, 3, 4], 3)
    assert loads(chosen) == [9, 9, 9, 9]
    assert leaders(chosen) == [3, 3, 3, 3]
    assert sum(len(set(chosen[number]) - set(before[number])) for number in before) == 9


def test_one_that_goes_gives_its_replicas_away_and_nothing_else_is_moved() -> None:
    before = spread({number: [1] for number in range(12)}, [1, 2, 3, 4], 3)
    chosen = spread(before, [1, 2, 3], 3)
    assert loads(chosen) == [12, 12, 12]
    for number, brokers in before.items():
        assert set(brokers) - {4} <= set(chosen[number])


def test_only_one_replica_remains_where_one_broker_does() -> None:
    before = spread({number: [1] for number in range(12)}, [1, 2, 3], 3)
    assert spread(before, [2], 1) == {number: [2] for number in range(12)}


@given(
    current=st.dictionaries(
        st.integers(0, 12), st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True), min_size=1
    ),
    brokers=st.lists(st.integers(1, 6), min_size=1, unique=True),
    replicas=st.integers(1, 4),
)
def test_what_is_spread_is_even_and_stays_as_it_is(
    current: dict[int, list[int]], brokers: list[int], replicas: int
) -> None:
    wanted = min(replicas, len(brokers))
    chosen = spread(current, brokers, wanted)
    assert chosen.keys() == current.keys()
    for mine in chosen.values():
        assert len(set(mine)) == len(mine) == wanted
        assert set(mine) <= set(brokers)
    held = Counter(dict.fromkeys(brokers, 0))
    held.update(broker for mine in chosen.values() for broker in mine)
    assert max(held.values()) - min(held.values()) <= 1
    assert spread(chosen, brokers, wanted) == chosen


def ended(value: Any = None) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class FakeCluster:
    """What the module uses of a cluster, and what the tool does that moves replicas."""

    def __init__(self, folder: Path) -> None:
        self.moves = folder / "moves.json"
        self.whole = folder / "whole"
        self.election = folder / "election"
        self.replicas: dict[int, tuple[int, ...]] = dict.fromkeys(range(6), (1,))
        self.minimum = {"t": 1}
        self.cluster_minimum = "1"
        # In the order in which it was done: the minimum of the cluster or of a topic, "move", "elect".
        self.done: list[str] = []
        self.in_sync = True

    def partitions(self) -> list[Partition]:
        self.note()
        if self.moves.exists():
            self.done.append("move")
            for one in json.loads(self.moves.read_text())["partitions"]:
                self.replicas[one["partition"]] = tuple(one["replicas"])
            self.moves.unlink()
        return [
            Partition("t", number, 1, mine, frozenset(mine if self.in_sync else mine[:1]), self.minimum["t"])
            for number, mine in self.replicas.items()
        ]

    def note(self) -> None:
        """Note what a command has set for the cluster since."""
        if self.whole.exists():
            self.done.append(f"={self.whole.read_text().strip()}")
            self.cluster_minimum = self.done[-1].rpartition("=")[2]
            self.whole.unlink()
        if self.election.exists():
            self.done.append("elect")
            self.election.unlink()

    def describe_configs(self, resources: list[Any], **_: Any) -> Any:
        self.note()
        value = self.cluster_minimum
        return {one: ended({"min.insync.replicas": SimpleNamespace(value=value)}) for one in resources}

    def incremental_alter_configs(self, resources: list[Any], **_: Any) -> Any:
        self.note()
        for one in resources:
            (entry,) = one.incremental_configs
            self.minimum[one.name] = int(entry.value)
            self.done.append(f"{one.name}={entry.value}")
        return {one: ended() for one in resources}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCluster:
    made = FakeCluster(tmp_path)
    monkeypatch.setattr(kafka_replicas, "client_of", lambda _: made)
    monkeypatch.setattr(kafka_replicas, "partitions_of", lambda client: client.partitions())
    return made


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(cluster: FakeCluster, run_module: RunModule) -> Run:
    """Return a function that runs the module; its command notes the moves."""
    access = {"bootstrap_servers": "x", "ca_file": "/x", "username": "admin", "password": "open sesame"}
    script = f'for file; do :; done; cp "$file" {cluster.moves}'

    def call(brokers: list[int], minimum: int, check_mode: bool = False, **others: Any) -> dict[str, Any]:
        parameters = {"brokers": brokers, "replicas": 3, "minimum": minimum, **others}
        command = {
            "reassign_command": ["sh", "-c", script, "sh"],
            "election_command": ["sh", "-c", f"touch {cluster.election}", "sh"],
            "configs_command": ["sh", "-c", f'echo "$3" > {cluster.whole}', "sh"],
        }
        said = run_module(kafka_replicas, {**access, **command, **parameters}, check_mode)
        cluster.note()
        return said

    return call


def test_more_replicas_are_required_only_once_they_are_there(cluster: FakeCluster, run: Run) -> None:
    assert run([1, 2, 3], 2)["changed"]
    assert cluster.done == ["move", "=min.insync.replicas=2", "t=2", "elect"]
    assert all(sorted(mine) == [1, 2, 3] for mine in cluster.replicas.values())


def test_fewer_replicas_are_required_before_they_go(cluster: FakeCluster, run: Run) -> None:
    run([1, 2, 3], 2)
    cluster.done.clear()
    assert run([1], 1)["changed"]
    assert cluster.done == ["=min.insync.replicas=1", "t=1", "move"]
    assert set(cluster.replicas.values()) == {(1,)}


def test_nothing_is_done_where_all_is_as_it_must_be(cluster: FakeCluster, run: Run) -> None:
    assert run([1], 1) == {"changed": False, "changes": [], "invocation": run([1], 1)["invocation"]}
    assert cluster.done == []


def test_check_mode_says_what_would_be_done(cluster: FakeCluster, run: Run) -> None:
    would = run([1, 2, 3], 2, check_mode=True)
    assert cluster.done == []
    assert would["changes"] == [
        "t: other replicas or leaders of 6 partitions",
        "the cluster: min.insync.replicas=1 -> 2",
        "t: min.insync.replicas=1 -> 2",
    ]


def test_nothing_more_is_required_while_replicas_are_not_in_sync(cluster: FakeCluster, run: Run) -> None:
    cluster.in_sync = False
    said = run([1, 2, 3], 2, move_seconds=0)
    assert "6 partitions (t-0 is one) do not have 3 replicas in sync" in said["msg"]
    assert "run the play again" in said["msg"]
    assert cluster.done == ["move"]


def test_tool_that_refuses_is_an_error(run: Run) -> None:
    said = run([1, 2], 1, reassign_command=["sh", "-c", "echo no such broker >&2; exit 1"])
    assert said["msg"] == "sh has failed: no such broker"
