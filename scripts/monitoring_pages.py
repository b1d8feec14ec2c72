"""`make docs`: docs/alerts.md as a page of the dashboard, and the dashboard's queries for Grafana."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

PROJECT = Path(__file__).resolve().parents[1]
FILES = PROJECT / "roles/monitoring/files"
PAGE = """<!doctype html>
<html lang="en">
<!-- Made by `make docs` from docs/alerts.md: edit that. -->
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>Alerts · timestamp-service</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="dashboard.css">
</head>
<body>
<header><a href="./">← Dashboard</a></header>
<main class="paper">
{content}</main>
</body>
</html>
"""
# Grafana's names of the units.
UNITS = {
    "/s": "ops",
    "s": "s",
    "%": "percent",
    "d": "d",
    "bytes": "decbytes",
    "share": "percentunit",
    "": "none",
}
PANELS_IN_A_ROW, WIDTH, HEIGHT = 3, 8, 7


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def alerts_page(text: str) -> str:
    """Return docs/alerts.md as a page of the dashboard, where the other pages of docs/ are not."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[index + 1].content))
        for inner in token.children or []:
            if inner.type == "link_open" and not str(inner.attrGet("href")).startswith("#"):
                inner.attrs = {"class": "elsewhere", "title": f"docs/{inner.attrGet('href')}"}
    return PAGE.format(content=markdown.renderer.render(tokens, markdown.options, {}))


def targets(series: list[dict[str, str]], instant: bool) -> list[dict[str, Any]]:
    """Return the queries of one of Grafana's panels, which names the width of a point itself."""
    return [
        {
            "refId": chr(ord("A") + number),
            "expr": one["query"].replace("$window", "$__rate_interval"),
            "legendFormat": one.get("label", "").strip() or one.get("title", ""),
            "instant": instant,
            "range": not instant,
        }
        for number, one in enumerate(series)
    ]


def grafana(queries: dict[str, Any]) -> str:
    """Return what the page shows as a dashboard of Grafana, where one chooses the source of data."""
    shown = [(one["title"], one["unit"], one["series"], "timeseries") for one in queries["panels"]]
    shown += [(one["title"], one["unit"], [one], "stat") for one in queries["facts"]]
    panels = []
    for number, (title, unit, series, kind) in enumerate(shown):
        row, column = divmod(number, PANELS_IN_A_ROW)
        panels.append(
            {
                "id": number + 1,
                "type": kind,
                "title": title,
                "datasource": {"type": "prometheus", "uid": "${source}"},
                "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
                "fieldConfig": {"defaults": {"unit": UNITS[unit], "min": 0}, "overrides": []},
                # The names of the nodes' versions are all that their figure says.
                **({"options": {"textMode": "name"}} if title == "Versions of the nodes" else {}),
                "targets": targets(series, kind == "stat"),
            }
        )
    dashboard = {
        "title": "timestamp-service",
        "uid": "timestamp-service",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }
    return json.dumps(dashboard, indent=2) + "\n"


def pages() -> dict[Path, str]:
    """Return every file that is made here, and what must stand in it."""
    queries = json.loads((FILES / "dashboard/queries.json").read_text())
    return {
        FILES / "dashboard/alerts.html": alerts_page((PROJECT / "docs/alerts.md").read_text()),
        FILES / "grafana.json": grafana(queries),
    }


def stale() -> list[Path]:
    """Return the files that are missing or differ from what would be made."""
    return [path for path, text in pages().items() if not path.exists() or path.read_text() != text]


def main() -> int:
    """Make what is not up to date."""
    for path in stale():
        path.write_text(pages()[path])
        print(path.relative_to(PROJECT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
