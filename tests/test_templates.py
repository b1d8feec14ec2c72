"""What the roles' templates become on several hosts a group; tools that are at hand read the results."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest
import rendered
from rendered import ADDRESSES, CONTROLLERS, DATABASES, KAFKA, PROJECT, SECRET, WEB

Texts = dict[str, dict[str, str]]
UNITS = ("timestamp-command", "timestamp-consumer", "timestamp-consumer-kafka2", "timestamp-query")


@pytest.fixture(scope="session", params=rendered.RELEASES)
def texts(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Texts:
    return rendered.render(tmp_path_factory.mktemp("rendered"), request.param)


def addresses(names: list[str]) -> list[str]:
    return [ADDRESSES[name] for name in names]


def check(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_template_is_rendered(texts: Texts) -> None:
    names = {key.partition("/")[2] for files in texts.values() for key in files}
    there = {
        str(path.relative_to(folder))
        for folder in (PROJECT / "roles").glob("*/templates")
        for path in folder.glob("**/*.j2")
    }
    assert names == there


def test_nothing_is_left_to_fill_in(texts: Texts) -> None:
    for host, files in texts.items():
        for name, text in files.items():
            assert not re.search(r"\{\{|\{%|\bNone\b|\bUndefined\b", text), f"{host}: {name}"


def test_secrets_stand_in_no_file_that_others_may_read(texts: Texts) -> None:
    holders = {name for files in texts.values() for name, text in files.items() if SECRET in text}
    assert holders == {"kafka/secrets.properties.j2", "kafka/admin-secrets.properties.j2"}


def test_every_broker_has_its_own_number_and_address(texts: Texts) -> None:
    settings = [texts[host]["kafka/server.properties.j2"] for host in KAFKA]
    for number, (text, address) in enumerate(zip(settings, addresses(KAFKA), strict=True), start=1):
        assert f"node.id={number}\n" in text
        assert f"listeners=BROKER://{address}:9092,CONTROLLER://{address}:9093\n" in text


def test_new_broker_asks_all_controllers_and_an_old_one_those_that_it_always_asked(texts: Texts) -> None:
    old, new, _ = (texts[host]["kafka/server.properties.j2"] for host in KAFKA)
    controllers = ",".join(f"{address}:9093" for address in addresses(KAFKA))
    assert f"controller.quorum.bootstrap.servers={controllers}\n" in new
    assert "controller.quorum.bootstrap.servers=192.0.2.11:9093,192.0.2.99:9093\n" in old


def test_each_broker_gets_its_own_key(texts: Texts) -> None:
    for host in KAFKA:
        assert texts[host]["kafka/server.pem.j2"] == f"{host} kafka key\n{host} kafka crt\n"


@pytest.fixture(scope="session")
def separate(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return rendered.render_separate(tmp_path_factory.mktemp("separate"), ("firewall", "kafka"))


def test_separate_controllers_are_no_brokers_and_brokers_no_controllers(separate: Texts) -> None:
    quorum = ",".join(f"{address}:9093" for address in CONTROLLERS.values())
    for number, (host, address) in enumerate((ADDRESSES | CONTROLLERS).items(), start=1):
        if host in WEB:
            continue
        text = separate[host]["kafka/server.properties.j2"]
        unit = separate[host]["kafka/kafka.service.j2"]
        is_broker = host in KAFKA
        listener = f"BROKER://{address}:9092" if is_broker else f"CONTROLLER://{address}:9093"
        assert setting(text, "process.roles") == ("broker" if is_broker else "controller")
        assert setting(text, "node.id") == str(number if is_broker else number - len(WEB))
        assert setting(text, "listeners") == setting(text, "advertised.listeners") == listener
        # The first broker asks those that it was formatted with no more: none of them is there.
        assert setting(text, "controller.quorum.bootstrap.servers") == quorum
        assert ("controller.quorum.auto.join.enable=true\n" in text) is not is_broker
        assert ("sasl" in text) is ("/etc/kafka/secrets.properties" in unit) is is_broker
        assert f" src {listener.partition('//')[2]} " in unit


def test_separate_controllers_are_reached_by_kafkas_nodes_alone(separate: Texts) -> None:
    nodes = ", ".join([*addresses(KAFKA), *CONTROLLERS.values()])
    web = f"ip saddr {{ {', '.join(addresses(WEB))} }} tcp dport"
    broker, controller = (
        separate[host]["firewall/firewall.nft.j2"] for host in (KAFKA[2], next(iter(CONTROLLERS)))
    )
    assert f"{web} 9092 accept" in broker
    assert f"ip saddr {{ {nodes} }} tcp dport {{ 9092 }} accept" in broker
    assert f"ip saddr {{ {nodes} }} tcp dport {{ 9093 }} accept" in controller
    assert "9093" not in broker
    assert "9092" not in controller
    assert web not in controller


def test_only_the_web_nodes_may_ask_the_database(texts: Texts) -> None:
    lines = [line for line in texts[KAFKA[0]]["postgresql/pg_hba.conf.j2"].splitlines() if line[0] != "#"]
    assert lines[0].split() == ["local", "all", "all", "peer"]
    assert [line.split()[3] for line in lines[1:]] == [f"{address}/32" for address in addresses(WEB)]
    assert {line.split()[0] for line in lines[1:]} == {"hostssl"}
    assert {line.split()[4] for line in lines[1:]} == {"scram-sha-256"}


def test_database_takes_half_of_a_node_that_kafka_shares(texts: Texts) -> None:
    assert "shared_buffers = 1024MB" in texts[KAFKA[0]]["postgresql/settings.conf.j2"]


def test_firewall_opens_what_the_groups_of_a_node_offer(texts: Texts) -> None:
    web = "192.0.2.21, 192.0.2.22"
    first, other, front = (texts[host]["firewall/firewall.nft.j2"] for host in (KAFKA[0], KAFKA[2], WEB[0]))
    assert f"ip saddr {{ {web} }} tcp dport {{ 5432 }} accept" in first
    assert "5432" not in other
    for text in (first, other):
        assert f"ip saddr {{ {web} }} tcp dport 9092 accept" in text
        assert f"ip saddr {{ {', '.join(addresses(KAFKA))} }} tcp dport {{ 9092, 9093 }} accept" in text
        assert "443" not in text
    assert "tcp dport { 80, 443 } accept" in front
    assert f"ip saddr {{ {ADDRESSES[WEB[1]]} }} tcp dport 7443 accept" in front
    assert "9092" not in front


def test_processes_know_all_brokers(texts: Texts) -> None:
    brokers = ",".join(f"{address}:9092" for address in addresses(KAFKA))
    for unit in ("timestamp-command", "timestamp-consumer"):
        assert f"KAFKA_BROKER={brokers}\n" in texts[WEB[0]][f"{unit}/process.env.j2"]


def test_units_speak_to_the_networks_of_the_nodes_alone(texts: Texts) -> None:
    """A unit that named nodes would change, and restart, whenever one comes or goes."""
    allowed = {
        (name, one)
        for of_host in texts.values()
        for name, text in of_host.items()
        for one in re.findall(r"^IPAddressAllow=(.*)$", text, re.MULTILINE)
    }
    assert {one for _, one in allowed} == {"localhost 192.0.2.0/24"}
    assert {"kafka/kafka.service.j2", "postgresql/unit.conf.j2", "timestamp-query/process.service.j2"} <= {
        name for name, _ in allowed
    }


CONSUMERS = ("timestamp-consumer", "timestamp-consumer-kafka2")


def setting(text: str, name: str) -> str:
    """Return the only value of a setting."""
    (value,) = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    return str(value)


def test_consumers_of_two_nodes_are_two_members_of_the_group_of_their_database(texts: Texts) -> None:
    for unit in CONSUMERS:
        of_both = [texts[host][f"{unit}/process.env.j2"] for host in WEB]
        assert len({setting(text, "KAFKA_GROUP_INSTANCE_ID") for text in of_both}) == len(WEB)
        assert {setting(text, "KAFKA_GROUP_ID") for text in of_both} == {unit}


def test_each_database_has_a_consumer_of_its_own(texts: Texts) -> None:
    own = [texts[WEB[0]][f"{unit}/process.env.j2"] for unit in CONSUMERS]
    servers = [setting(text, "DB_URL").split("/")[2] for text in own]
    assert servers == [f"{ADDRESSES[host]}:5432" for host in DATABASES]
    assert [setting(text, "SERVER_PORT") for text in own] == ["7081", "7101"]
    # Their user is one, and a name of a user is short.
    for unit in CONSUMERS:
        assert "User=timestamp-consumer\n" in texts[WEB[0]][f"{unit}/process.service.j2"]


def test_web_nodes_share_the_databases_that_they_ask_first(texts: Texts) -> None:
    asked = [setting(texts[host]["timestamp-query/process.env.j2"], "DB_URL") for host in WEB]
    servers = [re.findall(r"postgresql://([0-9.]+):", url) for url in asked]
    wanted = [ADDRESSES[host] for host in DATABASES]
    assert servers == [wanted, wanted[::-1]]


@pytest.mark.parametrize("unit", UNITS)
def test_a_release_beside_the_other_shares_nothing_with_it(texts: Texts, unit: str) -> None:
    one, beside = (texts[WEB[0]][f"{unit}{suffix}/process.service.j2"] for suffix in ("", "-next"))
    own = r"^(?:Requires|ExecStart|EnvironmentFile|LoadCredential|User|RuntimeDirectory)=(.*)$"
    assert set(re.findall(own, one, re.M)).isdisjoint(re.findall(own, beside, re.M))
    assert "/opt/timestamp-service/releases/1-abc/venv/bin/" in beside
    listens = r"^(?:ListenStream|Symlinks)=(.*)$"
    sockets = [
        re.findall(listens, texts[WEB[0]][f"{unit}{suffix}/process.socket.j2"], re.M)
        for suffix in ("", "-next")
    ]
    assert set(sockets[0]).isdisjoint(sockets[1])


def test_a_consumer_beside_the_other_is_a_member_without_a_name(texts: Texts) -> None:
    assert "KAFKA_GROUP_INSTANCE_ID=\n" in texts[WEB[0]]["timestamp-consumer-next/process.env.j2"]


@pytest.mark.parametrize("unit", [*UNITS, *(f"{unit}-next" for unit in UNITS)])
def test_systemd_reads_the_units(texts: Texts, tmp_path: Path, unit: str) -> None:
    name = unit
    for ending in ("service", "socket"):
        text = texts[WEB[0]][f"{unit}/process.{ending}.j2"]
        # The programs are on the node alone.
        (tmp_path / f"{name}.{ending}").write_text(
            re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", text, flags=re.M)
        )
    check("systemd-analyze", "verify", "--man=no", *map(str, tmp_path.glob("timestamp-*")))


def test_systemd_reads_kafkas_unit(texts: Texts, tmp_path: Path) -> None:
    text = texts[KAFKA[0]]["kafka/kafka.service.j2"]
    unit = tmp_path / "kafka.service"
    unit.write_text(re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", text, flags=re.M))
    check("systemd-analyze", "verify", "--man=no", str(unit))


@pytest.mark.parametrize("name", ["logrotate", "acme"])
def test_systemd_reads_the_units_beside_nginx(texts: Texts, tmp_path: Path, name: str) -> None:
    for ending in ("service", "timer"):
        text = texts[WEB[0]][f"nginx/{name}.{ending}.j2"]
        (tmp_path / f"nginx-{name}.{ending}").write_text(
            re.sub(r"^(Exec\w+=\+?)\S+", r"\1/bin/true", text, flags=re.M)
        )
    check("systemd-analyze", "verify", "--man=no", *map(str, tmp_path.glob("nginx-*")))


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("nginx/service.conf.j2", "Service"),
        ("virtual_address/service.conf.j2", "Service"),
        ("base/journald.conf.j2", "Journal"),
    ],
)
def test_drop_ins_have_their_section(texts: Texts, name: str, section: str) -> None:
    reader = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=False)
    reader.read_string(texts[WEB[0]][name])
    assert reader.has_section(section)


def test_postgresql_reads_its_settings(texts: Texts, tmp_path: Path) -> None:
    program = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    version = program.parts[-3]
    settings = tmp_path / "postgresql.conf"
    settings.write_text(texts[KAFKA[0]]["postgresql/settings.conf.j2"])
    (tmp_path / "PG_VERSION").write_text(f"{version}\n")
    check(str(program), "-C", "shared_buffers", "-D", str(tmp_path), f"--config-file={settings}")


def test_apt_reads_its_settings(texts: Texts, tmp_path: Path) -> None:
    path = tmp_path / "apt.conf"
    path.write_text(texts[WEB[0]]["base/unattended-upgrades.conf.j2"])
    check("apt-config", "--config-file", str(path), "dump")


def test_firewall_lets_ssh_in_by_both_families(texts: Texts) -> None:
    for host in (KAFKA[0], WEB[0]):
        rules = texts[host]["firewall/firewall.nft.j2"]
        assert 'ip saddr { 0.0.0.0/0 } tcp dport { 22 } accept comment "ssh"' in rules
        assert 'ip6 saddr { ::/0 } tcp dport { 22 } accept comment "ssh"' in rules


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel checks rules for root alone")
@pytest.mark.parametrize("host", [KAFKA[0], WEB[0]])
def test_nft_reads_the_rules(texts: Texts, tmp_path: Path, host: str) -> None:
    path = tmp_path / "rules.nft"
    path.write_text(texts[host]["firewall/firewall.nft.j2"])
    check("nft", "--check", "--file", str(path))


def test_braces_of_nginx_are_balanced(texts: Texts) -> None:
    """nginx of one release of Debian alone is here (test_nginx_fallback.py has it read the file)."""
    text = re.sub(r'"[^"]*"|\'[^\']*\'|#.*', "", texts[WEB[0]]["nginx/nginx.conf.j2"])
    assert text.count("{") == text.count("}") > 0


def test_clients_change_to_the_next_database_one_after_the_other(tmp_path: Path) -> None:
    here = {"identifier": "7", "version": "15", "name": "main", "port": 5432, "folder": "/here"}
    known: dict[str, dict[str, object]] = {"": {}, "none": {KAFKA[0]: here}}
    for step in ("make", "fill", "read", "write"):
        moved = {"version": "17", "name": "main", "port": 5433, "folder": "/there", "step": step}
        known[step] = {KAFKA[0]: {**here, "next": moved}}
    urls = {
        client: f"{{{{ timestamp_database_urls['{KAFKA[0]}'].{client} }}}}"
        for client in ("query", "consumer", "next")
    }
    play = {
        "hosts": WEB[0],
        "gather_facts": False,
        "roles": [{"role": "timestamp", "tags": "never"}],
        "post_tasks": [
            rendered.debug(
                "timestamp",
                {"contract_databases": databases},
                {f"{step} {client}": url for client, url in urls.items()},
            )
            for step, databases in known.items()
        ],
    }
    found = rendered.run(tmp_path, [play], {})[WEB[0]]
    ports = {name: url.split(":")[2].partition("/")[0] for name, url in found.items()}
    assert ports == {
        f"{step} {client}": "5433" if client in others else "5432"
        for step, others in {
            "": (),
            "none": (),
            "make": ("next",),
            "fill": ("next",),
            "read": ("next", "query"),
            "write": ("next", "query", "consumer"),
        }.items()
        for client in urls
    }
