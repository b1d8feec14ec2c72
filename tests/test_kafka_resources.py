"""The changes that Kafka needs are computed from what is listed and what exists."""

from __future__ import annotations

from conftest import load_module

kafka_resources = load_module("kafka", "kafka_resources")


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
