"""What the commands behind the Makefile read, decide and show."""

from __future__ import annotations

import ast
import datetime
import http.server
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cli import __main__ as cli_main
from cli import dashboard, diagnose, down, hints, inventory, logs, status, up
from cli.__main__ import main
from cli.end_to_end import INSTANT, EndToEndError, RoundTrip, send_and_read_back

IDENTIFIER = "01a20c54-e525-77fd-b829-190a7617f88f"


def facts(**changes: object) -> dict[str, object]:
    """Return the variables of one host, as Ansible resolves them."""
    return {
        "groups": ["nodes", "web"],
        "address": "192.0.2.12",
        "host": "192.0.2.12",
        "user": "root",
        "port": "",
        "key": "/keys/id",
        "arguments": "-o UserKnownHostsFile=/keys/known_hosts ",
        "authority": "/secrets/certificates/ca.crt",
        "secrets": "/secrets",
        "state": "/state",
        "firewall": True,
        "postgresql_version": "",
        "url": "",
        "moved": [],
        "watched": "False",
        "canary": "True",
        "dashboard": "",
        "dashboard_client_ca": "",
        "private_authority": "/secrets/certificates/ca.crt",
        "hint": "",
        "become_password": "",
        **changes,
    }


class TestInventory:
    def test_answers_are_read_by_host(self) -> None:
        output = (
            'a.b | SUCCESS => {\n    "msg": {\n        "x": 1\n    }\n}\nc | SUCCESS => {\n    "msg": 2\n}\n'
        )
        assert inventory.answers(output) == {"a.b": {"x": 1}, "c": 2}

    @pytest.mark.parametrize(
        "output", ['a | FAILED! => {\n    "msg": "no such variable"\n}\n', "no hosts", ""]
    )
    def test_anything_else_than_a_success_is_an_error(self, output: str) -> None:
        with pytest.raises(inventory.InventoryError):
            inventory.answers(output)

    def test_service_is_at_the_first_web_node(self) -> None:
        service = inventory.service_of(
            {"web.x": facts(), "db.x": facts(groups=["nodes", "db"], address="192.0.2.11")}
        )
        assert service.url == "https://192.0.2.12"
        assert service.certificate_authority == Path("/secrets/certificates/ca.crt")
        assert [one.short_name for one in service.nodes] == ["db", "web"]

    def test_service_may_have_another_address(self) -> None:
        assert (
            inventory.service_of({"web.x": facts(url="https://time.example/")}).url == "https://time.example"
        )

    def test_service_is_at_the_first_address_that_moves(self) -> None:
        moved = facts(moved=["192.0.2.101", "192.0.2.102"])
        service = inventory.service_of({"web.x": moved, "db.x": facts(groups=["db"])})
        assert service.url == "https://192.0.2.101"
        assert [node.name for node in service.nodes if "keepalived.service" in node.units] == ["web.x"]
        assert inventory.service_of({"web.x": {**moved, "url": "https://a"}}).url == "https://a"
        assert "keepalived.service" not in inventory.service_of({"web.x": facts()}).nodes[0].units

    def test_without_a_web_node_there_is_no_service(self) -> None:
        with pytest.raises(inventory.InventoryError, match="group web"):
            inventory.service_of({"db.x": facts(groups=["db"])})

    def test_an_inventory_without_local_nodes_has_no_state_folder(self) -> None:
        assert inventory.service_of({"web.x": facts(state="")}).state_folder is None

    def test_units_follow_the_groups_and_the_version_of_postgresql(self) -> None:
        database = facts(groups=["postgresql"], postgresql_version=17)
        service = inventory.service_of({"db.x": database, "web.x": facts()})
        assert service.nodes[0].units == ("postgresql@17-main.service",)
        assert "timestamp-query.socket" in service.nodes[1].units
        assert "zipkin.service" not in service.nodes[1].units
        traced = inventory.service_of({"web.x": facts(groups=["web", "zipkin"])})
        assert "zipkin.service" in traced.nodes[0].units

    @pytest.mark.parametrize(
        ("noted", "unit", "port"),
        [
            (
                "db.x: {identifier: '7', version: '16', name: other, port: 5433}\n",
                "postgresql@16-other",
                5433,
            ),
            # As earlier releases noted it; the first of them knew one version.
            ("db.x: {identifier: '7', version: '16'}\n", "postgresql@16-main", 5432),
            ("db.x: '7'\n", "postgresql@15-main", 5432),
            ("another.x: '7'\n", "postgresql@17-main", 5432),
            ("", "postgresql@17-main", 5432),
        ],
    )
    def test_the_database_is_the_one_that_the_inventory_remembers(
        self, tmp_path: Path, noted: str, unit: str, port: int
    ) -> None:
        if noted:
            (tmp_path / "databases.yml").write_text(noted)
        hosts = {"db.x": facts(groups=["postgresql"]), "web.x": facts(secrets=str(tmp_path))}
        database, web = inventory.service_of(hosts).nodes
        assert (database.postgresql_unit, database.database_port) == (f"{unit}.service", port)
        assert web.database_port == 0

    def test_a_web_node_has_a_consumer_for_each_database(self, tmp_path: Path) -> None:
        (tmp_path / "databases.yml").write_text(
            "db1.x: {identifier: '7', version: '17'}\n"
            "db2.x: {identifier: '8', version: '17', consumer: timestamp-consumer-db2, consumer_port: 7101}\n"
            "old.x: {identifier: '9', version: '17', consumer: timestamp-consumer-old, consumer_port: 7102}\n"
        )
        hosts = {name: facts(groups=["postgresql"]) for name in ("db1.x", "db2.x")}
        web = inventory.service_of({**hosts, "web.x": facts(secrets=str(tmp_path))}).nodes[-1]
        assert web.processes == {
            7080: "timestamp-command.service",
            7081: "timestamp-consumer.service",
            7082: "timestamp-query.service",
            7101: "timestamp-consumer-db2.service",
        }
        assert {"timestamp-consumer-db2.service", "timestamp-consumer-db2.socket"} <= set(web.units)

    def test_watched_nodes_have_exporters_and_one_of_them_looks(self) -> None:
        hosts = {
            "db.x": facts(groups=["kafka", "postgresql"], watched="True"),
            "web.x": facts(groups=["web", "monitoring"], watched=True),
        }
        service = inventory.service_of(hosts)
        database, web = service.nodes
        assert database.exporters == {"node": 9100, "postgresql": 9187, "kafka": 7071}
        assert web.exporters == {"node": 9100}
        assert "prometheus-postgres-exporter.service" in database.units
        assert "prometheus.service" not in database.units
        assert {"prometheus.service", "timestamp-dashboard.service", "timestamp-canary.timer"} <= set(
            web.units
        )
        assert service.dashboards == ("https://192.0.2.12:9443/",)
        hosts["web.x"] |= {"canary": "False", "dashboard": 9444, "dashboard_client_ca": "/operators.pem"}
        other = inventory.service_of(hosts)
        assert "timestamp-canary.timer" not in other.nodes[1].units
        assert other.dashboards == ("https://192.0.2.12:9444/",)
        assert other.dashboard_wants_certificate

    def test_without_the_group_nothing_watches(self) -> None:
        service = inventory.service_of({"web.x": facts()})
        assert service.dashboards == ()
        assert not [unit for unit in service.nodes[0].units if "prometheus" in unit or "dashboard" in unit]

    def test_ssh_command_is_made_of_the_connection_variables(self) -> None:
        command = inventory.ssh_command(facts(port=2222))
        assert command[:3] == ("ssh", "-o", "UserKnownHostsFile=/keys/known_hosts")
        assert command[-5:] == ("-i", "/keys/id", "-p", "2222", "root@192.0.2.12")
        assert inventory.ssh_command(facts(user="", key="", arguments=""))[-1] == "192.0.2.12"

    def test_a_node_is_picked_by_its_full_or_short_name(self) -> None:
        nodes = inventory.service_of({"web.x": facts(), "db.x": facts()}).nodes
        assert inventory.pick(nodes, "web") is inventory.pick(nodes, "web.x")
        for name in ("", "we"):
            with pytest.raises(inventory.InventoryError, match="NODE=db or NODE=web"):
                inventory.pick(nodes, name)


HOSTS = """\
nodes:
  hosts:
    web.example:
      node_address: 192.0.2.12
      service_ca: /secrets/ca.crt
  children:
    web:
      hosts:
        web.example:
"""


class TestCommands:
    @pytest.fixture
    def hosts(self, tmp_path: Path) -> str:
        path = tmp_path / "hosts.yml"
        path.write_text(HOSTS)
        return str(path)

    @pytest.mark.parametrize(("command", "fact"), [("url", "https://192.0.2.12"), ("ca", "/secrets/ca.crt")])
    def test_a_fact_is_printed(
        self, hosts: str, capsys: pytest.CaptureFixture[str], command: str, fact: str
    ) -> None:
        assert main([command, "--inventory", hosts]) == 0
        assert capsys.readouterr().out == f"{fact}\n"

    def test_a_node_that_does_not_exist_is_an_error(
        self, hosts: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["ssh", "--inventory", hosts, "--node", "db"]) == 1
        assert capsys.readouterr().err == "There is no node db; use NODE=web.\n"

    def test_a_missing_inventory_is_an_error_with_advice(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        missing = str(tmp_path / "missing")
        assert main(["diagnose", "--inventory", missing]) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(f"The inventory {missing} cannot be used: ")
        assert "inventories/production is an example to copy." in shown.err

    def test_the_process_exits_with_the_status_of_the_command(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "cli", "url", "--inventory", str(tmp_path / "missing")]
        done = subprocess.run(command, cwd=inventory.PROJECT, capture_output=True, check=False)
        assert done.returncode == 1

    @pytest.mark.parametrize("command", ["status", "diagnose"])
    @pytest.mark.parametrize("exit_status", [0, 1])
    def test_the_exit_status_of_a_command_is_kept(
        self, hosts: str, monkeypatch: pytest.MonkeyPatch, command: str, exit_status: int
    ) -> None:
        module = {"status": status, "diagnose": diagnose}[command]
        monkeypatch.setattr(module, "show", lambda _service: exit_status)
        monkeypatch.setattr(cli_main, "read_service", lambda _inventory: None)
        assert main([command, "--inventory", hosts]) == exit_status


class TestDashboard:
    def test_address_user_and_password_are_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        hosts = {"web.x": facts(groups=["web", "monitoring"], watched="True")}
        assert dashboard.show(inventory.service_of(hosts)) == 0
        said = capsys.readouterr().out
        assert said.startswith("https://192.0.2.12:9443/\n")
        assert "User operator, password in /secrets/dashboard_password" in said
        assert "/secrets/certificates/ca.crt" in said

    def test_certificate_is_asked_for_instead(self, capsys: pytest.CaptureFixture[str]) -> None:
        one = facts(groups=["web", "monitoring"], watched="True", dashboard_client_ca="/operators.pem")
        assert dashboard.show(inventory.service_of({"web.x": one})) == 0
        said = capsys.readouterr().out
        assert "password" not in said
        assert "asks for a certificate" in said

    def test_how_nodes_come_to_be_watched_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert dashboard.show(inventory.service_of({"web.x": facts()})) == 1
        assert "into the group monitoring" in capsys.readouterr().out


class TestStatus:
    SHOWN = (
        "Id=kafka.service\nActiveState=active\nSubState=running\nStateChangeTimestamp=Tue\n"
        "NRestarts=2\nMemoryCurrent=436207616\nResult=success\n\n"
        "Id=a.socket\nActiveState=active\nSubState=listening\nStateChangeTimestamp=Tue\nMemoryCurrent=4096\n\n"
        "Id=a.service\nActiveState=failed\nSubState=failed\nStateChangeTimestamp=\nNRestarts=0\n"
        "MemoryCurrent=[not set]\nResult=exit-code\n\n"
        "Id=kafka.service\nActiveState=active\nSubState=running\nStateChangeTimestamp=Tue\nNRestarts=2\nMemoryCurrent=436207616\n"
    )
    NODE = inventory.Host("db.x", frozenset(), ("ssh", "db"))

    def test_units_are_shown_once_services_before_sockets(self) -> None:
        units = status.parse_units(self.SHOWN)
        assert [unit.name for unit in units] == ["a.service", "kafka.service", "a.socket"]
        assert [unit.is_healthy for unit in units] == [False, True, True]

    def test_a_line_has_state_time_restarts_and_memory(self) -> None:
        failed, kafka, socket = (status.line(self.NODE, unit) for unit in status.parse_units(self.SHOWN))
        assert "FAILED (failed, exit-code)" in failed
        assert "since never" in failed
        assert kafka.split()[:5] == ["db", "kafka.service", "active", "since", "Tue"]
        assert kafka.endswith("  2 restarts  416 MiB")
        assert "MiB" not in socket

    @pytest.mark.parametrize(("kind", "healthy"), [("oneshot", True), ("notify", False)])
    def test_oneshot_unit_is_healthy_while_it_runs(self, kind: str, healthy: bool) -> None:
        (unit,) = status.parse_units(f"Id=a.service\nType={kind}\nActiveState=activating\nSubState=start\n")
        assert unit.is_healthy is healthy

    def test_no_unit_is_no_error(self) -> None:
        assert status.parse_units("") == []

    WEB = inventory.Host("web.x", frozenset(), ("ssh", "web"))
    SERVICE = inventory.Service(
        "https://192.0.2.12", Path("/ca.crt"), Path("/secrets"), Path("/state"), (NODE, WEB), "15"
    )

    @pytest.mark.parametrize(
        ("db", "web", "end_to_end", "exit_status"),
        [
            (["active"], ["active", "active"], True, 0),
            (["active"], ["failed", "active"], True, 1),
            (["failed"], ["active"], True, 1),
            (["active"], None, True, 1),
            (["active"], ["active"], False, 1),
            (None, None, False, 1),
        ],
    )
    def test_exit_status_says_whether_every_part_works(
        self,
        monkeypatch: pytest.MonkeyPatch,
        db: list[str] | None,
        web: list[str] | None,
        end_to_end: bool,
        exit_status: int,
    ) -> None:
        states = {self.NODE: db, self.WEB: web}

        def look(node: inventory.Host) -> list[status.Unit] | str:
            active = states[node]
            if active is None:
                return "does not answer by ssh."
            shown = (f"Id=u{number}.service\nActiveState={word}" for number, word in enumerate(active))
            return status.parse_units("\n\n".join(shown))

        def send(*_: object) -> RoundTrip:
            if not end_to_end:
                raise EndToEndError("POST answered 503")
            return RoundTrip(IDENTIFIER, 1, 1)

        monkeypatch.setattr(status, "look", look)
        monkeypatch.setattr(status, "send_and_read_back", send)
        assert status.show(self.SERVICE) == exit_status


class TestLogs:
    def test_lines_of_two_nodes_are_in_the_order_of_time(self) -> None:
        entries = [
            ("db", "2026-11-24T06:00:01.5+0000 first"),
            ("db", "  more of the first"),
            ("db", "2026-11-24T06:00:03.0+0000 third"),
            ("web", "2026-11-24T06:00:02.0+0000 second"),
        ]
        assert [text.split()[-1] for text in logs.in_time(entries)] == ["first", "first", "second", "third"]

    def test_time_zones_do_not_disturb_the_order(self) -> None:
        entries = [
            ("db", "2026-11-24T07:00:01.5+0100 first"),
            ("db", "2026-11-24T07:00:03.0+0100 third"),
            ("web", "2026-11-24T06:00:02.0+0000 second"),
            ("web", "2026 of the second"),
        ]
        assert [text.split()[-1] for text in logs.in_time(entries)] == ["first", "second", "second", "third"]
        zones = "2026-11-24T06:00:02+00:00 second\n2026-11-24T07:00:01.5+0100 first"
        assert [text.split()[-1] for text in logs.last(zones, 5)] == ["first", "second"]

    def test_a_unit_cannot_smuggle_a_command_in(self) -> None:
        assert logs.journal([], "x; reboot", 5, follow=False).split("--unit ")[1].startswith("'x; reboot'")

    def test_all_our_units_are_asked_for(self) -> None:
        nodes = inventory.service_of({"db.x": facts(groups=["kafka"]), "web.x": facts()}).nodes
        command = logs.journal(nodes, "", 5, follow=True)
        for unit in ("kafka.service", "nginx.service", "'timestamp-*.service'"):
            assert f"--unit {unit}" in command
        assert "--follow" in command

    @pytest.mark.parametrize(
        ("unit", "shown"),
        [("", True), ("nginx", True), ("nginx.service", True), ("ng*", True), ("kafka", False)],
    )
    def test_requests_are_shown_with_nginx_where_it_runs(self, *, unit: str, shown: bool) -> None:
        nodes = inventory.service_of({"db.x": facts(groups=["kafka"]), "web.x": facts()}).nodes
        on_db, on_web = map(logs.remote_command(nodes, unit, 5, follow=False), nodes)
        assert on_web.startswith(on_db)
        assert ("tail --quiet --lines=5 /var/log/nginx/access.json.1 " in on_web) is shown
        assert "tail" not in on_db

    def test_requests_are_followed_beside_the_journal(self) -> None:
        nodes = inventory.service_of({"web.x": facts()}).nodes
        journal, _, accesses = logs.remote_command(nodes, "", 5, follow=True)(nodes[0]).partition(" & ")
        assert journal.endswith(" --follow")
        assert accesses.startswith("tail --follow=name --retry --lines=5 /var/log/nginx/access.json ")

    def test_a_request_is_shown_at_its_time(self) -> None:
        request = '{"time":"2026-11-24T06:00:02+00:00","event":"request"}'
        assert logs.with_time(request) == f"2026-11-24T06:00:02+00:00 nginx: {request}"
        assert logs.with_time(request[:20]) == request[:20]
        entries = ["2026-11-24T06:00:01.5+0000 first", "  of the first", "2026-11-24T06:00:02.1+0000 third"]
        sent = "\n".join([*entries, request])
        assert logs.last(sent, 9) == [*entries[:2], logs.with_time(request), entries[2]]
        assert logs.last(sent, 3) == logs.last(sent, 9)
        assert logs.last(sent, 2) == [logs.with_time(request), entries[2]]
        assert logs.last(sent, 0) == []


def test_no_ssh_and_no_ansible_shares_our_standard_input() -> None:
    """An ssh that is killed leaves it non-blocking, and Ansible does not start with such a one."""
    reaching = []
    for path in (
        one for folder in ("cli", "molecule", "bench") for one in (inventory.PROJECT / folder).rglob("*.py")
    ):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        # A command may have a name.
        named = {
            target.id: ast.unparse(node.value)
            for node in nodes
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in nodes:
            if isinstance(call, ast.Call) and ast.unparse(call.func) in (
                "subprocess.run",
                "subprocess.Popen",
            ):
                names = [node.id for node in ast.walk(call.args[0]) if isinstance(node, ast.Name)]
                said = " ".join([ast.unparse(call.args[0]), *(named.get(name, "") for name in names)])
                # `play` asks for sudo's password.
                if (
                    any(word in said for word in (".ssh", ".root_ssh")) or "tool('ansible" in said
                ) and path.name != "play.py":
                    reaching.append((path, call))
    assert len(reaching) > 8
    shared = [
        f"{path}:{call.lineno}"
        for path, call in reaching
        if not {"stdin", "input"} & {keyword.arg for keyword in call.keywords}
    ]
    assert shared == []


def test_no_request_of_ours_takes_the_proxy_of_the_environment() -> None:
    """It is for downloads; the nodes are in the network of this computer."""
    found, wrong = 0, []
    for path in inventory.PROJECT.rglob("*.py"):
        if {".venv", ".git", "build"} & set(path.parts):
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call):
                name = ast.unparse(call.func)
                found += name.endswith("build_opener")
                proxied = name.endswith("build_opener") and "ProxyHandler({})" not in ast.unparse(call)
                if proxied or name.endswith(("urlopen", "urlretrieve")):
                    wrong.append(f"{path}:{call.lineno}")
    assert found > 3
    assert wrong == []


class TestHints:
    def test_they_name_the_inventory_in_use(self) -> None:
        service = inventory.service_of({"web.x": facts()}, "inventories/my own")
        typed = hints.typed(service, "`make up`, or make logs NODE=web; make it")
        given = "INVENTORY='inventories/my own'"
        assert typed == f"`make up {given}`, or make logs {given} NODE=web; make it"
        command = hints.typed(service, "run `ansible-playbook site.yml` (or so)")
        assert command == "run `ansible-playbook -i 'inventories/my own' site.yml` (or so)"
        default = inventory.service_of({"web.x": facts()})
        assert hints.typed(default, "run `make up`") == "run `make up`"


class TestDown:
    @pytest.mark.parametrize(
        ("force", "interactive", "answer", "erase"),
        [
            (False, True, "yes", True),
            (False, True, "y", False),
            (False, True, "", False),
            (True, True, "no", True),
            (False, False, "yes", False),
            (True, False, "no", True),
        ],
    )
    def test_only_a_person_at_a_terminal_is_asked(
        self, *, force: bool, interactive: bool, answer: str, erase: bool
    ) -> None:
        asked = []

        def ask(question: str) -> str:
            asked.append(question)
            return answer

        assert down.confirmed(Path("/state"), Path("/secrets"), force, interactive, ask) is erase
        assert bool(asked) is (interactive and not force)
        for question in asked:
            assert "/state" in question
            assert "/secrets" in question

    @pytest.mark.parametrize("command", ["up", "stop", "down"])
    def test_only_an_inventory_of_local_nodes_is_taken(
        self, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def play(*arguments: object) -> int:
            raise AssertionError(arguments)

        service = inventory.service_of({"web.x": facts(state="")})
        for module in (down, up):
            monkeypatch.setattr(module, "play", play)
        runs = {
            "up": lambda: up.up(service, 0),
            "stop": lambda: down.stop(service),
            "down": lambda: down.down(service, force=True),
        }
        with pytest.raises(inventory.InventoryError, match="not made of machines on this computer"):
            runs[command]()


Respond = Callable[[str, str], tuple[int, object]]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
def serve(certificate: Path) -> Iterator[Callable[[Respond], str]]:
    """Start HTTPS servers on loopback that answer by a function of method and path."""
    servers: list[http.server.HTTPServer] = []

    def start(respond: Respond) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                code, body = respond(self.command, self.path)
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            do_GET = do_POST = answer

            def log_message(self, *_: object) -> None: ...

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class TestEndToEnd:
    def test_a_timestamp_that_is_read_back_passes(
        self, serve: Callable[[Respond], str], certificate: Path
    ) -> None:
        asked = []

        def respond(method: str, path: str) -> tuple[int, object]:
            asked.append((method, path))
            return 200, {"id": IDENTIFIER, "event_timestamp": INSTANT}

        assert send_and_read_back(serve(respond), certificate).id == IDENTIFIER
        assert asked == [
            ("POST", f"/api/v1/timestamp/{INSTANT}"),
            ("GET", f"/api/v1/timestamp/{IDENTIFIER}"),
        ]

    @pytest.mark.parametrize(
        ("post", "get", "reason"),
        [
            ((503, {"detail": "no broker"}), (200, {}), r"POST .* answered 503: .*no broker"),
            ((200, {}), (200, {}), "no id"),
            ((200, ["x"]), (200, {}), "no JSON object"),
            ((200, {"id": IDENTIFIER}), (404, {}), r"GET .* answered 404"),
            (
                (200, {"id": IDENTIFIER}),
                (200, {"id": IDENTIFIER, "event_timestamp": "2009"}),
                "another record",
            ),
            ((200, {"id": IDENTIFIER}), (200, {"id": "x", "event_timestamp": INSTANT}), "another record"),
        ],
    )
    def test_each_failure_has_its_reason(
        self,
        serve: Callable[[Respond], str],
        certificate: Path,
        post: tuple[int, object],
        get: tuple[int, object],
        reason: str,
    ) -> None:
        url = serve(lambda method, _path: post if method == "POST" else get)
        with pytest.raises(EndToEndError, match=reason):
            send_and_read_back(url, certificate)

    def test_a_proxy_of_the_environment_is_not_asked(
        self, serve: Callable[[Respond], str], certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        url = serve(lambda _method, _path: (200, {"id": IDENTIFIER, "event_timestamp": INSTANT}))
        assert send_and_read_back(url, certificate).id == IDENTIFIER

    def test_another_authority_is_refused(self, serve: Callable[[Respond], str]) -> None:
        url = serve(lambda _method, _path: (200, {"id": IDENTIFIER, "event_timestamp": INSTANT}))
        with pytest.raises(EndToEndError, match=r"(?i)certificate verify failed"):
            send_and_read_back(url, Path("/etc/ssl/certs/ca-certificates.crt"))

    def test_a_missing_authority_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(EndToEndError, match=r"missing\.crt cannot be read"):
            send_and_read_back("https://127.0.0.1:1", tmp_path / "missing.crt")
