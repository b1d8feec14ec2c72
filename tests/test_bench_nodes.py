"""How the benchmark of the nodes finds their processes on this computer, and shows what it measured."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from bench import apis, nodes, report, usage, wrk
from bench.nodes import NodesError
from bench.report import Sample
from cli.inventory import Host, Service

SAID = """\
pid:[4026532183]
MainPID=2110
Id=nginx.service

MainPID=0
Id=timestamp-query.service
"""


def process(proc: Path, pid: int, namespace: str, ids: str) -> None:
    """Write what proc(5) shows of a process."""
    folder = proc / str(pid)
    (folder / "ns").mkdir(parents=True)
    (folder / "ns/pid").symlink_to(namespace)
    (folder / "status").write_text(f"Name:\tx\nNSpid:\t{ids}\nVmPeak:\t1 kB\n")


def service(*hosts: Host) -> Service:
    return Service("https://10.0.0.2", Path("ca.crt"), Path("secrets"), Path("state"), hosts)


def db(number: int) -> Host:
    units = ("kafka.service", "postgresql@17-main.service")
    return Host(f"db{number}.x", frozenset(("kafka", "postgresql")), ("ssh",), units=units)


def web(number: int) -> Host:
    processes = ("command", "query", "consumer", "consumer-db2")
    ours = [f"timestamp-{name}.{kind}" for name in processes for kind in ("service", "socket")]
    units = ("nginx.service", "nginx-logrotate.timer", "keepalived.service", *ours)
    return Host(f"web{number}.x", frozenset(("web",)), ("ssh",), units=units)


def test_what_a_node_said_is_read() -> None:
    namespace, main = nodes.running(SAID)
    assert namespace == "pid:[4026532183]"
    assert main == {"nginx.service": 2110, "timestamp-query.service": 0}


def test_processes_of_a_namespace_are_found_by_their_ids_in_it(tmp_path: Path) -> None:
    process(tmp_path, 100, "pid:[1]", "100")
    process(tmp_path, 700, "pid:[2]", "700\t1")
    process(tmp_path, 733, "pid:[2]", "733\t44")
    # Its id in there is that of another one here.
    process(tmp_path, 800, "pid:[3]", "800\t44")
    (tmp_path / "900").mkdir()
    (tmp_path / "version").write_text("")
    assert nodes.here("pid:[2]", tmp_path) == {1: 700, 44: 733}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, int]]:
    """Nodes that answer, and the ids that their processes have here, by node: the first 5 is 105, 205, …"""
    ids: dict[str, dict[int, int]] = {}

    def ask(node: Host, units: list[str]) -> str:
        ids.setdefault(node.name, {own: own + 100 * len(ids) + 100 for own in range(5, 5 + len(units))})
        blocks = "\n".join(f"MainPID={number}\nId={unit}\n" for number, unit in enumerate(units, 5))
        return f"{node.name}\n{blocks}"

    monkeypatch.setattr(nodes, "_ask", ask)
    monkeypatch.setattr(nodes, "here", ids.__getitem__)
    return ids


@pytest.mark.usefixtures("answers")
def test_processes_of_one_node_of_each_kind_have_their_names() -> None:
    direct, proxied = nodes.targets(service(db(1), web(1)))
    assert direct.processes == proxied.processes
    assert list(direct.processes.items()) == [
        ("nginx", (205,)),
        ("command", (206,)),
        ("query", (207,)),
        ("consumer", (208, 209)),
        ("broker", (105,)),
        ("journal", (210,)),
        ("database", (106,)),
    ]


@pytest.mark.usefixtures("answers")
def test_processes_of_a_kind_are_those_of_all_nodes() -> None:
    direct, _ = nodes.targets(service(db(1), db(2), db(3), web(1), web(2)))
    assert direct.processes["broker"] == (105, 205, 305)
    assert direct.processes["database"] == (106, 206, 306)
    assert direct.processes["consumer"] == (408, 409, 508, 509)
    assert direct.processes["nginx"] == (405, 505)
    assert direct.processes["journal"] == (410, 510)


def test_node_that_does_not_run_here_is_refused(answers: dict[str, dict[int, int]]) -> None:
    answers["db2.x"] = {}
    with pytest.raises(NodesError, match=r"db2: kafka.service, postgresql@17-main.service: no such process"):
        nodes.targets(service(db(1), db(2), web(1)))


@pytest.mark.usefixtures("answers")
def test_service_is_reached_directly_and_through_nginx() -> None:
    direct, proxied = nodes.targets(service(db(1), web(1)))
    assert (direct.command, direct.query) == ("http://127.0.0.1:7080", "http://127.0.0.1:7082")
    assert (proxied.command, proxied.query) == ("https://10.0.0.2", "https://10.0.0.2")
    assert (direct.authority, proxied.authority) == (None, "ca.crt")


def test_network_that_is_not_entered_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "5/ns").mkdir(parents=True)
    (tmp_path / "5/ns/net").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        nodes.enter_network(5, tmp_path)


def test_cpu_time_is_that_of_all_processes_and_their_children(tmp_path: Path) -> None:
    counted(tmp_path, 100, "0 0 0 0", "101")
    # Its name may hold blanks and brackets; it has waited for children that used 3 and 4 ticks.
    counted(tmp_path, 101, "1 2 3 4", "")
    # It ends meanwhile.
    counted(tmp_path, 200, "10 20 0 0", "201")
    assert usage.cpu_seconds(100, 200, proc=tmp_path) == pytest.approx(40 / os.sysconf("SC_CLK_TCK"))


def counted(proc: Path, pid: int, ticks: str, children: str) -> None:
    """Write what proc(5) says of the CPU time of a process: user, system, and those of its past children."""
    task = proc / f"{pid}/task/{pid}"
    task.mkdir(parents=True)
    (task / "children").write_text(f"{children} ")
    fields = f"S 1 1 1 0 -1 4194560 77 88 0 0 {ticks} 20 0 1 0 9 9 9"
    (proc / str(pid) / "stat").write_text(f"{pid} (postgres: a) b) {fields}")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was sent to whom over how many connections; the bare application's rate is that of its round.

    Each load makes 100 requests; each costs process 1 20 µs, processes 2 and 3 30 µs.
    """
    sent: list[tuple[str, int]] = []
    seconds: dict[int, float] = defaultdict(float)

    def run(url: str, _load: wrk.Load, connections: int, _seconds: float) -> wrk.Answered:
        sent.append((url, connections))
        for pid in (1,) if url == "bare" else (2, 3):
            seconds[pid] += 100 * (20e-6 if pid == 1 else 30e-6)
        # Twice as fast in each round.
        rate = 100.0 * connections * 2 ** sum(one == (url, connections) for one in sent)
        return wrk.Answered(100, 100 / rate, 0, 1.0, 2.0)

    monkeypatch.setattr(wrk, "run", run)
    monkeypatch.setattr(usage, "cpu_seconds", lambda *pids: sum(seconds[pid] for pid in pids))
    return sent


def test_each_round_has_its_ruler_and_the_order_of_targets_alternates(
    measured: list[tuple[str, int]],
) -> None:
    load = wrk.Load("POST", Path("paths"))
    targets = [apis.Target(name, name, f"{name}-query", {"broker": (2, 3)}) for name in ("a", "b")]
    loads = apis.Loads(load, load, {"a": load, "b": load})
    bare = apis.Target("bare", "bare", "bare", {"bare": (1,)})
    samples = list(apis.rounds(targets, loads, bare, None, 2, 4, (64, 1)))
    warm_up, a_round = [("a", 64), ("a", 256), ("b", 64), ("b", 256)], [("bare", 64), ("bare", 1)]
    ways = {name: [(name, 64), (name, 1), (f"{name}-query", 64)] for name in "ab"}
    assert measured == [
        *warm_up,
        *a_round,
        *(ways["b"] + ways["a"]),
        *a_round,
        *(ways["a"] + ways["b"]),
        *a_round,
        *(ways["b"] + ways["a"]),
    ]
    # The first round only warms up; in the two others the ruler makes 400 and 800 requests a connection.
    for row, connections in (("POST, 1 @ a", 1), ("POST, 64 @ b", 64), ("GET by id, 64 @ b", 64)):
        rounds = [sample for sample in samples if sample.row == row]
        assert [sample.ruler for sample in rounds] == pytest.approx([400 * connections, 800 * connections])
        for sample in rounds:
            assert sample.cpu == pytest.approx({"broker": 60})
            assert sample.ruler_cpu == pytest.approx(20)


def test_table_has_the_medians_of_ratios_within_rounds_and_what_all_processes_use_together() -> None:
    rounds = [
        Sample("POST", "req/s", 100.0, 200.0, cpu={"nginx": 20.0, "broker": 40.0}, ruler_cpu=30.0),
        Sample("POST", "req/s", 300.0, 1200.0, cpu={"nginx": 10.0, "broker": 40.0}, ruler_cpu=10.0),
        Sample("POST", "req/s", 300.0, 100.0, cpu={"nginx": 30.0, "broker": 60.0}, ruler_cpu=10.0),
    ]
    line = report.table(rounds).splitlines()[1]
    assert "req/s    0.50 (0.25-3.00)" in line
    assert line.endswith(" 60  5.00 (2.00-9.00)  nginx 20, broker 40")


def rows(ended: list[str], end: BaseException | None = None) -> Generator[Sample, None, None]:
    try:
        yield Sample("GET", "req/s", 100.0, 200.0, cpu={"nginx": 20.0})
        if end is not None:
            raise end
        yield Sample("GET", "req/s", 300.0, 200.0, cpu={"nginx": 40.0}, failed=2)
    finally:
        ended.append("put away")


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """What a test changes of this process is put back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_table_has_median_range_ratio_cpu_and_failures(capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[str] = []
    report.show(rows(ended))
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split() == [
        *("GET", "200", "100", "300", "req/s", "1.00", "(0.50-1.50)", "30"),
        *("nginx", "30", "FAILED:", "2"),
    ]
    assert ended == ["put away"]


def test_interrupted_while_it_measures_it_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[str] = []
    with pytest.raises(SystemExit) as left:
        report.show(rows(ended, KeyboardInterrupt()))
    assert left.value.code == 130
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["GET", "100"]
    assert ended == ["put away"]


def test_interrupted_while_it_shows_a_row_it_puts_everything_away_before_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []

    def table(_samples: list[Sample]) -> str:
        ended.append("table")
        return ""

    def interrupted(*_: object, **__: object) -> None:
        monkeypatch.setattr("builtins.print", lambda *_, **__: None)
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "table", table)
    monkeypatch.setattr("builtins.print", interrupted)
    with pytest.raises(SystemExit):
        report.show(rows(ended))
    assert ended == ["put away", "table"]
