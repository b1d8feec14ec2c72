"""The changes that Kafka needs are computed from what is listed and what exists."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import kafka_client
import pytest
from conftest import RunModule, load_module

kafka_resources = load_module("kafka", "kafka_resources")
kafka, library = kafka_resources.kafka, kafka_resources.library


def ended(value: Any = None) -> Future[Any]:
    """Return a future as the library gives it, with its result."""
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def as_tuple(rule: Any) -> tuple[Any, ...]:
    """Return what a rule, or the filter that names it, says."""
    return (
        *(rule.restype, rule.name, rule.resource_pattern_type, rule.principal, rule.host),
        *(rule.operation, rule.permission_type),
    )


class FakeCluster:
    """A Kafka of the test's own. `changes` has the kinds of what was changed."""

    bootstrap_servers = "kafka.test:9092"

    def __init__(self) -> None:
        self.topics: dict[str, int] = {}
        self.settings: dict[str, dict[str, str]] = {}
        self.passwords = {"admin": "open sesame"}
        # Those of the other mechanism, SCRAM-SHA-256.
        self.others: dict[str, str] = {}
        self.rules: dict[tuple[Any, ...], Any] = {}
        self.changes: list[str] = []
        self.refuses_topics = False

    def client(self, username: str, password: str, mechanism: str, errors: list[Any]) -> FakeAdmin:
        held = self.held(kafka.ScramMechanism[mechanism.replace("-", "_")])
        return FakeAdmin(self, held.get(username) == password, errors)

    def held(self, mechanism: Any) -> dict[str, str]:
        """Return the passwords of a mechanism."""
        return self.passwords if mechanism == kafka.ScramMechanism.SCRAM_SHA_512 else self.others

    def add_rule(self, principal: str, **changes: str) -> None:
        rule = kafka_resources.Rule(
            principal,
            **{"resource": "topic", "name": "t", "pattern": "literal", "operation": "read", **changes},
        ).binding(kafka.AclBinding)
        self.rules[as_tuple(rule)] = rule

    def rules_of(self, principal: str) -> set[str]:
        client = self.client("admin", "open sesame", "SCRAM-SHA-512", [])
        return {str(rule) for rule in kafka_resources.existing_rules(client, principal)}


class FakeAdmin:
    """What the module uses of the library's AdminClient."""

    def __init__(self, cluster: FakeCluster, welcome: bool, errors: list[Any]) -> None:
        self.cluster, self.welcome, self.errors = cluster, welcome, errors

    def list_topics(self, **_: Any) -> Any:
        if not self.welcome:
            self.errors.append(library.KafkaError(library.KafkaError._AUTHENTICATION, "wrong password"))
            raise library.KafkaException(library.KafkaError(library.KafkaError._TRANSPORT))
        return SimpleNamespace(topics=dict.fromkeys(self.cluster.topics))

    def poll(self, _timeout: float) -> None:
        pass

    def describe_topics(self, _names: Any, **_: Any) -> Any:
        return {
            name: ended(SimpleNamespace(partitions=[None] * count))
            for name, count in self.cluster.topics.items()
        }

    def create_topics(self, topics: list[Any], **_: Any) -> Any:
        self.cluster.changes.append("create topics")
        if self.cluster.refuses_topics:
            refused: Future[None] = Future()
            refused.set_exception(
                library.KafkaException(library.KafkaError(library.KafkaError.POLICY_VIOLATION))
            )
            return dict.fromkeys((topic.topic for topic in topics), refused)
        for topic in topics:
            self.cluster.topics[topic.topic] = topic.num_partitions
            self.cluster.settings[topic.topic] = {**topic.config}
        return {topic.topic: ended() for topic in topics}

    def describe_configs(self, resources: list[Any], **_: Any) -> Any:
        return {
            resource: ended(
                {
                    key: SimpleNamespace(value=value)
                    for key, value in self.cluster.settings.get(resource.name, {}).items()
                }
            )
            for resource in resources
        }

    def incremental_alter_configs(self, resources: list[Any], **_: Any) -> Any:
        self.cluster.changes.append("alter settings")
        for resource in resources:
            entries = {entry.name: entry.value for entry in resource.incremental_configs}
            self.cluster.settings.setdefault(resource.name, {}).update(entries)
        return {resource: ended() for resource in resources}

    def describe_user_scram_credentials(self, **_: Any) -> Any:
        mechanisms = (kafka.ScramMechanism.SCRAM_SHA_512, kafka.ScramMechanism.SCRAM_SHA_256)
        names = {name for mechanism in mechanisms for name in self.cluster.held(mechanism)}
        return ended(
            {
                name: SimpleNamespace(
                    scram_credential_infos=[
                        SimpleNamespace(mechanism=mechanism)
                        for mechanism in mechanisms
                        if name in self.cluster.held(mechanism)
                    ]
                )
                for name in names
            }
        )

    def alter_user_scram_credentials(self, alterations: list[Any]) -> Any:
        self.cluster.changes.append("set passwords")
        for alteration in alterations:
            if isinstance(alteration, kafka.UserScramCredentialDeletion):
                del self.cluster.held(alteration.mechanism)[alteration.user]
            else:
                held = self.cluster.held(alteration.scram_credential_info.mechanism)
                held[alteration.user] = alteration.password.decode()
        return {alteration.user: ended() for alteration in alterations}

    def describe_acls(self, wanted: Any, **_: Any) -> Any:
        return ended([rule for rule in self.cluster.rules.values() if rule.principal == wanted.principal])

    def create_acls(self, rules: list[Any], **_: Any) -> Any:
        self.cluster.changes.append("create rules")
        self.cluster.rules |= {as_tuple(rule): rule for rule in rules}
        return {rule: ended() for rule in rules}

    def delete_acls(self, filters: list[Any], **_: Any) -> Any:
        self.cluster.changes.append("delete rules")
        for named in filters:
            self.cluster.rules.pop(as_tuple(named), None)
        return {named: ended([]) for named in filters}


TOPIC_SETTINGS = {"config": {"retention.ms": -1}, "initial_config": {"min.insync.replicas": 2}}
LISTED: dict[str, Any] = {
    "topics": [{"name": "t", "partitions": 3, "replication_factor": 1, **TOPIC_SETTINGS}],
    "passwords": {"p": "right"},
    "absent_users": ["old"],
    "rules": [{"principal": "p", "resource": "topic", "name": "t", "operations": ["read"]}],
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    # One logs the administrator in, the other tries the passwords of users.
    for module in (kafka_client, kafka_resources):
        monkeypatch.setattr(module, "Cluster", lambda *_: made)
    return made


@pytest.fixture
def converge(cluster: FakeCluster, run_module: RunModule) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the module against the cluster."""
    access = {"bootstrap_servers": "x", "ca_file": "/x", "username": "admin", "password": "open sesame"}

    def run(check_mode: bool = False, **changes: Any) -> dict[str, Any]:
        cluster.changes.clear()
        return run_module(kafka_resources, {**access, **LISTED, **changes}, check_mode)

    return run


Converge = Callable[..., dict[str, Any]]


def outdate(cluster: FakeCluster) -> None:
    """Let each kind of thing be there and differ from what is listed."""
    cluster.topics["t"] = 3
    cluster.settings["t"] = {"retention.ms": "1000", "cleanup.policy": "delete"}
    cluster.passwords |= {"p": "wrong", "old": "x"}
    for changes in ({"operation": "write"}, {"permission": "deny"}, {"host": "192.0.2.1"}):
        cluster.add_rule("p", **changes)


def test_everything_that_is_missing_is_created_once(cluster: FakeCluster, converge: Converge) -> None:
    assert converge()["changed"]
    assert cluster.topics == {"t": 3}
    assert cluster.settings == {"t": {"retention.ms": "-1", "min.insync.replicas": "2"}}
    assert cluster.passwords["p"] == "right"
    assert cluster.rules_of("p") == {"p allow read on topic t (literal) from *"}
    assert not converge()["changed"]
    assert cluster.changes == []


def test_everything_that_differs_is_corrected_once(cluster: FakeCluster, converge: Converge) -> None:
    outdate(cluster)
    assert converge()["changed"]
    assert cluster.settings["t"] == {"retention.ms": "-1", "cleanup.policy": "delete"}
    assert cluster.passwords == {"admin": "open sesame", "p": "right"}
    assert cluster.rules_of("p") == {"p allow read on topic t (literal) from *"}
    assert not converge()["changed"]
    assert cluster.changes == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"permission": "deny"}, "p deny read on topic t (literal) from *"),
        ({"host": "192.0.2.1"}, "p allow read on topic t (literal) from 192.0.2.1"),
        ({"pattern": "prefixed"}, "p allow read on topic t (prefixed) from *"),
        ({"resource": "group"}, "p allow read on group t (literal) from *"),
    ],
)
def test_each_rule_that_is_not_listed_is_removed(
    cluster: FakeCluster, converge: Converge, changes: dict[str, str], rule: str
) -> None:
    converge()
    cluster.add_rule("p", **changes)
    assert converge()["changes"] == [rule]
    assert cluster.changes == ["delete rules"]
    assert cluster.rules_of("p") == {"p allow read on topic t (literal) from *"}


def test_what_is_not_listed_stays(cluster: FakeCluster, converge: Converge) -> None:
    cluster.add_rule("other")
    cluster.passwords["other"] = "x"
    cluster.topics["other"] = 1
    converge()
    assert cluster.rules_of("other") == {"other allow read on topic t (literal) from *"}
    assert (cluster.passwords["other"], cluster.topics["other"]) == ("x", 1)


@pytest.mark.parametrize("exists", [False, True])
def test_check_mode_changes_nothing_and_says_what_it_would(
    cluster: FakeCluster, converge: Converge, exists: bool
) -> None:
    if exists:
        outdate(cluster)
    would = converge(check_mode=True)
    assert cluster.changes == []
    assert would["changed"]
    assert would["changes"] == converge()["changes"]


def test_another_number_of_partitions_is_an_error(cluster: FakeCluster, converge: Converge) -> None:
    cluster.topics["t"] = 2
    assert "topic t has 2 partitions, not 3" in converge()["msg"]
    assert cluster.changes == []


def test_topic_that_is_refused_is_an_error(cluster: FakeCluster, converge: Converge) -> None:
    cluster.refuses_topics = True
    assert converge()["failed"]


def test_password_of_the_administrator_that_is_refused_is_an_error(
    cluster: FakeCluster, converge: Converge
) -> None:
    cluster.passwords["admin"] = "another"
    assert "kafka.test:9092 refuses the password of admin" in converge()["msg"]


def test_user_has_two_passwords_while_one_is_changed(cluster: FakeCluster, converge: Converge) -> None:
    converge()
    added = {"passwords": {"p": "next"}, "mechanism": "SCRAM-SHA-256"}
    assert converge(**added)["changes"] == ["user p with its password (SCRAM-SHA-256)"]
    assert (cluster.passwords["p"], cluster.others) == ("right", {"p": "next"})
    assert not converge(**added)["changed"]
    changes = converge(passwords={"p": "next"})["changes"]
    assert changes == ["user p -> user p with its password (SCRAM-SHA-512)"]
    assert (cluster.passwords["p"], cluster.others) == ("next", {"p": "next"})
    last = {"passwords": {"p": "next"}, "exclusive": True}
    assert converge(check_mode=True, **last)["changes"] == ["user p (SCRAM-SHA-256)"]
    assert converge(**last)["changes"] == ["user p (SCRAM-SHA-256)"]
    assert (cluster.passwords["p"], cluster.others) == ("next", {})
    assert not converge(**last)["changed"]


def test_administrator_logs_in_in_the_middle_of_a_change(cluster: FakeCluster, converge: Converge) -> None:
    cluster.others["admin"] = "open sesame"
    cluster.passwords["admin"] = "another"
    assert converge()["changed"]
    assert not converge()["changed"]


def test_settings_are_compared_as_kafka_writes_them() -> None:
    assert [kafka_resources.as_setting(value) for value in (True, -1, "delete")] == ["true", "-1", "delete"]


def test_each_operation_is_a_rule() -> None:
    listed = [
        {
            "principal": "p",
            "resource": "topic",
            "name": "t",
            "prefixed": False,
            "operations": ["read", "write"],
        },
        {"principal": "p", "resource": "group", "name": "g", "prefixed": True, "operations": ["read"]},
    ]
    assert kafka_resources.listed_rules(listed) == {
        kafka_resources.Rule("p", "topic", "t", "literal", "read"),
        kafka_resources.Rule("p", "topic", "t", "literal", "write"),
        kafka_resources.Rule("p", "group", "g", "prefixed", "read"),
    }


def test_rule_of_one_host_or_of_a_denial_is_another_rule() -> None:
    wanted = kafka_resources.Rule("p", "topic", "t", "literal", "read")
    from_host = kafka_resources.Rule("p", "topic", "t", "literal", "read", host="192.0.2.1")
    denial = kafka_resources.Rule("p", "topic", "t", "literal", "read", permission="deny")
    assert len({wanted, from_host, denial}) == 3


def test_rule_says_the_same_to_the_cluster() -> None:
    binding = kafka_resources.Rule("p", "group", "g", "prefixed", "read").binding(
        kafka_resources.kafka.AclBinding
    )
    assert (binding.restype.name, binding.name, binding.resource_pattern_type.name) == (
        "GROUP",
        "g",
        "PREFIXED",
    )
    assert (binding.principal, binding.host) == ("User:p", "*")
    assert (binding.operation.name, binding.permission_type.name) == ("READ", "ALLOW")


def test_change_names_both_sides() -> None:
    assert str(kafka_resources.Change("a=1", "a=2")) == "a=1 -> a=2"
    assert str(kafka_resources.Change("", "a=2")) == "a=2"
