"""The parts of role local_node that need no machine: what is read, decided and written."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nspawn_nodes
import pytest
from conftest import RunModule, load_module
from nspawn_nodes import cgroups, contents, machines, network, root_image, spec, states, system
from nspawn_nodes.spec import Node, Spec, faults
from nspawn_nodes.system import NodeError

MakeSpec = Callable[..., Spec]


def node(name: str, address: str, folder: Path = Path("/nowhere")) -> Node:
    return Node(f"{name}.test.internal", f"t-{name}", address, folder / f"t-{name}")


@pytest.fixture
def make_spec(tmp_path: Path) -> MakeSpec:
    def make(**changes: object) -> Spec:
        state_folder = tmp_path / "state"
        values: dict[str, object] = {
            "nodes": (node("db", "10.9.0.11", state_folder), node("web", "10.9.0.12", state_folder)),
            "state_folder": state_folder,
            "cache_folder": tmp_path / "cache",
            "ssh_folder": tmp_path / "secrets/ssh",
            "work_tree": tmp_path / "tree",
            "role_folder": Path(__file__).parents[1] / "roles/local_node",
            "bridge": "ts-test-none",
            "gateway": ipaddress.IPv4Interface("10.9.0.1/24"),
            "suite": "bookworm",
            "mirror": "",
            "packages": ("systemd",),
            "nameservers": (),
            "certificate_authorities_folder": tmp_path / "authorities",
            "wait_seconds": 1.0,
            "force": False,
        }
        return Spec(**{**values, **changes})  # type: ignore[arg-type]

    return make


class TestSpec:
    def test_a_good_one_has_no_fault(self, make_spec: MakeSpec) -> None:
        assert faults(make_spec()) == []

    @pytest.mark.parametrize(
        ("nodes", "fault"),
        [
            ((node("a", "10.8.0.1"),), "outside 10.9.0.0/24"),
            ((node("a", "10.9.0.1"),), "is the gateway's"),
            ((node("averylongname", "10.9.0.5"),), "longer than 12"),
            ((node("a", "10.9.0.5"), node("b", "10.9.0.5")), "share the address 10.9.0.5"),
            ((node("a", "10.9.0.5"), node("a", "10.9.0.6")), "share the machine name t-a"),
        ],
    )
    def test_what_cannot_work_is_named(
        self, make_spec: MakeSpec, nodes: tuple[Node, ...], fault: str
    ) -> None:
        assert fault in " ".join(faults(make_spec(nodes=nodes)))

    def test_the_lock_outlives_the_state_folder(self, make_spec: MakeSpec) -> None:
        spec = make_spec()
        assert not spec.lock_file.is_relative_to(spec.state_folder)


class TestContents:
    def test_resolver_takes_the_first_text_with_a_server_that_nodes_reach(self) -> None:
        stub = "nameserver 127.0.0.53\noptions edns0\n"
        real = "# made by resolved\nnameserver 192.0.2.53\nsearch example.net\n"
        assert contents.resolver([stub, real]) == "search example.net\nnameserver 192.0.2.53\n"

    def test_resolver_leaves_loopback_servers_out(self) -> None:
        text = "nameserver 127.0.0.1\nnameserver ::1\nnameserver 192.0.2.1\n"
        assert contents.resolver([text]) == "nameserver 192.0.2.1\n"

    def test_resolver_takes_no_server_by_ipv6(self) -> None:
        mixed = "nameserver 2001:db8::53\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\n"
        assert contents.resolver([mixed]) == "nameserver 192.0.2.1\n"
        only = "nameserver 2001:db8::53\n"
        assert contents.resolver([only, "nameserver 192.0.2.2\n"]) == "nameserver 192.0.2.2\n"
        with pytest.raises(NodeError, match=r"\(2001:db8::53\): they need one with an IPv4 address"):
            contents.resolver([only])

    def test_resolver_without_a_usable_server_names_the_variable(self) -> None:
        with pytest.raises(NodeError, match="local_node_nameservers"):
            contents.resolver(["nameserver 127.0.0.53\n", None])

    def test_network_unit_has_address_gateway_and_packet_size(self) -> None:
        text = contents.network_unit(
            node("db", "10.9.0.11"), ipaddress.IPv4Interface("10.9.0.1/20"), packet_size=1400
        )
        assert {"Address=10.9.0.11/20", "Gateway=10.9.0.1", "MTUBytes=1400"} <= set(text.splitlines())

    def test_hosts_names_every_node_in_full_and_in_short(self) -> None:
        text = contents.hosts([node("db", "10.9.0.11"), node("web", "10.9.0.12")])
        assert "10.9.0.11 db.test.internal db\n10.9.0.12 web.test.internal web\n" in text

    def test_known_hosts_has_type_and_key_without_the_comment(self) -> None:
        text = contents.known_hosts([(node("db", "10.9.0.11"), "ssh-ed25519 AAAA db.test.internal\n")])
        assert text == "10.9.0.11,db.test.internal,t-db ssh-ed25519 AAAA\n"

    def test_key_pair_is_made_once_and_a_lost_half_is_made_again(self, make_spec: MakeSpec) -> None:
        spec = make_spec()
        first = contents.user_key(spec)
        private = spec.ssh_folder / "id_ed25519"
        assert private.stat().st_mode & 0o777 == 0o600
        assert spec.ssh_folder.stat().st_mode & 0o777 == 0o700
        (spec.ssh_folder / "id_ed25519.pub").unlink()
        assert contents.user_key(spec).split()[:2] == first.split()[:2]
        private.unlink()
        assert contents.user_key(spec).split()[1] != first.split()[1]


class TestNetwork:
    ROUTES = json.loads(
        '[{"dst":"default","gateway":"192.0.2.1","dev":"wlan0","metric":600},'
        '{"dst":"default","gateway":"192.0.2.1","dev":"eth0","metric":100},'
        '{"dst":"10.9.0.0/16","dev":"tun0"},{"dst":"10.7.0.1","dev":"ts-test"},{"dst":"192.0.2.0/24","dev":"eth0"}]'
    )

    def test_default_device_is_that_of_the_lowest_metric(self) -> None:
        assert network.default_device(self.ROUTES) == "eth0"

    def test_without_a_default_route_there_is_no_default_device(self) -> None:
        assert network.default_device(self.ROUTES[2:]) is None

    @pytest.mark.parametrize(
        ("wanted", "route"),
        [("10.9.3.0/24", "10.9.0.0/16 by tun0"), ("10.7.0.0/24", None), ("10.8.0.0/24", None)],
    )
    def test_conflict_is_a_route_of_another_device(self, wanted: str, route: str | None) -> None:
        assert network.conflict(self.ROUTES, "ts-test", ipaddress.IPv4Network(wanted)) == route

    def test_ruleset_replaces_the_table_and_hides_the_nodes_outside_alone(self) -> None:
        text = network.ruleset("ts-test", ipaddress.IPv4Network("10.9.0.0/24"))
        assert text.index("delete table ip timestamp_service_ts_test") < text.index("postrouting")
        assert 'ip saddr 10.9.0.0/24 oifname != "ts-test" masquerade' in text

    def test_dropping_chains_are_those_of_the_forward_hook_with_policy_drop(self) -> None:
        def chain(name: str, **values: str) -> dict[str, object]:
            return {"chain": {"family": "ip", "table": "filter", "name": name, **values}}

        listing = {
            "nftables": [
                {"metainfo": {}},
                chain("FORWARD", hook="forward", policy="drop"),
                chain("INPUT", hook="input", policy="drop"),
                chain("other", hook="forward", policy="accept"),
                chain("DOCKER-USER"),
            ]
        }
        assert network.dropping_chains(listing) == [("ip", "filter", "FORWARD")]

    def test_only_rules_about_our_bridge_are_ours(self) -> None:
        def rule(handle: int, key: str, name: str) -> dict[str, object]:
            match = {"op": "==", "left": {"meta": {"key": key}}, "right": name}
            return {"rule": {"handle": handle, "expr": [{"match": match}, {"accept": None}]}}

        listing = {
            "nftables": [
                rule(3, "iifname", "ts-test"),
                rule(4, "oifname", "docker0"),
                rule(5, "oifname", "ts-test"),
                {"rule": {"handle": 6, "expr": [{"return": None}]}},
            ]
        }
        assert network.our_handles(listing, "ts-test") == [3, 5]


class TestCgroups:
    HYBRID = (
        "30 25 0:26 / {top}/memory rw,relatime - cgroup cgroup rw,memory\n"
        "31 25 0:27 / {top}/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n"
        "32 25 0:28 / {top}/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
        "33 25 0:29 / {top}/systemd rw,relatime - cgroup cgroup rw,name=systemd\n"
        "34 25 0:30 / {top}/unified rw,relatime - cgroup2 cgroup2 rw\n"
        "35 25 0:31 / /proc rw - proc proc rw\n"
    )

    def test_every_hierarchy_but_cpuset_has_a_folder(self, tmp_path: Path) -> None:
        for path in ("memory/job", "cpu", "cpuset", "systemd", "unified"):
            (tmp_path / path).mkdir(parents=True)
        mounted = cgroups.hierarchies(self.HYBRID.format(top=tmp_path))
        own = "5:memory:/job\n4:cpu,cpuacct:/\n3:cpuset:/\n2:name=systemd:/\n0::/\n"
        assert cgroups.own_folders(own, mounted) == [
            tmp_path / "memory/job",
            tmp_path / "cpu",
            tmp_path / "systemd",
            tmp_path / "unified",
        ]

    def test_version_2_alone(self, tmp_path: Path) -> None:
        (tmp_path / "user.slice/session").mkdir(parents=True)
        mounted = cgroups.hierarchies(f"30 25 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw,nsdelegate\n")
        assert cgroups.own_folders("0::/user.slice/session\n", mounted) == [tmp_path / "user.slice/session"]

    def test_in_a_container_that_does_not_show_the_group_the_top_is_taken(self, tmp_path: Path) -> None:
        inside = cgroups.hierarchies(f"30 25 0:26 /docker/abc {tmp_path} rw - cgroup cgroup rw,memory\n")
        assert cgroups.own_folders("5:memory:/docker/abc\n", inside) == [tmp_path]
        assert cgroups.own_folders("5:memory:/elsewhere\n", inside) == [tmp_path]

    def test_processes_are_found_in_inner_groups_too(self, tmp_path: Path) -> None:
        (tmp_path / "payload").mkdir()
        (tmp_path / "cgroup.procs").write_text("7\n8\n")
        (tmp_path / "payload/cgroup.procs").write_text("9\n")
        assert cgroups.processes([tmp_path, tmp_path / "missing"]) == {7, 8, 9}

    def test_remove_takes_the_innermost_first_and_leaves_what_is_in_use(self, tmp_path: Path) -> None:
        (tmp_path / "gone/inner/most").mkdir(parents=True)
        (tmp_path / "used/inner").mkdir(parents=True)
        (tmp_path / "used/inner/file").touch()
        cgroups.remove([tmp_path / "gone", tmp_path / "used", tmp_path / "missing"])
        assert [path.name for path in tmp_path.iterdir()] == ["used"]


class TestMachines:
    def test_supervisor_is_known_by_its_whole_command_line(self) -> None:
        line = ["/usr/bin/python3", "-B", *machines.SUPERVISOR, "/state/a", "t-db", "systemd-nspawn"]
        assert machines.is_supervisor(line, Path("/state/a"), "t-db")
        assert not machines.is_supervisor(line, Path("/state/b"), "t-db")
        assert not machines.is_supervisor(line, Path("/state/a"), "t-d")
        assert not machines.is_supervisor(["grep", *line], Path("/state/a"), "t-db")
        assert not machines.is_supervisor([], Path("/state/a"), "t-db")

    def test_nodes_may_enforce_limits_and_keep_their_packages(self, make_spec: MakeSpec) -> None:
        spec = make_spec()
        command = machines.command(spec, spec.nodes[0])
        assert {"--capability=CAP_BPF", "--system-call-filter=bpf", "--register=no", "--keep-unit"} <= set(
            command
        )
        assert f"--bind={spec.cache_folder}/apt/t-db:/var/cache/apt/archives" in command

    def test_units_of_two_state_folders_differ(self) -> None:
        assert machines.unit(node("db", "10.9.0.11", Path("/state/a"))) != machines.unit(
            node("db", "10.9.0.11", Path("/state/b"))
        )


class TestRootImage:
    def test_key_depends_on_all_that_goes_in_but_not_on_the_order(self) -> None:
        def key(**changes: object) -> str:
            values: dict[str, object] = {
                "suite": "bookworm",
                "mirror": "",
                "architecture": "amd64",
                "packages": ["a", "b"],
                "authorities": {"x.crt": "1"},
            }
            return root_image.key(**{**values, **changes})  # type: ignore[arg-type]

        assert key(packages=["b", "a"]) == key()
        others = {
            key(suite="trixie"),
            key(mirror="http://mirror.example"),
            key(architecture="arm64"),
            key(packages=["a"]),
            key(authorities={"x.crt": "2"}),
            key(authorities={}),
        }
        assert len(others) == 6
        assert key() not in others

    def test_an_archive_whose_checksum_does_not_fit_is_not_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "root").mkdir()
        (tmp_path / "bin").mkdir()
        # Stands for mmdebstrap: the archive is its last argument.
        builder = tmp_path / "bin/mmdebstrap"
        builder.write_text('#!/bin/sh\nfor last; do :; done\necho whole | zstd -q -o "$last"\n')
        builder.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        monkeypatch.setattr(root_image, "APART", ())

        def ensure() -> tuple[Path, bool]:
            return root_image.ensure(tmp_path, "bookworm", "", ["systemd"], tmp_path / "none")

        archive, built = ensure()
        assert built
        assert ensure() == (archive, False)
        archive.write_bytes(archive.read_bytes()[:-1])
        assert ensure() == (archive, True)
        archive.with_name(archive.name.replace(".tar.zst", ".sha256")).unlink()
        assert ensure() == (archive, True)
        (tmp_path / "root/partial").mkdir()
        builder.write_text("#!/bin/sh\necho no mirror >&2; exit 1\n")
        archive.unlink()
        with pytest.raises(NodeError, match="no mirror"):
            ensure()
        assert not (tmp_path / "root/partial").exists()


class TestSystem:
    def test_write_says_whether_it_changed_anything_and_replaces_a_link(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        assert system.write(path, "a", 0o600)
        assert path.stat().st_mode & 0o777 == 0o600
        assert not system.write(path, "a")
        assert system.write(path, "b")
        (tmp_path / "link").symlink_to(path)
        assert system.write(tmp_path / "link", "c")
        assert path.read_text() == "b"
        assert not (tmp_path / "link").is_symlink()

    def test_run_says_command_status_and_message(self) -> None:
        with pytest.raises(NodeError, match=r"Exit status 3: sh -c .*\nwhy$"):
            system.run(["sh", "-c", "echo why >&2; exit 3"])
        with pytest.raises(NodeError, match="make setup"):
            system.run(["/no/such/program"])

    def test_mounts_below_are_innermost_first_and_not_those_beside(self) -> None:
        table = "".join(f"1 0 0:1 / {point} rw - x x\n" for point in ("/a", "/a/b", "/a/b/c", "/ab"))
        assert system.mounts_below(Path("/a"), table) == [Path("/a/b/c"), Path("/a/b")]

    def test_a_second_run_waits_and_then_says_who_holds_it(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with (
            system.lock(path, patience=0),
            pytest.raises(NodeError, match="Another run holds"),
            system.lock(path, patience=0),
        ):
            pass
        with system.lock(path, patience=0):
            pass


class TestOwner:
    """A state folder belongs to one work tree. Nothing runs here: the folders are in a temporary place."""

    def own(self, spec: Spec, owner: Path) -> None:
        (spec.state_folder / "kept").mkdir(parents=True)
        (spec.state_folder / "owner").write_text(f"{owner}\n")

    def test_of_another_work_tree_are_left_alone(self, make_spec: MakeSpec, tmp_path: Path) -> None:
        spec = make_spec()
        self.own(spec, tmp_path)
        for action in (states.started, states.stopped, states.absent):
            with pytest.raises(NodeError, match="make down FORCE=1"):
                action(spec, states.Report(check=False))
        assert (spec.state_folder / "kept").exists()

    def test_of_a_work_tree_that_is_gone_can_be_erased_only(
        self, make_spec: MakeSpec, tmp_path: Path
    ) -> None:
        spec = make_spec()
        self.own(spec, tmp_path / "gone")
        with pytest.raises(NodeError, match="which is gone"):
            states.started(spec, states.Report(check=False))
        states.absent(spec, states.Report(check=False))
        assert not spec.state_folder.exists()

    def test_force_erases_those_of_another_work_tree(self, make_spec: MakeSpec, tmp_path: Path) -> None:
        spec = make_spec(force=True)
        self.own(spec, tmp_path)
        report = states.Report(check=False)
        states.absent(spec, report)
        assert report.actions == [f"Erase {spec.state_folder}"]
        assert not spec.state_folder.exists()

    def test_check_mode_erases_nothing_and_says_what_it_would(self, make_spec: MakeSpec) -> None:
        spec = make_spec()
        self.own(spec, spec.work_tree)
        report = states.Report(check=True)
        states.absent(spec, report)
        assert report.actions == [f"Erase {spec.state_folder}"]
        assert (spec.state_folder / "kept").exists()
        assert not spec.lock_file.exists()

    def test_a_folder_that_the_role_did_not_make_is_never_erased(self, make_spec: MakeSpec) -> None:
        spec = make_spec(force=True)
        spec.state_folder.mkdir()
        (spec.state_folder / "thesis.txt").touch()
        with pytest.raises(NodeError, match="left alone"):
            states.absent(spec, states.Report(check=False))
        assert (spec.state_folder / "thesis.txt").exists()


class FakeSystemd:
    """Manages two running machines. `commands` are those that change something."""

    def __init__(self) -> None:
        # How often each unit is asked for, after its stop, until it has ended.
        self.stopping: dict[str, int] = {}
        self.ended: set[str] = set()
        self.asks = 3
        self.commands: list[str] = []

    def run(self, command: Sequence[str], *_: object, **__: object) -> str:
        unit = command[-1]
        if command[1] == "show":
            if unit in self.stopping:
                self.stopping[unit] -= 1
                if self.stopping[unit] <= 0:
                    self.ended.add(unit)
            return "inactive" if unit in self.ended else "active"
        self.commands.append(f"{command[1]} {unit}")
        if command[1] == "kill":
            self.ended.add(unit)
        elif unit not in self.ended:
            self.stopping[unit] = self.asks
        return ""


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    fake = FakeSystemd()
    monkeypatch.setattr(machines, "systemd_manages", lambda: True)
    monkeypatch.setattr(machines, "run", fake.run)
    monkeypatch.setattr(machines, "succeeds", fake.run)
    monkeypatch.setattr(network, "exists", lambda _spec: True)
    monkeypatch.setattr(network, "down", lambda _spec: fake.commands.append("network down"))
    monkeypatch.setattr(network, "remove_cable", lambda *_: None)
    return fake


class TestStop:
    def test_machines_power_off_in_order(self, make_spec: MakeSpec, systemd: FakeSystemd) -> None:
        made, report = make_spec(), states.Report(check=False)
        (made.state_folder / "t-db").mkdir(parents=True)
        states.stopped(made, report)
        units = [machines.unit(one) for one in made.nodes]
        assert systemd.commands == [*(f"stop {unit}" for unit in units), "network down"]
        assert systemd.ended == set(units)
        assert report.actions == [
            *("Power off the machine t-db", "Power off the machine t-web"),
            "Remove the network ts-test-none",
        ]
        assert report.warnings == []
        assert (made.state_folder / "t-db").exists()

    def test_machine_that_does_not_end_is_killed_and_named(
        self, make_spec: MakeSpec, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(states, "POWER_OFF_SECONDS", 0.3)
        systemd.asks = 1000
        made, report = make_spec(), states.Report(check=False)
        states.stopped(made, report)
        assert [command.split()[0] for command in systemd.commands[:3]] == ["stop", "stop", "kill"]
        assert report.warnings == [
            f"{name} did not power off within 0.3 s: it was killed." for name in ("t-db", "t-web")
        ]

    def test_check_mode_stops_nothing_and_says_what_it_would(
        self, make_spec: MakeSpec, systemd: FakeSystemd
    ) -> None:
        would, did = states.Report(check=True), states.Report(check=False)
        states.stopped(make_spec(), would)
        assert systemd.commands == []
        states.stopped(make_spec(), did)
        assert would.actions == did.actions

    def test_supervisor_is_asked_to_end(self, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"
        with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            monkeypatch.setattr(machines, "systemd_manages", lambda: False)
            monkeypatch.setattr(
                machines, "supervisor", lambda *_: process.pid if process.poll() is None else None
            )
            try:
                assert machines.stop(make_spec(), make_spec().nodes[:1], patience=10) == []
                assert process.returncode == 7
            finally:
                process.kill()


class TestModule:
    @pytest.fixture
    def call(
        self, make_spec: MakeSpec, run_module: RunModule, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., dict[str, Any]]:
        """Return a function that runs the module in a state."""
        # Ansible puts the role's module_utils there.
        package = "ansible.module_utils.nspawn_nodes"
        monkeypatch.setitem(sys.modules, package, nspawn_nodes)
        for name, part in (("states", states), ("spec", spec), ("system", system)):
            monkeypatch.setitem(sys.modules, f"{package}.{name}", part)
        module, made = load_module("local_node", "local_node"), make_spec()

        def run(state: str, check_mode: bool = False) -> dict[str, Any]:
            parameters = {
                "state": state,
                "nodes": {"db.test.internal": "10.9.0.11", "web.test.internal": "10.9.0.12"},
                "machine_prefix": "t-",
                "bridge": made.bridge,
                "gateway": "10.9.0.1/24",
                "state_folder": str(made.state_folder),
                "cache_folder": str(made.cache_folder),
                "ssh_folder": str(made.ssh_folder),
                "work_tree": str(made.work_tree),
                "role_folder": str(made.role_folder),
                "suite": "bookworm",
                "packages": ["systemd"],
            }
            return run_module(module, parameters, check_mode)

        return run

    def test_stop_keeps_the_data(
        self, call: Callable[..., dict[str, Any]], make_spec: MakeSpec, systemd: FakeSystemd
    ) -> None:
        kept = make_spec().state_folder / "t-db/root"
        kept.mkdir(parents=True)
        answer = call("stopped")
        assert answer["changed"]
        assert answer["actions"][0] == "Power off the machine t-db"
        assert len(systemd.ended) == 2
        assert kept.exists()

    @pytest.mark.parametrize("state", ["started", "stopped", "absent"])
    def test_check_mode_does_nothing(
        self,
        call: Callable[..., dict[str, Any]],
        make_spec: MakeSpec,
        systemd: FakeSystemd,
        monkeypatch: pytest.MonkeyPatch,
        state: str,
    ) -> None:
        monkeypatch.setattr(network, "is_up", lambda _spec: False)
        (make_spec().state_folder / "t-db").mkdir(parents=True)
        (make_spec().state_folder / "owner").write_text(str(make_spec().work_tree))
        assert call(state, check_mode=True)["changed"]
        assert systemd.commands == []
        assert (make_spec().state_folder / "t-db").exists()

    def test_fault_is_a_failure_with_its_message(
        self, call: Callable[..., dict[str, Any]], make_spec: MakeSpec, tmp_path: Path
    ) -> None:
        make_spec().state_folder.mkdir(parents=True)
        (make_spec().state_folder / "owner").write_text(str(tmp_path))
        answer = call("stopped")
        assert answer["failed"]
        assert "belong to another work tree" in answer["msg"]
