"""What is known of a Kafka cluster, put together: an absent log is never taken for a new one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from conftest import load_module

kafka_cluster = load_module("kafka", "kafka_cluster", "filter_plugins").kafka_cluster

CHOSEN = {"topic": "timestamp.command.v1", "partitions": 12}
CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"
THREE = ["one", "two", "three"]


def log(number: int, cluster: str = CLUSTER, log_id: str | None = None) -> str:
    """Return what Kafka writes when it formats a log."""
    folder = log_id or f"log-{number}"
    values = f"cluster.id={cluster}\nversion=1\ndirectory.id={folder}\nnode.id={number}\n"
    return f"#\n#Thu Nov 26 11:00:00 UTC 2026\n{values}"


def node(log: str = "", memory: str = "", started: bool = False) -> dict[str, Any]:
    return {"log": log, "memory": memory, "started": started}


def formatted(number: int, cluster: str = CLUSTER) -> dict[str, Any]:
    """Return a node that runs."""
    return node(log(number, cluster), log(number, cluster), started=True)


def remembered(*hosts: str, done: int | None = None) -> dict[str, Any]:
    """Return what the inventory has noted; the first `done` brokers (all) are formatted."""
    brokers = {
        host: {
            "node_id": number,
            "log_id": f"log-{number}",
            "founder": True,
            "formatted": done is None or number <= done,
        }
        for number, host in enumerate(hosts, 1)
    }
    return {"cluster_id": CLUSTER, **CHOSEN, "brokers": brokers}


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(AnsibleFilterError) as raised:
        kafka_cluster(*arguments, **options)
    return str(raised.value)


def test_the_first_brokers_found_the_quorum_together() -> None:
    planned = kafka_cluster({host: node() for host in THREE}, {}, THREE, CHOSEN)
    assert [broker["node_id"] for broker in planned["brokers"].values()] == [1, 2, 3]
    assert all(broker["founder"] and not broker["formatted"] for broker in planned["brokers"].values())
    identifiers = [planned["cluster_id"], *(broker["log_id"] for broker in planned["brokers"].values())]
    assert len(set(identifiers)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{21}", identifier) for identifier in identifiers)
    assert (planned["topic"], planned["partitions"]) == tuple(CHOSEN.values())


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_format_that_was_broken_off_goes_on_with_the_same_ids(done: int) -> None:
    """Whether or not the inventory had come to note what was formatted."""
    plan = remembered(*THREE, done=0)
    nodes = {host: node(log(number) if number <= done else "") for number, host in enumerate(THREE, 1)}
    assert kafka_cluster(nodes, plan, THREE, CHOSEN) == remembered(*THREE, done=done)


@pytest.mark.parametrize("noted", [{}, remembered(*THREE)])
def test_nodes_that_run_are_taken_as_they_are(noted: dict[str, Any]) -> None:
    nodes = {host: formatted(number) for number, host in enumerate(THREE, 1)}
    known = kafka_cluster(nodes, noted, THREE, CHOSEN)
    assert known["cluster_id"] == CLUSTER
    assert [(b["node_id"], b["log_id"], b["formatted"]) for b in known["brokers"].values()] == [
        (1, "log-1", True),
        (2, "log-2", True),
        (3, "log-3", True),
    ]
    assert kafka_cluster(nodes, known, THREE, CHOSEN) == known


@pytest.mark.parametrize("noted", [{}, remembered(*THREE)])
def test_a_place_in_the_group_changes_no_number(noted: dict[str, Any]) -> None:
    """A host that is put above the others gets the next number; it joins the quorum."""
    nodes = {"new": node(), **{host: formatted(number) for number, host in enumerate(THREE, 1)}}
    known = kafka_cluster(nodes, noted, ["new", *reversed(THREE)], CHOSEN)
    assert {host: broker["node_id"] for host, broker in known["brokers"].items()} == {
        "one": 1,
        "two": 2,
        "three": 3,
        "new": 4,
    }
    assert known["brokers"]["new"] == {"node_id": 4, "log_id": "", "founder": False, "formatted": False}


def left(*hosts: str) -> dict[str, Any]:
    """Return what is noted of THREE, of which these were removed."""
    noted = remembered(*THREE)
    for host in hosts:
        noted["brokers"][host]["removed"] = True
    return noted


def test_the_number_of_a_broker_that_was_removed_is_not_given_out_again() -> None:
    nodes = {"one": formatted(1), "new": node()}
    known = kafka_cluster(nodes, left("two", "three"), ["one", "new"], CHOSEN)
    assert known["brokers"]["new"]["node_id"] == 4
    assert known["brokers"]["three"]["removed"]
    assert kafka_cluster(nodes, known, ["one", "new"], CHOSEN) == known


def test_a_broker_that_was_removed_comes_back_as_another() -> None:
    nodes = {"one": formatted(1), "two": formatted(2), "three": node()}
    known = kafka_cluster(nodes, left("three"), THREE, CHOSEN)
    assert known["brokers"]["three"] == {"node_id": 4, "log_id": "", "founder": False, "formatted": False}


def test_a_broker_that_is_taken_out_of_the_inventory_alone_is_missed() -> None:
    nodes = {"one": formatted(1), "two": formatted(2)}
    said = refusal(nodes, remembered(*THREE), ["one", "two"], CHOSEN)
    assert "three is a broker of this cluster and not in the group kafka any more. Put it back" in said
    assert "playbooks/remove.yml" in said


def test_one_log_that_is_lost_is_replaced_alone() -> None:
    nodes = {"one": formatted(1), "two": node(), "three": formatted(3)}
    known = kafka_cluster(nodes, remembered(*THREE), THREE, CHOSEN, ["two"])
    assert known["cluster_id"] == CLUSTER
    assert known["brokers"]["two"] == {"node_id": 2, "log_id": "", "founder": False, "formatted": False}
    assert "one: the log of this broker is absent" in refusal(
        {**nodes, "one": node()}, remembered(*THREE), THREE, CHOSEN, ["two"]
    )


def test_a_host_with_another_name_is_the_same_broker() -> None:
    known = kafka_cluster({"other": formatted(1)}, remembered("one"), ["other"], CHOSEN)
    assert {host: broker["node_id"] for host, broker in known["brokers"].items()} == {"other": 1}


@pytest.mark.parametrize(
    ("state", "noted"),
    [
        (node(), remembered("one")),
        (node(memory=log(1)), {}),
        (node(started=True), {}),
        (node(memory=log(1), started=True), remembered("one", done=0)),
    ],
    ids=["the inventory", "the node", "its unit", "the node alone of a broken off run"],
)
def test_an_absent_log_is_not_taken_for_a_new_one(state: dict[str, Any], noted: dict[str, Any]) -> None:
    said = refusal({"one": state}, noted, ["one"], CHOSEN)
    assert "one: the log of this broker is absent from its folder" in said
    assert "Nothing was changed" in said
    assert "findmnt" in said
    assert "restore.yml" in said


def test_one_of_three_logs_that_is_absent_is_refused() -> None:
    nodes = {"one": formatted(1), "two": node(memory=log(2), started=True), "three": formatted(3)}
    assert f"two: the log of this broker is absent from its folder, though cluster {CLUSTER}" in refusal(
        nodes, remembered(*THREE), THREE, CHOSEN
    )


def test_where_all_is_lost_a_restore_begins_another_cluster() -> None:
    nodes = {host: node(memory=log(number), started=True) for number, host in enumerate(THREE, 1)}
    known = kafka_cluster(nodes, remembered(*THREE), THREE, CHOSEN, new_logs=THREE)
    assert known["cluster_id"] != CLUSTER
    assert [broker["node_id"] for broker in known["brokers"].values()] == [1, 2, 3]
    assert all(broker["founder"] and not broker["formatted"] for broker in known["brokers"].values())
    # And once that is noted, nothing is made anew.
    again = {
        host: node(log(broker["node_id"], known["cluster_id"], broker["log_id"]))
        for host, broker in known["brokers"].items()
    }
    done = kafka_cluster(again, known, THREE, CHOSEN, new_logs=THREE)
    assert done["cluster_id"] == known["cluster_id"]
    assert all(broker["formatted"] for broker in done["brokers"].values())


def test_a_restore_keeps_the_logs_that_are_there() -> None:
    nodes = {"one": formatted(1), "two": node(started=True), "three": formatted(3)}
    known = kafka_cluster(nodes, remembered(*THREE), THREE, CHOSEN, new_logs=THREE)
    assert known["cluster_id"] == CLUSTER
    assert known["brokers"]["two"] == {"node_id": 2, "log_id": "", "founder": False, "formatted": False}
    assert known["brokers"]["one"]["formatted"]


@pytest.mark.parametrize(
    ("nodes", "noted", "expected"),
    [
        ({"one": formatted(1, "other")}, remembered("one"), "cluster.id is other in its log, but the inv"),
        ({"one": formatted(2)}, remembered("one"), "node.id is 2 in its log, but the inventory remembers 1"),
        ({"one": node(log(1, log_id="x"))}, remembered("one"), "directory.id is x in its log, but the inv"),
        ({"one": node(log(1), log(1, "other"))}, {}, "but the node remembers other"),
        ({"one": formatted(1), "two": formatted(2, "other")}, {}, "two: cluster.id is other in its log"),
        ({"one": formatted(1), "two": formatted(1)}, {}, "one and two are both broker 1"),
    ],
)  # fmt: skip
def test_contradictions_are_named(nodes: dict[str, Any], noted: dict[str, Any], expected: str) -> None:
    said = refusal(nodes, noted, list(nodes), CHOSEN)
    assert expected in said
    assert "Nothing was changed" in said


@pytest.mark.parametrize("changed", [{"topic": "other"}, {"partitions": 24}])
def test_what_is_chosen_once_stays(changed: dict[str, Any]) -> None:
    ((name, value),) = changed.items()
    said = refusal({"one": formatted(1)}, remembered("one"), ["one"], {**CHOSEN, **changed})
    assert f"{name} was {CHOSEN[name]} at the first installation and is {value}" in said


def test_a_part_of_the_group_may_run_alone_unless_something_is_to_be_formatted() -> None:
    known = kafka_cluster({"two": formatted(2)}, remembered(*THREE), THREE, CHOSEN)
    assert known == {**remembered(*THREE), "brokers": known["brokers"]}
    said = refusal({"new": node()}, remembered(*THREE), [*THREE, "new"], CHOSEN)
    assert "run without --limit" in said
    assert "one, two, three is missing" in said


SIX = [*THREE, "c4", "c5", "c6"]
CONTROLLERS = SIX[3:]


def separate() -> dict[str, Any]:
    """Return what is noted of three brokers and three controllers that run."""
    noted = remembered(*SIX)
    for host, one in noted["brokers"].items():
        one["role"] = "controller" if host in CONTROLLERS else "broker"
        one["founder"] = host in CONTROLLERS
    return noted


def running() -> dict[str, Any]:
    return {host: formatted(number) for number, host in enumerate(SIX, 1)}


def test_separate_controllers_found_the_quorum_and_share_no_number_with_a_broker() -> None:
    planned = kafka_cluster({host: node() for host in SIX}, {}, SIX, CHOSEN, (), CONTROLLERS)["brokers"]
    assert [one["node_id"] for one in planned.values()] == [1, 2, 3, 4, 5, 6]
    assert [host for host, one in planned.items() if one["founder"]] == CONTROLLERS
    assert [host for host, one in planned.items() if one["log_id"]] == CONTROLLERS
    assert [host for host, one in planned.items() if one["role"] == "controller"] == CONTROLLERS


def test_separate_controllers_that_run_are_taken_as_they_are() -> None:
    assert kafka_cluster(running(), separate(), SIX, CHOSEN, (), CONTROLLERS) == separate()
    # The nodes know it too, where the inventory has lost it.
    nodes = {
        host: {**one, "memory": f"{one['memory']}process.roles={separate()['brokers'][host]['role']}\n"}
        for host, one in running().items()
    }
    known = kafka_cluster(nodes, {}, SIX, CHOSEN, (), CONTROLLERS)["brokers"]
    assert {host: one["role"] for host, one in known.items()} == {
        host: one["role"] for host, one in separate()["brokers"].items()
    }


def test_new_broker_and_new_controller_join_the_quorum_that_is_there() -> None:
    nodes = {**running(), "c7": node(), "four": node()}
    known = kafka_cluster(nodes, separate(), [*SIX, "four", "c7"], CHOSEN, (), [*CONTROLLERS, "c7"])[
        "brokers"
    ]
    joining = {"log_id": "", "founder": False, "formatted": False}
    assert known["four"] == {"node_id": 7, **joining, "role": "broker"}
    assert known["c7"] == {"node_id": 8, **joining, "role": "controller"}


def test_cluster_that_is_there_does_not_change_over() -> None:
    nodes = {host: formatted(number) for number, host in enumerate(THREE, 1)}
    for noted in (remembered(*THREE), {}):
        said = refusal(
            {**nodes, **{host: node() for host in CONTROLLERS}}, noted, SIX, CHOSEN, (), CONTROLLERS
        )
        assert (
            "one is broker and controller in one in this cluster, and the groups kafka and kafka_cont" in said
        )
        assert "make it broker now. Nothing was changed." in said
        assert "set the groups back" in said
    alone = {host: one for host, one in running().items() if host in THREE}
    said = refusal(alone, separate(), THREE, CHOSEN)
    assert (
        "one is broker in this cluster, and the groups kafka and kafka_controllers make it broker and" in said
    )
    assert "c4, c5, c6 is a controller of this cluster and not in the group kafka_controllers any" in said
    said = refusal(running(), separate(), SIX, CHOSEN, (), [*CONTROLLERS, "three"])
    assert "three is broker in this cluster, and the groups kafka and kafka_controllers make it contr" in said
    assert "one is" not in said


@pytest.mark.parametrize("lost", ["one", "c5"])
def test_one_lost_node_of_a_separate_cluster_is_replaced_alone(lost: str) -> None:
    nodes = {**running(), lost: node()}
    known = kafka_cluster(nodes, separate(), SIX, CHOSEN, [lost], CONTROLLERS)
    one = separate()["brokers"][lost]
    assert known["brokers"][lost] == {**one, "log_id": "", "founder": False, "formatted": False}
    assert known["cluster_id"] == CLUSTER


@pytest.mark.parametrize("lost", [THREE, CONTROLLERS[:2]], ids=["all brokers", "the majority"])
def test_part_that_is_lost_does_not_begin_anew_beside_the_other(lost: list[str]) -> None:
    nodes = {**running(), **{host: node(started=True) for host in lost}}
    said = refusal(nodes, separate(), SIX, CHOSEN, SIX, CONTROLLERS)
    others = ", ".join(host for host in SIX if host not in lost)
    assert (
        f"The logs of {', '.join(lost)} are lost, and without them those of {others} are of no use." in said
    )
    assert "`systemctl stop kafka` and move" in said
    # While a volume may only have to be mounted, nobody is told to move anything away.
    said = refusal(nodes, separate(), SIX, CHOSEN, (), CONTROLLERS)
    assert "findmnt" in said
    assert "move" not in said


def test_where_all_is_lost_a_restore_may_begin_with_separate_controllers() -> None:
    nodes = {host: node(memory=log(number), started=True) for number, host in enumerate(THREE, 1)}
    nodes |= {host: node() for host in CONTROLLERS}
    known = kafka_cluster(nodes, remembered(*THREE), SIX, CHOSEN, SIX, CONTROLLERS)
    assert known["cluster_id"] != CLUSTER
    assert [host for host, one in known["brokers"].items() if one["founder"]] == CONTROLLERS
    assert [one["node_id"] for one in known["brokers"].values()] == [1, 2, 3, 4, 5, 6]
