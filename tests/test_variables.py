"""Every variable of every role, set to another valid value: all files follow it, and none keeps the default.

One rendering sets all variables at once, each to a value that nothing else has; those that another one
excludes are set in a rendering of their own. The roles check the values as they do on a node.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import Any

import pytest
import rendered
import yaml
from rendered import ADDRESSES, KAFKA, ROLES, WEB, Texts, read


@dataclass(frozen=True)
class Variable:
    """Another value of a variable, and each place that shows it.

    A place is a pattern of rendered files and the text that they hold, where {} is the value as it is written
    there. `read_by` names a file that reads a variable whose value no rendered text shows, and how it does.
    The default is a `common` word if other things are called the same. A variable that excludes another one
    is set `apart`.
    """

    value: Any
    places: dict[str, str]
    written: str = ""
    read_by: tuple[str, str] | None = None
    common: bool = False
    apart: bool = False

    def text(self, value: Any) -> str:
        """Return a value as files have it."""
        if isinstance(value, (list, dict)):
            return str(next(iter(value), ""))
        return str(value).lower() if isinstance(value, bool) else str(value)

    @property
    def new(self) -> str:
        return self.written or self.text(self.value)


# Of the names of the units: of the two releases that may run, and of what fills a database that is moved.
SUFFIXES = {
    "command": ("", "-next"),
    "consumer": ("", "-next", "-kafka2", "-kafka2-next", "-moving"),
    "query": ("", "-next"),
}


def environment(process: str, text: str) -> dict[str, str]:
    """Return the places of a setting of one process."""
    return {f"timestamp-{process}{suffix}/process.env.j2": text for suffix in SUFFIXES[process]}


def unit(process: str, text: str) -> dict[str, str]:
    """Return the places of a line in the unit of one process."""
    return {f"timestamp-{process}{suffix}/process.service.j2": text for suffix in SUFFIXES[process]}


PROCESS_UNITS = "timestamp-[cq]*/process.service.j2"
REBUILD = "timestamp-rebuild/process.env.j2"
REBUILD_TASKS = "timestamp/tasks/rebuild.yml"
MOVING_TASKS = "timestamp/tasks/moving_start.yml"
NGINX = "nginx/nginx.conf.j2"
LOCAL_NODE = "local_node/tasks/main.yml"
KAFKA_SETTINGS = "kafka/server.properties.j2"
KAFKA_SERVICE = "kafka/tasks/service.yml"
KAFKA_SPREAD = "kafka/tasks/spread.yml"


def of_traces(name: str) -> dict[str, str]:
    """Return the places of a setting of traces, which those have too that are made of a consumer."""
    settings = dict.fromkeys(("timestamp-[cq]*/process.env.j2", REBUILD), f"TRACES_{name}={{}}\n")
    return settings | dict.fromkeys((REBUILD_TASKS, MOVING_TASKS), f"TRACES_{name}: {{}}\n")


VARIABLES: dict[str, Variable] = {
    "base_packages": Variable(["other-package"], {"base/tasks/install.yml": "- {}"}),
    "base_apt_proxy": Variable("http://192.0.2.3:3128", {"base/apt-proxy.conf.j2": 'Proxy "{}";'}),
    "base_apt_cache_valid_seconds": Variable(3611, {"base/tasks/install.yml": "cache_valid_time: {}"}),
    "base_journal_max_use": Variable(
        "1777M",
        {
            "base/journald.conf.j2": "SystemMaxUse={}",
            "base/tasks/conflicts.yml": "journal_max_use: {}\n",
        },
    ),
    "base_metrics_file": Variable(
        "/other/metrics/state.prom", {"base/metrics.service.j2": "node_state.py --textfile {}"}
    ),
    "base_ssh_hardened": Variable(
        False, {}, read_by=("base/tasks/configure.yml", "when: base_ssh_hardened\n")
    ),
    "base_security_upgrades": Variable(
        False, {"base/unattended-upgrades.conf.j2": 'Unattended-Upgrade "{}"'}, "0"
    ),
    "base_security_upgrades_except": Variable(["^other"], {"base/unattended-upgrades.conf.j2": '"{}";'}),
    "certificates_nginx_names": Variable(
        ["DNS:other.example.org"], {"certificates/tasks/certificate.yml": "- {}"}
    ),
    "certificates_authority_name": Variable(
        "Another CA", {"certificates/tasks/authority.yml": "common_name: {}"}
    ),
    "certificates_authority_days": Variable(
        3111, {"certificates/tasks/authority.yml": "selfsigned_not_after: +{}d"}
    ),
    "certificates_days": Variable(333, {"certificates/tasks/certificate.yml": "ownca_not_after: +{}d"}),
    "certificates_renew_days": Variable(
        44, {}, read_by=("certificates/vars/main.yml", "certificates_renew_days | int * 86400")
    ),
    "firewall_enabled": Variable(False, {}, read_by=("firewall/tasks/main.yml", "when: firewall_enabled\n")),
    "firewall_ssh_sources": Variable(
        ["198.51.100.0/25"],
        {
            "firewall/firewall.nft.j2": "ip saddr {{ {} }} tcp dport {{ 22 }} ",
            "firewall/tasks/preflight.yml": "they hold {};",
            "firewall/tasks/way.yml": "({}) does not include",
        },
    ),
    "firewall_web_sources": Variable(
        ["198.51.100.128/25"],
        {
            "firewall/firewall.nft.j2": "ip saddr {{ {} }} tcp dport {{ 80, 443 }}",
            "firewall/tasks/preflight.yml": "; {})",
        },
    ),
    "firewall_dashboard_sources": Variable(
        ["198.51.100.64/26"],
        {
            "firewall/firewall.nft.j2": "ip saddr {{ {} }} tcp dport 9444 ",
            "firewall/tasks/preflight.yml": " {};",
        },
    ),
    "kafka_archive": Variable(
        "/other/kafka_2.13-9.9.9.tgz", {"kafka_distribution/tasks/main.yml": "archive: {}"}
    ),
    "kafka_archive_checksum": Variable(
        "sha256:" + "9" * 64, {"kafka_distribution/tasks/main.yml": "archive_checksum: {}"}
    ),
    "kafka_partitions": Variable(91, {KAFKA_SERVICE: "partitions: {}\n"}),
    "kafka_heap_mb": Variable(611, {"kafka/kafka.service.j2": "-Xms{0}m -Xmx{0}m"}),
    "kafka_memory_max_mb": Variable(1733, {"kafka/kafka.service.j2": "MemoryMax={}M"}),
    "kafka_replication": Variable(
        2, {KAFKA_SPREAD: "replicas: {}\n", KAFKA_SERVICE: "replication_factor: {}\n"}
    ),
    "kafka_min_insync_replicas": Variable(
        1, {KAFKA_SPREAD: "minimum: {}\n", KAFKA_SERVICE: "min.insync.replicas: {}\n"}
    ),
    "kafka_move_seconds": Variable(1789, {KAFKA_SPREAD: "move_seconds: {}\n"}),
    "kafka_outage_accepted": Variable(
        True, {}, read_by=("kafka/tasks/gate.yml", "[] if kafka_outage_accepted | bool")
    ),
    "kafka_flush_messages": Variable(71, {KAFKA_SERVICE: "flush.messages: {}"}),
    "kafka_broker_session_seconds": Variable(7, {KAFKA_SETTINGS: "broker.session.timeout.ms={}000\n"}),
    "kafka_delete_topics": Variable(True, {KAFKA_SETTINGS: "delete.topic.enable={}"}),
    "kafka_record_bytes_max": Variable(1048111, {KAFKA_SERVICE: "max.message.bytes: {}"}),
    "kafka_dead_letter_bytes_max": Variable(2097111, {KAFKA_SERVICE: "max.message.bytes: {}"}),
    "kafka_restart_seconds": Variable(1013, {"kafka/kafka.service.j2": "RestartSec={}"}),
    "kafka_ready_seconds": Variable(
        1037,
        {
            KAFKA_SERVICE: "ready_seconds: {}",
            "kafka/tasks/gate.yml": "ready_seconds: {}",
            KAFKA_SPREAD: "ready_seconds: {}",
            "kafka/tasks/credential.yml": "ready_seconds: {}",
            "kafka/tasks/restart.yml": "timeout: {}",
        },
    ),
    "kafka_feature_upgrade": Variable(
        True, {}, read_by=("kafka/tasks/features.yml", "kafka_feature_upgrade | bool")
    ),
    "kafka_distribution_maven": Variable("/other/mvn", {"kafka_distribution/tasks/*.yml": "maven: {}"}),
    "kafka_distribution_requirements": Variable(
        "/other/kafka-nodes.txt", {"kafka_distribution/tasks/main.yml": "requirements: {}"}
    ),
    "monitoring_port": Variable(
        9444,
        {
            "monitoring/nginx.conf.j2": "listen {} ssl;",
            "monitoring/service.conf.j2": ":{} --web.route-prefix=/",
            "firewall/firewall.nft.j2": "tcp dport {} accept",
            "base/tasks/conflicts.yml": "- {}\n",
        },
    ),
    "monitoring_client_ca": Variable(
        "/other/operators.pem",
        {"monitoring/tasks/server.yml": "src: {}", "monitoring/tasks/preflight.yml": "names {},"},
    ),
    "monitoring_scrape_seconds": Variable(37, {"monitoring/prometheus.yml.j2": "scrape_interval: {}s"}),
    "monitoring_retention_days": Variable(
        1039, {"monitoring/service.conf.j2": "--storage.tsdb.retention.time={}d "}
    ),
    "monitoring_retention_mb": Variable(
        3391, {"monitoring/service.conf.j2": "--storage.tsdb.retention.size={}MB "}
    ),
    "monitoring_memory_max_mb": Variable(1531, {"monitoring/service.conf.j2": "MemoryMax={}M"}),
    "monitoring_canary": Variable(
        False, {"monitoring/tasks/service.yml": "state: {}\n"}, "stopped", common=True
    ),
    "monitoring_email_to": Variable("called@example.org", {"monitoring/alertmanager.yml.j2": 'to: "{}"'}),
    "monitoring_email_from": Variable(
        "calling@example.org", {"monitoring/alertmanager.yml.j2": 'from: "{}"'}
    ),
    "monitoring_email_server": Variable(
        "mail.example.org:587", {"monitoring/alertmanager.yml.j2": "smarthost: {}\n"}
    ),
    "monitoring_email_user": Variable("mailer", {"monitoring/alertmanager.yml.j2": 'auth_username: "{}"'}),
    "monitoring_email_password_file": Variable(
        "{{ secrets_folder }}/mail_password",
        {"monitoring/alertmanager.yml.j2": 'auth_password: "{}"'},
        rendered.password("mail_password"),
    ),
    "monitoring_webhook_file": Variable(
        "{{ secrets_folder }}/hook",
        {"monitoring/alertmanager.yml.j2": 'url: "{}"'},
        "https://hook.example.org/1",
    ),
    "monitoring_watchdog_webhook_file": Variable(
        "{{ secrets_folder }}/watchdog",
        {"monitoring/alertmanager.yml.j2": 'url: "{}"'},
        "https://watchdog.example.org/1",
    ),
    "monitoring_repeat_hours": Variable(1063, {"monitoring/alertmanager.yml.j2": "repeat_interval: {}h"}),
    "nginx_certificate": Variable("/other/own.crt", {"nginx/tasks/configure.yml": "src: {}"}, apart=True),
    "nginx_certificate_key": Variable("/other/own.key", {"nginx/tasks/configure.yml": "src: {}"}, apart=True),
    "nginx_acme_directory": Variable(
        "https://issuer.example.org/directory",
        {"nginx/acme.conf.j2": "directory={}\n", "nginx/tasks/obtain.yml": "{} has issued no certificate"},
    ),
    "nginx_acme_names": Variable(
        ["proved.example.org"],
        {"nginx/acme.conf.j2": "names={}\n", "nginx/tasks/obtain.yml": "no certificate for {}."},
    ),
    "nginx_acme_email": Variable("somebody@example.org", {"nginx/acme.conf.j2": "email={}\n"}),
    "nginx_acme_ca": Variable("/other/acme.pem", {"nginx/tasks/acme.yml": "src: {}"}),
    "nginx_acme_hook": Variable("/other/acme-hook.sh", {"nginx/tasks/acme.yml": "src: {}"}),
    "nginx_hsts_seconds": Variable(31536001, {NGINX: "max-age={}"}),
    "nginx_body_max": Variable("333m", {NGINX: "client_max_body_size {};"}),
    "nginx_api_timeout_seconds": Variable(1043, {NGINX: "proxy_read_timeout {}s;"}),
    "nginx_access_log_buffer": Variable("333k", {NGINX: "buffer={} "}),
    "nginx_access_log_flush_seconds": Variable(1007, {NGINX: "flush={}s"}),
    "nginx_access_log_size": Variable("773M", {"nginx/logrotate.conf.j2": "size {}\n"}),
    "nginx_access_log_files": Variable(1017, {"nginx/logrotate.conf.j2": "rotate {}\n"}),
    "nginx_connections": Variable(5003, {NGINX: "worker_connections {};"}),
    "nginx_upstream_connections": Variable(1067, {NGINX: "keepalive {};"}),
    "nginx_cors_origins": Variable(["https://other.example.org"], {NGINX: '"{}" $http_origin;'}),
    "nginx_rate_limit_per_second": Variable(1053, {NGINX: "rate={}r/s;"}),
    "nginx_rate_limit_burst": Variable(1107, {NGINX: "burst={} nodelay;"}),
    "nginx_client_ca": Variable("/other/clients.pem", {"nginx/tasks/configure.yml": "value: {}"}),
    "nginx_traces_share_percent": Variable(7.25, {NGINX: "    {}% yes;"}),
    "nginx_metrics_port": Variable(9443, {NGINX: "listen {} ssl;"}),
    "nginx_metrics_client_ca": Variable("/other/metrics.pem", {"nginx/tasks/configure.yml": "value: {}"}),
    "postgresql_version": Variable(
        "16",
        {
            "postgresql/settings.conf.j2": "/etc/postgresql/{}/main/server.crt",
            "postgresql/tasks/install.yml": "postgresql-{}\n",
            "postgresql/tasks/configure.yml": "/usr/lib/postgresql/{}/bin/postgres",
            "postgresql/tasks/service.yml": "postgresql@{}-main.service",
        },
    ),
    "postgresql_folder": Variable(
        "/other/databases",
        {
            "postgresql/unit.conf.j2": "RequiresMountsFor={}/",
            "postgresql/tasks/make.yml": "data={}/",
            "postgresql/tasks/cluster.yml": "has no folder {} ",
            "postgresql/tasks/identifier.yml": "{}/",
            "base/tasks/facts.yml": "- {}\n",
        },
        # The unit may write to the folder of Debian's user in any case.
        common=True,
    ),
    "postgresql_memory_mb": Variable(
        1204,
        {"postgresql/settings.conf.j2": "# Memory: {} MiB", "postgresql/tasks/preflight.yml": "(it is {})"},
    ),
    "postgresql_connections": Variable(1103, {"postgresql/settings.conf.j2": "max_connections = {}\n"}),
    "postgresql_addresses": Variable(
        ["127.0.0.9"], {"postgresql/settings.conf.j2": "listen_addresses = '{}'"}
    ),
    "postgresql_query_timeout_ms": Variable(
        11003, {"postgresql/tasks/service.yml": "timestamp_query SET statement_timeout = {}"}, common=True
    ),
    "postgresql_consumer_timeout_ms": Variable(
        61007, {"postgresql/tasks/service.yml": "timestamp_consumer SET statement_timeout = {}"}
    ),
    "postgresql_idle_transaction_timeout_ms": Variable(
        62011, {"postgresql/settings.conf.j2": "idle_in_transaction_session_timeout = {}"}
    ),
    "postgresql_restart_seconds": Variable(1019, {"postgresql/unit.conf.j2": "RestartSec={}"}),
    "secrets_length": Variable(47, {}, read_by=("secrets/tasks/main.yml", "length=secrets_length")),
    "secrets_replace": Variable(True, {}, read_by=("secrets/tasks/check.yml", "secrets_replace | bool")),
    "timestamp_release_source": Variable("/other/app", {"timestamp/tasks/build.yml": "source: {}"}),
    "timestamp_release_requirements": Variable(
        "/other/app-nodes.txt", {"timestamp/tasks/build.yml": "requirements: {}"}
    ),
    "timestamp_release_installer": Variable(
        "/other/installer.txt", {"timestamp/tasks/build.yml": "installer: {}"}
    ),
    "timestamp_release_archives": Variable("/other/archives", {"timestamp/tasks/build.yml": "archives: {}"}),
    # What follows the releases that stay.
    "timestamp_release_keep": Variable(1005, {"timestamp/handlers/main.yml": "tail -n +{}"}, "1006"),
    "timestamp_command_workers": Variable(1021, environment("command", "WORKERS={}\n")),
    "timestamp_query_workers": Variable(1022, environment("query", "WORKERS={}\n")),
    "timestamp_command_memory_max": Variable("401M", unit("command", "MemoryMax={}")),
    "timestamp_consumer_memory_max": Variable(
        "402M", {**unit("consumer", "MemoryMax={}"), MOVING_TASKS: "memory_max: {}"}
    ),
    "timestamp_query_memory_max": Variable("403M", unit("query", "MemoryMax={}")),
    "timestamp_consumer_rebuild_memory_max": Variable(
        "504M", {"timestamp-rebuild/process.service.j2": "MemoryMax={}", REBUILD_TASKS: "memory_max: {}"}
    ),
    "timestamp_command_log_level": Variable("debug", environment("command", "LOG_LEVEL={}\n")),
    "timestamp_consumer_log_level": Variable(
        "warning",
        {
            **environment("consumer", "LOG_LEVEL={}\n"),
            REBUILD: "LOG_LEVEL={}\n",
            REBUILD_TASKS: "LOG_LEVEL: {}\n",
            MOVING_TASKS: "LOG_LEVEL: {}\n",
        },
    ),
    "timestamp_query_log_level": Variable("error", environment("query", "LOG_LEVEL={}\n")),
    "timestamp_command_environment": Variable({"OTHER_COMMAND": "on"}, environment("command", "{}=on\n")),
    "timestamp_consumer_environment": Variable(
        {"OTHER_CONSUMER": "on"},
        {
            **environment("consumer", "{}=on\n"),
            REBUILD: "{}=on\n",
            REBUILD_TASKS: "{}: 'on'\n",
            MOVING_TASKS: "{}: 'on'\n",
        },
    ),
    "timestamp_query_environment": Variable({"OTHER_QUERY": "on"}, environment("query", "{}=on\n")),
    "timestamp_traces_url": Variable("https://traces.example.org/api/v2/spans", of_traces("URL")),
    "timestamp_traces_per_second": Variable(77, of_traces("PER_SECOND")),
    "timestamp_traces_slow_seconds": Variable(2.75, of_traces("SLOW_SECONDS")),
    "timestamp_traces_networks": Variable(
        ["203.0.113.64/26"], {"timestamp-*/process.service.j2": "192.0.2.0/24 {}\n"}
    ),
    "timestamp_consumer_group_id": Variable(
        "timestamp-consumer-other",
        {
            "timestamp-consumer/process.env.j2": "KAFKA_GROUP_ID={}\n",
            "timestamp-consumer-next/process.env.j2": "KAFKA_GROUP_ID={}\n",
            "timestamp-command*/process.env.j2": "KAFKA_PROJECTION_GROUPS={},",
            "timestamp-consumer-kafka2*/process.env.j2": "KAFKA_GROUP_ID={}-kafka2\n",
            "timestamp-consumer-moving/process.env.j2": "KAFKA_GROUP_ID={}-next-database\n",
            REBUILD: "KAFKA_GROUP_ID={}\n",
            REBUILD_TASKS: "KAFKA_GROUP_ID: {}\n",
            "timestamp/tasks/moving_*.yml": "{}-next-database",
        },
        common=True,
    ),
    "timestamp_consumer_rebuild_strict": Variable(False, {REBUILD: "REBUILD_STRICT={}\n"}),
    "timestamp_consumer_rebuild_drop_unknown": Variable(True, {REBUILD: "REBUILD_DROP_UNKNOWN={}\n"}),
    "timestamp_unit_restart_seconds": Variable(1023, {PROCESS_UNITS: "RestartSec={}\n"}),
    "timestamp_unit_watchdog_seconds": Variable(1038, {PROCESS_UNITS: "WatchdogSec={}\n"}),
    "timestamp_unit_stop_seconds": Variable(1046, {"timestamp-*/process.service.j2": "TimeoutStopSec={}\n"}),
    "timestamp_unit_ready_seconds": Variable(1097, {"timestamp/tasks/process.yml": "timeout: {}\n"}),
    "timestamp_backup_folder": Variable(
        "/other/backup",
        {
            "timestamp_backup/tasks/backup.yml": "path: {}\n",
            "timestamp_backup/tasks/restore.yml": "src: {}/manifest.json\n",
            "timestamp_backup/tasks/preflight.yml": "no backup in {}:",
        },
    ),
    "timestamp_backup_memory_max": Variable(
        "513M",
        {
            "timestamp-backup/process.service.j2": "MemoryMax={}\n",
            "timestamp-restore/process.service.j2": "MemoryMax={}\n",
            "timestamp_backup/tasks/backup.yml": "memory_max: {}\n",
            "timestamp_backup/tasks/restore.yml": "memory_max: {}\n",
        },
    ),
    "upgrade_ready_seconds": Variable(1087, {"upgrade/tasks/gate.yml": "retries: {}\n"}),
    "upgrade_restarted_units": Variable(
        ["other-units"], {}, read_by=("upgrade/tasks/restart.yml", "upgrade_restarted_units | join")
    ),
    "virtual_address_addresses": Variable(
        ["192.0.2.201"],
        {
            "virtual_address/keepalived.conf.j2": "{}/32 dev eth0",
            "virtual_address/tasks/drain.yml": "--regexp={} ",
            "virtual_address/tasks/undrain.yml": "--fixed-strings {} ",
            "virtual_address/tasks/leave.yml": "--fixed-strings {} ",
            "certificates/tasks/certificate.yml": "- IP:{}\n",
        },
    ),
    "virtual_address_drain_seconds": Variable(
        # The loop waits for a fifth of a second each time.
        1117,
        {f"virtual_address/tasks/{name}.yml": "seq {})" for name in ("drain", "leave")},
        "5585",
    ),
    "local_node_state": Variable("stopped", {LOCAL_NODE: "state: {}\n"}),
    "local_node_machine_prefix": Variable("prefix-", {LOCAL_NODE: "machine_prefix: {}\n"}),
    "local_node_bridge": Variable("ts-another", {LOCAL_NODE: "bridge: {}\n"}),
    "local_node_gateway": Variable("203.0.113.9", {LOCAL_NODE: "gateway: {}/"}),
    "local_node_prefix_length": Variable(27, {LOCAL_NODE: "/{}\n"}),
    "local_node_state_folder": Variable("/other/state", {LOCAL_NODE: "state_folder: {}\n"}),
    "local_node_work_tree": Variable("/other/tree", {LOCAL_NODE: "work_tree: {}\n"}),
    "local_node_cache_folder": Variable("/other/cache", {LOCAL_NODE: "cache_folder: {}\n"}),
    "local_node_suite": Variable("bookworm", {LOCAL_NODE: "suite: {}\n"}),
    "local_node_mirror": Variable("https://mirror.example.org/debian", {LOCAL_NODE: "mirror: {}\n"}),
    "local_node_packages": Variable(["other-systemd"], {LOCAL_NODE: "- {}\n"}),
    "local_node_nameservers": Variable(["203.0.113.53"], {LOCAL_NODE: "- {}\n"}),
    "local_node_certificate_authorities_folder": Variable(
        "/other/authorities", {LOCAL_NODE: "certificate_authorities_folder: {}\n"}
    ),
    "local_node_wait_seconds": Variable(1069, {LOCAL_NODE: "wait_seconds: {}\n"}),
    "local_node_force": Variable(True, {LOCAL_NODE: "force: {}\n"}),
    "zipkin_spans_max": Variable(33311, {"zipkin/zipkin.service.j2": "MEM_MAX_SPANS={}\n"}, common=True),
    "zipkin_heap_mb": Variable(211, {"zipkin/zipkin.service.j2": " -Xmx{}m "}),
}
DEFAULTS: dict[str, Any] = {
    name: value for path in sorted(ROLES.glob("*/defaults/main.yml")) for name, value in read(path).items()
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return rendered.render_all(tmp_path_factory.mktemp("variables"), settings(apart=False))


def settings(apart: bool) -> dict[str, Any]:
    """Return the values of those variables that are set together, or of those that are set apart."""
    return {name: variable.value for name, variable in VARIABLES.items() if variable.apart == apart}


def joined(texts: Texts) -> dict[str, str]:
    """Return each file; where several hosts have it, one after the other."""
    files: dict[str, str] = {}
    for of_host in texts.values():
        for name, text in of_host.items():
            files[name] = files.get(name, "") + text
    return files


@pytest.fixture(scope="module")
def files(texts: Texts) -> dict[str, str]:
    return joined(texts)


@pytest.fixture(scope="module")
def files_apart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return joined(
        rendered.render_all(tmp_path_factory.mktemp("apart"), settings(apart=True), only=("nginx",))
    )


def holders(files: dict[str, str], word: str) -> set[str]:
    """Return the files that hold a word as a whole."""
    whole = re.compile(rf"(?<![\w.-]){re.escape(word)}(?!\w)")
    return {name for name, text in files.items() if whole.search(text)}


def is_distinctive(word: str) -> bool:
    """Tell whether nothing else is likely to be called the same."""
    is_quantity = len(word) == 3 and word[:2].isdigit() and word[2].isalpha()
    return (is_quantity or len(word) >= 4) and word not in (
        "true",
        "false",
        "info",
        "started",
        "stopped",
        "debug",
        "error",
        "warning",
    )


def test_every_variable_has_an_entry() -> None:
    assert set(VARIABLES) == set(DEFAULTS)


def test_no_two_variables_have_the_same_value() -> None:
    values = [variable.new for variable in VARIABLES.values() if is_distinctive(variable.new)]
    assert sorted(values) == sorted(set(values))


@pytest.mark.parametrize("name", VARIABLES)
def test_all_files_follow_the_variable(files: dict[str, str], files_apart: dict[str, str], name: str) -> None:
    variable, default = VARIABLES[name], DEFAULTS[name]
    files = files_apart if variable.apart else files
    # What is worked out has no default that could be written out.
    old = "" if rendered.names_in(str(default)) else variable.text(default)
    listed: set[str] = set()
    for pattern, text in variable.places.items():
        matching = fnmatch.filter(files, pattern)
        assert matching, f"there is no {pattern}"
        listed.update(matching)
        for file in matching:
            assert text.format(variable.new) in files[file], f"{file} does not follow {name}"
            assert not old or text.format(old) not in files[file], f"{file} has the default of {name} too"
    if variable.places and is_distinctive(variable.new):
        assert holders(files, variable.new) <= listed, f"more files than are listed follow {name}"
    if is_distinctive(old) and not variable.common:
        assert holders(files, old) == set(), f"the default of {name} is written out"


@pytest.mark.parametrize("name", [name for name, variable in VARIABLES.items() if not variable.places])
def test_variable_that_no_file_shows_is_read(name: str) -> None:
    read_by = VARIABLES[name].read_by
    assert read_by
    path, text = read_by
    assert text in (ROLES / path).read_text()


def only(pattern: str, text: str) -> str:
    """Return what the group of a pattern matches in the only line that matches it."""
    matches = set(re.findall(pattern, text, re.MULTILINE))
    assert len(matches) == 1, f"{pattern} matches {matches}"
    return str(matches.pop())


def test_nginx_uses_the_sockets_that_the_units_open(files: dict[str, str]) -> None:
    upstreams = set(re.findall(r"server unix:([^ ;]+)", files[NGINX]))
    links = {
        only(r"^Symlinks=(.*)$", files[f"timestamp-{process}/process.socket.j2"])
        for process in ("command", "query")
    }
    assert upstreams == links


def test_nginx_may_open_as_many_files_as_its_unit_allows(files: dict[str, str]) -> None:
    limit = only(r"^worker_rlimit_nofile (\d+);", files[NGINX])
    assert limit == only(r"^LimitNOFILE=(\d+)", files["nginx/service.conf.j2"])
    assert int(limit) >= 2 * VARIABLES["nginx_connections"].value


@pytest.mark.parametrize("process", ["command", "consumer", "query"])
def test_process_and_socket_have_the_same_port(files: dict[str, str], process: str) -> None:
    for suffix in ("", "-next"):
        settings, socket, service = (
            files[f"timestamp-{process}{suffix}/process.{ending}.j2"]
            for ending in ("env", "socket", "service")
        )
        port = only(r"^SERVER_PORT=(\d+)", settings)
        assert f"ListenStream=127.0.0.1:{port}\n" in socket
        assert f"/timestamp-{process}{suffix}.env\n" in service


def test_nginx_reads_the_metrics_of_each_consumer_at_its_port(files: dict[str, str]) -> None:
    for consumer in ("consumer", "consumer-kafka2"):
        port = only(r"^SERVER_PORT=(\d+)", files[f"timestamp-{consumer}/process.env.j2"])
        location = files[NGINX].partition(f"location = /{consumer}/metrics {{")[2].partition("\n    }\n")[0]
        assert f"proxy_pass http://127.0.0.1:{port}/metrics;" in location


def test_clients_use_the_ports_that_servers_and_firewall_open(files: dict[str, str]) -> None:
    command = files["timestamp-command/process.env.j2"]
    ports = {broker.rpartition(":")[2] for broker in only(r"^KAFKA_BROKER=(.*)$", command).split(",")}
    assert ports == {only(r"^listeners=BROKER://[^,:]+:(\d+)", files[KAFKA_SETTINGS])}
    database = only(r"^DB_URL=postgresql://[^:]+:(\d+)/", files["timestamp-query/process.env.j2"])
    rules = files["firewall/firewall.nft.j2"]
    assert ports == {only(r'tcp dport (\d+) accept comment "Kafka, from', rules)}
    assert database == only(r'tcp dport \{ (\d+) \} accept comment "PostgreSQL', rules)


def test_database_and_firewall_let_the_same_clients_in(texts: Texts) -> None:
    of_host = texts[KAFKA[0]]
    clients = [ADDRESSES[name] for name in WEB]
    rule = only(
        r"ip saddr \{ (.*) \} tcp dport \{ \d+ \} accept comment \"PostgreSQL",
        of_host["firewall/firewall.nft.j2"],
    )
    assert rule.split(", ") == clients
    assert re.findall(r"^hostssl .* (\S+)/32 ", of_host["postgresql/pg_hba.conf.j2"], re.M) == clients


def test_servers_read_the_certificates_that_the_roles_place(files: dict[str, str]) -> None:
    for settings, pattern, tasks in (
        ("postgresql/settings.conf.j2", r"ssl_cert_file = '(.*)'", "postgresql/tasks/configure.yml"),
        ("postgresql/settings.conf.j2", r"ssl_key_file = '(.*)'", "postgresql/tasks/configure.yml"),
        (NGINX, r"^  ssl_certificate (.*);", "nginx/tasks/configure.yml"),
        (NGINX, r"^  ssl_certificate_key (.*);", "nginx/tasks/configure.yml"),
        (KAFKA_SETTINGS, r"ssl.keystore.location=(.*)", "kafka/tasks/configure.yml"),
    ):
        assert f"dest: {only(pattern, files[settings])}\n" in files[tasks]


def test_clients_trust_the_authority_that_the_roles_place(files: dict[str, str]) -> None:
    authority = only(r"dest: (.*)$", files["certificates/tasks/place.yml"])
    for settings, pattern in (
        (KAFKA_SETTINGS, r"^ssl.truststore.location=(.*)$"),
        ("timestamp-command/process.env.j2", r"^KAFKA_CA_FILE=(.*)$"),
        ("timestamp-query/process.env.j2", r"sslrootcert=(\S+)$"),
    ):
        assert only(pattern, files[settings]) == authority


def test_consumer_may_use_its_group(files: dict[str, str]) -> None:
    group = only(r"^KAFKA_GROUP_ID=(.*)$", files["timestamp-consumer/process.env.j2"])
    play = yaml.safe_load(files[KAFKA_SERVICE])
    task = next(task for task in rendered.tasks(play) if "kafka_resources" in task)
    rules = task["kafka_resources"]["rules"]
    names = [
        rule["name"]
        for rule in rules
        if rule["principal"] == "timestamp-consumer" and rule["resource"] == "group" and rule["prefixed"]
    ]
    assert any(group.startswith(name) for name in names)
