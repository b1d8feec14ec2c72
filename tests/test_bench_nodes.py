"""How the benchmark of nginx finds the nodes' processes on this computer, and shows what it measured."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from bench import nodes, proxying, report
from bench.nodes import Nodes, NodesError
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


DB = Host(
    "db.x",
    frozenset(("kafka", "postgresql")),
    ("ssh",),
    units=("kafka.service", "postgresql@15-main.service"),
)
WEB = Host(
    "web.x", frozenset(("web",)), ("ssh",), units=("nginx.service", "timestamp-query.service", "a.socket")
)


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
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, int]]:
    """Nodes that answer, and the ids that their processes have here, by namespace."""
    ids = {"pid:[1]": {5: 105, 6: 106}, "pid:[2]": {5: 205, 6: 206, 7: 207}}

    def ask(node: Host, units: list[str]) -> str:
        blocks = "\n".join(f"MainPID={number}\nId={unit}\n" for number, unit in enumerate(units, 5))
        return f"{'pid:[1]' if node is DB else 'pid:[2]'}\n{blocks}"

    monkeypatch.setattr(nodes, "_ask", ask)
    monkeypatch.setattr(nodes, "here", ids.__getitem__)
    return ids


@pytest.mark.usefixtures("two_nodes")
def test_each_process_has_its_name_and_the_network_is_that_of_the_web_node() -> None:
    located = nodes.find(service(DB, WEB))
    assert located.processes == {"nginx": 205, "query": 206, "broker": 105, "journal": 207, "database": 106}
    assert located.within == ("nsenter", "--net=/proc/205/ns/net", "--")


def test_node_that_does_not_run_here_is_refused(two_nodes: dict[str, dict[int, int]]) -> None:
    two_nodes["pid:[1]"] = {}
    with pytest.raises(NodesError, match=r"db: kafka.service, postgresql@15-main.service: no such process"):
        nodes.find(service(DB, WEB))


def test_both_ways_are_reached_and_watched_alike() -> None:
    direct, proxied = proxying.targets(service(DB, WEB), Nodes((), {"nginx": 1}))
    assert (direct.command, direct.query) == ("http://127.0.0.1:7080", "http://127.0.0.1:7082")
    assert (proxied.command, proxied.query) == ("https://10.0.0.2", "https://10.0.0.2")
    assert direct.processes == proxied.processes == {"nginx": 1}


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
    assert line.split() == ["GET", "200", "100", "300", "req/s", "1.00", "nginx", "30", "FAILED:", "2"]
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
