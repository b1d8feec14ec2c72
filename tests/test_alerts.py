"""Each alert is tried by promtool, asks for metrics that exist, and leads to a paragraph: what to do."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_docs import anchors

PROJECT = Path(__file__).resolve().parents[1]
RULES = PROJECT / "roles/monitoring/files/alerts.yml"
CASES = sorted((PROJECT / "tests").glob("alerts*_test.yml"))
PARAGRAPHS = PROJECT / "docs/alerts.md"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
LINK = "{{ $externalURL }}/alerts.html#"
each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])

# What Prometheus, Alertmanager and Debian's exporters call theirs.
OF_OTHERS = {
    "up",
    "node_time_seconds",
    "pg_up",
    "pg_exporter_last_scrape_error",
    "pg_settings_max_connections",
    "pg_stat_activity_count",
    "prometheus_config_last_reload_successful",
    "prometheus_notifications_dropped_total",
    "prometheus_rule_evaluation_failures_total",
    "alertmanager_config_last_reload_successful",
    "alertmanager_notifications_failed_total",
}
SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_count", "_sum")}
METRIC = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b|\bup\b")
FUNCTIONS = {"histogram_quantile", "max_over_time", "predict_linear", "group_left", "group_right"}


def of_the_application() -> Iterator[str]:
    """Yield the names under which Prometheus knows the metrics that the application's code creates."""
    for path in sorted((PROJECT / "app/timestamp_service").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Name(kind), [ast.Constant(str(name)), *_]) if kind in SUFFIXES:
                    yield from (f"{name}{suffix}" for suffix in SUFFIXES[kind])


def of_nodes() -> Iterator[str]:
    """Yield the names of what each node writes for its exporter, and of what the canary does."""
    text = (PROJECT / "roles/base/files/node_state.py").read_text()
    yield from (f"timestamp_node_{end}" for end in re.findall(r'f"\{name\}(\w+)"', text))
    yield from (f"timestamp_volume_{what}_bytes" for what in re.findall(r'\("(free|size)", "', text))
    yield from re.findall(r"# TYPE (\w+) ", (PROJECT / "roles/monitoring/files/canary.py").read_text())


def of_kafka() -> Iterator[str]:
    """Yield the names that the JMX agent gives to what it reads of a broker."""
    agent = yaml.safe_load((PROJECT / "roles/kafka/files/jmx.yml").read_text())
    for rule in agent["rules"]:
        # $1 stands for what the first group takes: one of some words.
        words = re.search(r"\(([\w|-]+)\)", rule["pattern"])
        for word in words[1].split("|") if words else [""]:
            name = rule["name"].replace("$1", word).replace("-", "_").lower()
            yield f"{name}_total" if rule["type"] == "COUNTER" else name


def metrics_of(expression: str) -> set[str]:
    """Return the names of metrics in a query."""
    text = re.sub(r'"[^"]*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    text = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
    return set(METRIC.findall(text)) - FUNCTIONS


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_valid() -> None:
    promtool("check", "rules", RULES)


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_rules_fire_when_they_should(cases: Path) -> None:
    promtool("test", "rules", cases)


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    tried = defaultdict(set)
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for wanted in case["alert_rule_test"]:
                tried[wanted["alertname"]].add(bool(wanted["exp_alerts"]))
    # It always fires.
    tried["Watchdog"].add(False)
    assert tried == {alert["alert"]: {True, False} for alert in ALERTS}


@each_alert
def test_alert_says_how_urgent_it_is_what_happens_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket", "none")
    assert set(alert["annotations"]) == {"summary", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == LINK + alert["alert"].lower()


def test_every_alert_has_a_paragraph_and_every_paragraph_an_alert() -> None:
    text = PARAGRAPHS.read_text()
    described = re.findall(r"(?m)^### (\w+)\n\n\*\*(\w+)\.\*\* ((?:.+\n)+)", text)
    assert {name: severity for name, severity, _ in described} == {
        alert["alert"]: alert["labels"]["severity"] for alert in ALERTS
    }
    assert len(described) == len(ALERTS) == len(re.findall(r"(?m)^### ", text))
    assert {alert["alert"].lower() for alert in ALERTS} < anchors(text)
    for name, _, paragraph in described:
        assert "**Look**" in paragraph, name
        assert "**Do**" in paragraph, name


def test_names_of_metrics_are_found_in_a_query() -> None:
    query = 'max by (a_b) (x_y{c="d_e", f_g!~"h"}[5m]) / on (i_j) group_left up > scalar(k_l_total)'
    assert metrics_of(query) == {"x_y", "up", "k_l_total"}
    assert {"timestamp_http_request_duration_seconds_count", "timestamp_consumer_dead_letters_total"} <= set(
        of_the_application()
    )


KNOWN = OF_OTHERS | {*of_the_application(), *of_nodes(), *of_kafka()}


@each_alert
def test_alert_asks_for_metrics_that_exist(alert: dict[str, Any]) -> None:
    assert metrics_of(alert["expr"]) - KNOWN == set()
