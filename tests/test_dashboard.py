"""The dashboard's files: what is not ours is what npm has, and what is made from others is up to date."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_alerts import ALERTS, KNOWN, metrics_of
from test_docs import anchors

from scripts import monitoring_pages

PROJECT = Path(__file__).resolve().parents[1]
FILES = PROJECT / "roles/monitoring/files"
DASHBOARD = FILES / "dashboard"
QUERIES: dict[str, Any] = json.loads((DASHBOARD / "queries.json").read_text())
# Each query of the page by what it is for.
ASKED = {f"{one['id']} {line['label']}": line["query"] for one in QUERIES["panels"] for line in one["series"]}
ASKED |= {one["id"]: one["query"] for one in QUERIES["facts"]}


def test_files_of_uplot_are_those_of_npm() -> None:
    pinned = (PROJECT / "requirements/uplot.sha256").read_text().splitlines()
    assert {line for line in pinned if not line.startswith("#")} == {
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        for path in DASHBOARD.iterdir()
        if path.name == "LICENSE" or path.name.startswith("uPlot")
    }


def test_what_is_made_from_other_files_is_up_to_date() -> None:
    assert monitoring_pages.stale() == [], "run `make docs`"


def test_page_of_the_alerts_has_the_paragraphs_that_the_dashboard_links_to() -> None:
    page = (DASHBOARD / "alerts.html").read_text()
    there = set(re.findall(r'<h\d id="([^"]+)"', page))
    assert there == anchors((PROJECT / "docs/alerts.md").read_text())
    assert {alert["alert"].lower() for alert in ALERTS} < there
    # Other pages of docs/ are not on the monitoring host.
    assert {link for link in re.findall(r'href="([^"]*)"', page) if link[1:] not in there} == {
        "data:,",
        "dashboard.css",
        "./",
    }


def test_grafana_asks_what_the_page_asks() -> None:
    dashboard = json.loads((FILES / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert [query.replace("$__rate_interval", "$window") for query in asked] == list(ASKED.values())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", ASKED)
def test_page_asks_for_metrics_that_exist(name: str) -> None:
    assert metrics_of(ASKED[name]) - KNOWN == set()


def test_policy_is_kept_by_the_page() -> None:
    """The nginx of the monitoring host allows no script, no style and no handler within the page."""
    for name in ("index.html", "alerts.html"):
        page = (DASHBOARD / name).read_text()
        assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|javascript:", page) == []
    script = (DASHBOARD / "dashboard.js").read_text()
    assert re.findall(r"\beval\(|innerHTML|insertAdjacentHTML|document\.write", script) == []
