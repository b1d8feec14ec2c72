"""A broker is taken out of the cluster only while the others can do without it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import kafka_client
import pytest
from conftest import RunModule, load_module
from kafka_client import Partition

kafka_gate = load_module("kafka", "kafka_gate")
Voter = kafka_gate.Voter

# As kafka-metadata-quorum.sh prints it, with tabs and blanks between; the last was a broker once.
DESCRIBED = """\
NodeId\tDirectoryId           \tLogEndOffset\tLag\tLastFetchTimestamp\tLastCaughtUpTimestamp\tStatus  \t
2     \tBBBBBBBBBBBBBBBBBBBBBB\t1873        \t0  \t1764252000500     \t1764252000500        \tLeader  \t
1     \tAAAAAAAAAAAAAAAAAAAAAA\t1873        \t0  \t1764252000400     \t1764252000300        \tFollower\t
3     \tCCCCCCCCCCCCCCCCCCCCCC\t1801        \t72 \t1764252000400     \t1764251992500        \tFollower\t
7     \tDDDDDDDDDDDDDDDDDDDDDD\t12          \t861\t1764251000400     \t1764251000400        \tObserver\t
"""
BROKERS = (1, 2, 3)
VOTERS = [Voter(number, number == 2, 0.0) for number in BROKERS]


def partition(
    name: str = "t", in_sync: tuple[int, ...] = BROKERS, minimum: int = 2, leader: int = 1
) -> Partition:
    return Partition(name, 0, leader, BROKERS, frozenset(in_sync), minimum)


def closed(
    without: tuple[int, ...] = (3,),
    there: tuple[int, ...] = BROKERS,
    partitions: tuple[Partition, ...] = (partition(),),
    voters: list[Any] = VOTERS,
    brokers: tuple[int, ...] = BROKERS,
    controllers: tuple[int, ...] | None = None,
) -> list[str]:
    reasons: list[str] = kafka_gate.closed_because(
        brokers, brokers if controllers is None else controllers, there, partitions, voters, without
    )
    return reasons


def test_quorum_is_read_as_the_tool_describes_it() -> None:
    assert kafka_gate.read_voters(DESCRIBED) == [
        Voter(2, True, 0.0),
        Voter(1, False, 0.2),
        Voter(3, False, 8.0),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "no broker answers", DESCRIBED.replace("Leader", "Follower"), DESCRIBED.replace("NodeId", "Id")],
)
def test_what_is_no_description_of_a_quorum_is_an_error(text: str) -> None:
    with pytest.raises(kafka_client.ClusterError, match="was not described"):
        kafka_gate.read_voters(text)


def test_one_of_three_that_are_whole_can_be_taken_out() -> None:
    assert closed() == []


def test_one_that_is_away_already_can_be_taken_out() -> None:
    late = [Voter(1, False, 0.0), Voter(2, True, 0.0), Voter(3, False, 999.0)]
    assert closed(there=(1, 2), partitions=(partition(in_sync=(1, 2)),), voters=late) == []


def test_nothing_is_taken_out_while_another_broker_is_away() -> None:
    assert closed(there=(2, 3)) == ["broker 1 is away"]


def test_nothing_is_taken_out_that_a_partition_needs() -> None:
    partitions = (partition(in_sync=(2, 3)), partition("u"))
    assert closed(partitions=partitions) == ["t-0 would have 1 replicas in sync, of which 2 are needed"]
    assert closed(without=(1,), partitions=partitions) == []


def test_nothing_is_taken_out_while_a_partition_has_no_leader() -> None:
    assert closed(partitions=(partition(leader=-1),)) == ["t-0 has no leader"]


def test_many_partitions_are_told_in_few_words() -> None:
    partitions = tuple(partition(f"t{number}", leader=-1) for number in range(9))
    assert closed(partitions=partitions)[-1] == "and 4 more like it"


def test_nothing_is_taken_out_while_a_controller_that_stays_is_behind() -> None:
    late = [Voter(1, False, 5.1), Voter(2, True, 0.0), Voter(3, False, 0.0)]
    assert closed(voters=late) == ["controller 1 is 5.1 s behind"]
    assert closed(without=(1,), voters=late) == []


def test_nothing_is_taken_out_while_another_controller_does_not_vote() -> None:
    assert closed(without=(2,), voters=VOTERS[:2])[0] == "controller 3 does not vote yet"


def test_separate_controllers_need_not_be_brokers_nor_brokers_vote() -> None:
    voters = [Voter(number, number == 4, 0.0) for number in (4, 5, 6)]
    separate: dict[str, Any] = {"voters": voters, "controllers": (4, 5, 6)}
    assert [closed(without=(number,), **separate) for number in (1, 4)] == [[], []]
    assert closed(there=(1, 2), without=(4,), **separate) == ["broker 3 is away"]
    assert closed(**{**separate, "voters": voters[:2]}) == ["controller 6 does not vote yet"]


def test_one_of_two_cannot_be_taken_out() -> None:
    two = (1, 2)
    assert closed(
        without=(1,),
        there=two,
        partitions=(partition(in_sync=two, minimum=1),),
        voters=VOTERS[:2],
        brokers=two,
    ) == ["1 of 2 controllers would remain, which is no majority"]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, run_module: RunModule) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the module with a command that prints the quorum, or fails."""
    client = SimpleNamespace(list_topics=lambda **_: SimpleNamespace(brokers=dict.fromkeys(BROKERS)))
    monkeypatch.setattr(kafka_gate, "client_of", lambda _: client)
    monkeypatch.setattr(kafka_gate, "partitions_of", lambda _: [partition(in_sync=(1, 2))])
    access = {"bootstrap_servers": "x", "ca_file": "/x", "username": "admin", "password": "open sesame"}

    def run(without: list[int], script: str) -> dict[str, Any]:
        command = ["sh", "-c", script, "sh"]
        parameters = {
            "brokers": list(BROKERS),
            "controllers": list(BROKERS),
            "without": without,
            "quorum_command": command,
        }
        return run_module(kafka_gate, {**access, **parameters, "ready_seconds": 0})

    return run


def test_gate_opens_and_names_the_active_controller(look: Callable[..., dict[str, Any]]) -> None:
    assert look([3], f"printf '%s' '{DESCRIBED}'")["controller"] == 2


def test_gate_that_stays_closed_fails_with_the_reasons(look: Callable[..., dict[str, Any]]) -> None:
    said = look([1], f"printf '%s' '{DESCRIBED}'")
    assert said["failed"]
    assert said["msg"] == (
        "Node 1 cannot be taken out: controller 3 is 8 s behind;"
        " t-0 would have 1 replicas in sync, of which 2 are needed"
    )


def test_tool_that_fails_is_a_closed_gate(look: Callable[..., dict[str, Any]]) -> None:
    said = look([], "echo timed out >&2; exit 1")
    assert said["msg"] == "The cluster is not whole: the quorum of controllers cannot be described: timed out"
