"""A cluster that grows from two nodes, loses any of them in every way, and shrinks again. The ledgers judge.

The tests run in their order, each on what the one before has left; the first begins with small.yml.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from disturbed import break_play_off, failures, run, until
from faults import ANSWER_SECONDS, BEHIND, GONE, PROXY, UNAVAILABLE
from ledgers import Ledger
from nodes import (
    COMMAND,
    KAFKA,
    NGINX,
    QUERY,
    Nodes,
    frozen,
    kill,
    main_process,
    output,
    power_cut,
)
from planned import HEALTHY_SECONDS, Recorded, recorded
from report import Seen

from cli.inventory import Host, read_service

# While one node is away, or one broker moves its records.
AWAY_SECONDS = 20.0
STEP_SECONDS = 600.0
# As long as a POST waits for a failover (timestamp_command_acknowledge_seconds), and a little.
FAILOVER_SECONDS = 16.0
# Records a second: seven machines, and who judges them, share this computer.
RATE = 60.0
GROWN = {"kafka": ["db1", "db2", "db3"], "postgresql": ["db1", "db2"], "web": ["web1", "web2"]}
ADDRESSES = {"db1": 11, "db2": 12, "db3": 13, "db4": 14, "web1": 21, "web2": 22}
MOVED = ["10.77.4.101", "10.77.4.102"]
CLOSED = frozenset({"closed"})
# What is under way at an address while it moves.
UNDER_WAY = GONE | PROXY
QUORUM = (
    "/opt/kafka/current/bin/kafka-metadata-quorum.sh --bootstrap-server=$(hostname -I | cut -d ' ' -f 1):9092"
    " --command-config=/etc/kafka/admin.properties describe"
)
TOPICS = QUORUM.replace("kafka-metadata-quorum", "kafka-topics").replace(" describe", " --describe")


@pytest.fixture(scope="module")
def seen() -> list[Seen]:
    """Give the lines of the report so far."""
    return []


@pytest.fixture(scope="module", autouse=True)
def _of_a_cluster(inventory: str) -> None:
    if Path(inventory).name != "small.yml":
        pytest.skip("needs nodes that may become a cluster: make test-cluster")


def grown(small: str, groups: dict[str, list[str]]) -> Nodes:
    """Return the nodes of an inventory beside the small one that has more hosts; they need not be there."""
    content: Any = yaml.safe_load(Path(small).read_text())
    path = Path(small).with_name("grown.yml")
    content["all"]["vars"]["virtual_address_addresses"] = MOVED
    nodes = content["nodes"]
    for group, names in groups.items():
        hosts = {f"{name}.clustered.internal": None for name in names}
        nodes["children"][group]["hosts"] = hosts
        nodes["hosts"] |= {
            host: {"node_address": f"10.77.4.{ADDRESSES[host.partition('.')[0]]}"} for host in hosts
        }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return Nodes(read_service(str(path)), str(path))


@pytest.fixture
def cluster(inventory: str) -> Nodes:
    """Give the five nodes, which test_growth has made."""
    return grown(inventory, GROWN)


def brokers(nodes: Nodes) -> list[Host]:
    return [node for node in nodes.service.nodes if "kafka" in node.groups]


def voters(nodes: Nodes) -> set[int]:
    """Return the numbers of the controllers that vote."""
    lines = output(brokers(nodes)[0], f"{QUORUM} --replication").splitlines()
    return {int(line.split()[0]) for line in lines if line.split()[-1] in ("Leader", "Follower")}


def controller(nodes: Nodes) -> Host:
    """Return the broker that is the active controller."""
    status = output(brokers(nodes)[0], f"{QUORUM} --status")
    number = next(line.split()[-1] for line in status.splitlines() if line.startswith("LeaderId"))
    return next(
        node
        for node in brokers(nodes)
        if output(node, "sed -n 's/^node.id=//p' /etc/kafka/server.properties") == number
    )


def another(nodes: Nodes) -> Host:
    """Return a broker that is not the active controller, nor on the node of the database."""
    active = controller(nodes)
    return next(node for node in brokers(nodes) if node not in (active, nodes.db))


def replicas(nodes: Nodes) -> set[tuple[str, ...]]:
    """Return the brokers of each partition, in the order of their numbers; every one of them is in sync."""
    found = set()
    for line in output(brokers(nodes)[0], TOPICS).splitlines():
        words = line.split()
        if "Isr:" in words:
            held, in_sync = (
                sorted(words[words.index(name) + 1].split(",")) for name in ("Replicas:", "Isr:")
            )
            assert held == in_sync, line
            found.add(tuple(held))
    return found


def test_growth(nodes: Nodes, inventory: str, tmp_path: Path, seen: list[Seen]) -> None:
    before = [main_process(nodes.db, unit) for unit in (KAFKA, nodes.postgresql)]
    more = grown(inventory, GROWN)
    more.play("playbooks/local_up.yml")
    with recorded(nodes, "from two nodes to five", tmp_path, seen, rate=RATE) as work:
        break_play_off(more.inventory, lambda: len(voters(nodes)) > 1, STEP_SECONDS, "site.yml")
        more.play("site.yml")
    # nginx takes other settings, and ends the connections that its clients keep: one may send just then.
    work.check(post=CLOSED, get=CLOSED)
    more = grown(inventory, GROWN)
    assert voters(more) == {1, 2, 3}
    assert replicas(more) == {("1", "2", "3")}
    # Nothing that ran has restarted.
    assert [main_process(nodes.db, unit) for unit in (KAFKA, nodes.postgresql)] == before
    assert "changed=0" in more.play("site.yml")


def test_rolling_restart(cluster: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    before = [main_process(node, KAFKA) for node in brokers(cluster)]
    with recorded(cluster, "another setting of all brokers", tmp_path, seen, rate=RATE) as work:
        cluster.play("site.yml", "--tags=kafka", "--extra-vars=kafka_restart_seconds=3")
    work.check()
    assert not set(before) & {main_process(node, KAFKA) for node in brokers(cluster)}


@contextmanager
def killed(node: Host, unit: str) -> Iterator[None]:
    """Kill a unit, which systemd starts again."""
    kill(node, unit)
    yield


@contextmanager
def cut(node: Host, _unit: str) -> Iterator[None]:
    """Drop all packets from and to a node but those of ssh."""
    rule, ours = "add rule inet breakage", "lo tcp"
    run(
        node,
        "nft 'add table inet breakage;"
        " add chain inet breakage input { type filter hook input priority -10; };"
        " add chain inet breakage output { type filter hook output priority -10; };"
        f" {rule} input iifname != {ours} dport != 22 drop;"
        f" {rule} output oifname != {ours} sport != 22 drop'",
    )
    try:
        yield
    finally:
        run(node, "nft delete table inet breakage")


Fault = Callable[[Host, str], AbstractContextManager[None]]


@pytest.mark.parametrize("fault", [killed, frozen, cut])
@pytest.mark.parametrize("chosen", [another, controller], ids=["a broker", "the active controller"])
def test_broker(
    cluster: Nodes, tmp_path: Path, seen: list[Seen], fault: Fault, chosen: Callable[[Nodes], Host]
) -> None:
    name = f"{fault.__name__}: {'the active controller' if chosen is controller else 'a broker'}"
    node = chosen(cluster)
    with recorded(cluster, name, tmp_path, seen, rate=RATE) as work, fault(node, KAFKA):
        go_on(work)
    work.check()


def go_on(work: Recorded) -> None:
    """Wait until so much is recorded as in AWAY_SECONDS."""
    count = work.pair.acknowledged()
    assert until(lambda: work.pair.acknowledged() > count + RATE * AWAY_SECONDS, STEP_SECONDS)


def databases(nodes: Nodes) -> list[Host]:
    """Return the hosts with PostgreSQL."""
    return [node for node in nodes.service.nodes if "postgresql" in node.groups]


@pytest.mark.parametrize("fault", [killed, frozen, cut])
@pytest.mark.parametrize("number", [0, 1], ids=["the first database", "the second database"])
def test_database(cluster: Nodes, tmp_path: Path, seen: list[Seen], fault: Fault, number: int) -> None:
    node = databases(cluster)[number]
    name = f"{fault.__name__}: {node.short_name}, with PostgreSQL"
    with recorded(cluster, name, tmp_path, seen, rate=RATE) as work, fault(node, node.postgresql_unit):
        go_on(work)
    work.check()


def test_database_emptied_by_mistake_and_database_lost(
    cluster: Nodes, tmp_path: Path, seen: list[Seen]
) -> None:
    """The first is lost, with its disk; then the second is emptied."""
    first, second = databases(cluster)
    rebuild = "playbooks/rebuild.yml"
    with recorded(cluster, "the disk of a database is lost, rebuild.yml", tmp_path, seen, rate=RATE) as work:
        unit = first.postgresql_unit
        run(first, f"systemctl kill --signal=KILL {unit}; find /var/lib/postgresql -mindepth 1 -delete")
        go_on(work)
        cluster.play(rebuild, f"--extra-vars=database_node={first.short_name}")
    work.check()
    with recorded(cluster, "a database is emptied, rebuild.yml", tmp_path / "2", seen, rate=RATE) as work:
        run(second, "runuser -u postgres -- psql -XAqc 'TRUNCATE timestamp_records' timestamps")
        go_on(work)
        found = [check.fix for check in failures(cluster.service)]
        assert any(f"make rebuild HOST={second.short_name}" in fix for fix in found), found
        cluster.play(rebuild, f"--extra-vars=database_node={second.short_name}")
    work.check()


@pytest.mark.parametrize("fault", [killed, frozen])
@pytest.mark.parametrize("unit", [COMMAND, QUERY, NGINX])
def test_process_of_a_web_node(
    cluster: Nodes, tmp_path: Path, seen: list[Seen], fault: Fault, unit: str
) -> None:
    name = f"{fault.__name__}: {unit} of the web node whose address is used"
    with recorded(cluster, name, tmp_path, seen, rate=RATE) as work, fault(cluster.web, unit):
        go_on(work)
    work.check(post=UNDER_WAY, get=UNDER_WAY)


def test_web_node_without_power(cluster: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    with recorded(
        cluster, "the web node whose address is used has no power", tmp_path, seen, rate=RATE
    ) as work:
        power_cut(cluster, cluster.web)
        go_on(work)
    # Its consumers are missed by their groups only after the session timeout.
    work.check(post=UNDER_WAY, get=UNDER_WAY | BEHIND)


def test_reboot_of_each_node(cluster: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    with recorded(cluster, "reboot of each node in turn", tmp_path, seen, rate=RATE) as work:
        cluster.play("playbooks/reboot.yml", "--extra-vars=reboot_always=true")
    # Its consumers keep their place in the group for the session timeout (they are static members).
    work.check(post=UNDER_WAY, get=UNDER_WAY | BEHIND)


def test_two_of_three_brokers_away(cluster: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    """Those who ask while a failover may yet come wait for it; later ones are told at once."""
    name = "cut: two of three brokers"
    with recorded(cluster, name, tmp_path, seen, rate=RATE) as work:
        with ExitStack() as cuts:
            for node in brokers(cluster)[1:]:
                cuts.enter_context(cut(node, KAFKA))
            time.sleep(2 * FAILOVER_SECONDS)
            later = Ledger.start(cluster.service, tmp_path / "later", 5.0)
            time.sleep(AWAY_SECONDS)
            summary = later.stop()["post"]
        go_on(work)
    assert set(summary["errors"]) == UNAVAILABLE
    assert summary["slowest_seconds"] < ANSWER_SECONDS
    work.check(post=UNAVAILABLE)
    for summary in work.pair.summaries:
        assert summary["post"]["slowest_seconds"] < FAILOVER_SECONDS


def test_whole_cluster_without_power(cluster: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    name = "the whole cluster has no power"
    with recorded(cluster, name, tmp_path, seen, rate=RATE) as work:
        power_cut(cluster, *cluster.service.nodes)
        go_on(work)
    work.check(post=UNDER_WAY, get=UNDER_WAY | BEHIND)


def test_gate_is_closed_while_a_broker_is_away(cluster: Nodes) -> None:
    node = another(cluster)
    run(node, f"systemctl stop {KAFKA}")
    try:
        others = [other.name for other in brokers(cluster) if other != node]
        done = cluster.try_play(
            *("site.yml", "--tags=kafka", f"--limit={others[0]},localhost"),
            *("--extra-vars=kafka_restart_seconds=4", "--extra-vars=kafka_ready_seconds=20"),
        )
        assert done.returncode != 0
        assert "is away" in done.stdout
    finally:
        run(node, f"systemctl start {KAFKA}")
    assert until(lambda: not failures(cluster.service), HEALTHY_SECONDS)
    cluster.play("site.yml", "--tags=kafka")


def test_lost_log(cluster: Nodes, tmp_path: Path, seen: list[Seen]) -> None:
    node = another(cluster)
    run(node, f"systemctl stop {KAFKA}; find /var/lib/kafka -mindepth 1 -delete")
    done = cluster.try_play("site.yml", "--tags=kafka")
    assert "the log of this broker is absent from its folder" in done.stdout
    name = "the log of a broker is lost, replace.yml"
    with recorded(cluster, name, tmp_path, seen, healthy=False, rate=RATE) as work:
        cluster.play("playbooks/replace.yml", f"--extra-vars=replace_node={node.name}")
    work.check()
    assert voters(cluster) == {1, 2, 3}
    assert replicas(cluster) == {("1", "2", "3")}


def test_removal(cluster: Nodes, inventory: str, tmp_path: Path, seen: list[Seen]) -> None:
    refused = cluster.try_play("playbooks/remove.yml", "--extra-vars=remove_node=db3.clustered.internal")
    assert "only where three remain" in refused.stdout
    four = grown(inventory, {**GROWN, "kafka": [*GROWN["kafka"], "db4"]})
    four.play("playbooks/local_up.yml")
    with recorded(cluster, "a fourth broker, and its removal", tmp_path, seen, rate=RATE) as work:
        four.play("site.yml")
        assert voters(four) == {1, 2, 3, 4}
        assert len(replicas(four)) > 1
        four.play("playbooks/remove.yml", "--extra-vars=remove_node=db4.clustered.internal")
    work.check()
    assert voters(cluster) == {1, 2, 3}
    assert replicas(cluster) == {("1", "2", "3")}
    grown(inventory, GROWN)
    assert "changed=0" in cluster.play("site.yml", "--tags=kafka")
