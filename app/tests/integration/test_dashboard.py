"""The dashboard in a real browser, with a real Prometheus behind it (`make test-docs`)."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.browser import Browser, browser
from tests.integration.figures import Figures
from tests.integration.processes import until
from tests.integration.prometheus import DASHBOARD, Site, prometheus

pytestmark = pytest.mark.browser

ARROW_LEFT, ARROW_RIGHT, TAB = "\ue012", "\ue014", "\ue004"
CHARTS = ("requests", "errors", "acknowledgement", "records", "lag")
TABLES = ("brokers", "databases", "disks", "certificates", "nodes")
LOOKS = [(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]
# What stands in the place of a figure that is not there.
NOTHING = "\u2013"


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has watched a service in which all is well."""
    figures = Figures(time.time(), ill=False)
    with prometheus(tmp_path_factory.mktemp("well") / "prometheus", figures.openmetrics()) as url:
        yield url


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has watched one of which a broker is away."""
    figures = Figures(time.time(), ill=True)
    with prometheus(tmp_path_factory.mktemp("ill") / "prometheus", figures.openmetrics()) as url:
        yield url


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(None)
    yield site
    site.end()


def show(page: Browser, site: Site, width: int = 1280, scheme: str = "light") -> None:
    """Open the dashboard anew, and wait until it is drawn."""
    page.look(width, 1000, scheme)
    page.open("about:blank")
    page.log("browser")
    page.open(site.url)
    until("the dashboard is drawn", lambda: page.text("#updated"), 90)


def redraw(page: Browser, script: str) -> None:
    """Run a script after which the dashboard is drawn again, and wait until it is."""
    page.run(f"document.querySelector('#updated').textContent = ''; {script}")
    until("it is drawn again", lambda: page.text("#updated"), 90)


def drawn(page: Browser, chart: str) -> float:
    """Return the share of a chart's pixels that are not empty."""
    share: float = page.run(
        f"const canvas = document.querySelector('#{chart} canvas');"
        "const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return data.filter((value, i) => i % 4 === 3 && value > 0).length / data.length * 4;"
    )
    return share


def label(page: Browser, chart: str) -> str:
    """Return what a chart says to who does not see it."""
    said: str = page.run(f"return document.querySelector('#{chart} .chart').getAttribute('aria-label')")
    return said


def contrast(page: Browser, selector: str) -> float:
    """Return the contrast of a text with what is behind it (WCAG 2.2, 1.4.3)."""
    ratio: float = page.run(
        f"const text = document.querySelector({json.dumps(selector)});"
        "let over = text, back;"
        "const numbers = colour => colour.match(/[\\d.]+/g).map(Number);"
        "const background = () => numbers(getComputedStyle(over).backgroundColor);"
        "while ((back = background())[3] === 0) over = over.parentElement;"
        "const light = colour => colour.slice(0, 3).map(value => value / 255)"
        ".map(value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)"
        ".reduce((sum, value, i) => sum + value * [.2126, .7152, .0722][i], .05);"
        "const both = [light(numbers(getComputedStyle(text).color)), light(back)];"
        "return Math.max(...both) / Math.min(...both);"
    )
    return ratio


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_all_is_well(page: Browser, site: Site, well: str, width: int, scheme: str) -> None:
    site.prometheus = well
    show(page, site, width, scheme)

    assert page.text("#word") == "Up"
    assert page.text("#sentence").startswith("Records are accepted and can be read")
    assert page.run("return document.title") == "Up · timestamp-service"
    assert page.text("#firing") == ""
    assert "19 of 19" in page.text("#figures")
    assert page.text("#rules").startswith("34\u00a0rules, evaluated")
    for chart in CHARTS:
        assert drawn(page, chart) > 0.01, chart
        assert NOTHING not in label(page, chart)
    assert page.text("#brokers-said") == "✓ All 3 brokers answer, all replicas are in sync."
    assert page.text("#databases-said") == "✓ All have what was recorded."
    assert "66\u00a0days" in page.text("#disks-said")
    assert "296" in page.text("#certificates-said")
    assert "0.2.0-1ff639c3babf" in page.text("#nodes")
    # Nothing of the page is cut off.
    assert page.run("return document.documentElement.scrollWidth") <= width
    for selector in ("#word", "#sentence", "#figures dt", ".legend li", ".said", "tbody small", "#rules"):
        assert contrast(page, selector) >= 4.5, selector
    assert page.log("browser") == []


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_broker_is_away(page: Browser, site: Site, ill: str, width: int, scheme: str) -> None:
    site.prometheus = ill
    show(page, site, width, scheme)

    assert page.text("#word") == "In trouble"
    assert "partitions have fewer replicas in sync" in page.text("#sentence")
    # Not by its colour alone.
    assert page.text("#firing li").startswith("▲ PAGE")
    assert "● TICKET" in page.text("#firing")
    assert page.text("#brokers-said").startswith("✕ 6")
    assert "▲ no answer" in page.text("#brokers")
    assert "▲ 12" in page.text("#certificates")
    assert "≠ 0.1.9" in page.text("#nodes")
    assert page.run("return document.documentElement.scrollWidth") <= width
    for selector in ("#word", "#sentence", "#firing a", ".severity", ".since", ".said.bad", "td.warn"):
        assert contrast(page, selector) >= 4.5, selector
    assert page.log("browser") == []


def test_an_alert_leads_to_its_paragraph(page: Browser, site: Site, ill: str) -> None:
    site.prometheus = ill
    show(page, site)
    page.click("#firing a[href$=partitionsunderminimum]")
    until("its page is open", lambda: page.text("h3:target") == "PartitionsUnderMinimum")
    assert "start a broker" in page.text("h3:target + p")
    assert page.log("browser") == []


@pytest.mark.parametrize("span", [21_600, 86_400, 604_800, 2_592_000, 7_776_000])
def test_every_span_is_drawn(page: Browser, site: Site, well: str, span: int) -> None:
    site.prometheus = well
    show(page, site)
    redraw(page, f"document.querySelector('input[value=\"{span}\"]').click()")
    assert page.run("return location.hash") == f"#{span}"
    for chart in CHARTS:
        assert drawn(page, chart) > 0.01, chart
    assert page.log("browser") == []


def test_an_hour_that_was_not_watched_is_a_gap(page: Browser, site: Site, well: str) -> None:
    site.prometheus = well
    show(page, site)
    redraw(page, "document.querySelector('input[value=\"86400\"]').click()")
    missing = page.run("return charts.get('requests').plot.data[1].filter(value => value === null).length")
    # A point is six minutes wide.
    assert 8 <= missing <= 11


def test_keys_reach_everything(page: Browser, site: Site, well: str) -> None:
    site.prometheus = well
    show(page, site)
    wanted = ["span", *CHARTS, *TABLES, "alerts.html"]
    reached = []
    for _ in wanted:
        page.press(TAB)
        name = "const e = document.activeElement; return e.name || e.querySelector('table')?.id"
        reached.append(page.run(f"{name} || e.closest('figure')?.id || e.getAttribute('href')"))
    assert reached == wanted

    page.run("document.querySelector('#requests .chart').focus()")
    newest = label(page, "requests")
    assert newest.startswith("Requests. Newest: all but errors")
    page.press(ARROW_LEFT)
    page.press(ARROW_LEFT)
    before = label(page, "requests")
    page.press(ARROW_RIGHT)
    assert len({newest, before, label(page, "requests")}) == 3

    page.run("document.querySelector('#spans input').focus()")
    page.press(ARROW_RIGHT)
    assert page.run("return location.hash") == "#21600"


def test_prometheus_does_not_answer(page: Browser, site: Site, well: str) -> None:
    page.open(site.url)
    until("it says so", lambda: page.text("#word") == "Not known")
    assert page.text("#sentence") == "Prometheus does not answer (502). There is nothing to show."

    # It comes, and goes away again: what is shown is that of before.
    site.prometheus = well
    redraw(page, "show()")
    assert page.text("#word") == "Up"
    site.prometheus = None
    page.run("show()")
    until("it says so", lambda: page.text("#word") == "Not known")
    assert "Below is what was true at" in page.text("#sentence")
    assert page.run("return document.body.className") == "old"
    assert [entry for entry in page.log("browser") if entry["source"] != "network"] == []


def test_prometheus_reaches_no_node(page: Browser, site: Site, tmp_path: Path) -> None:
    # They go on for 20 minutes after this.
    figures = Figures(time.time() - 3000, ill=False)
    with prometheus(tmp_path / "prometheus", figures.openmetrics()) as url:
        site.prometheus = url
        show(page, site)
        assert page.text("#word") == "Not known"
        assert "old: Prometheus reaches no node" in page.text("#sentence")
        assert "30\u00a0min" in page.text("#sentence")


def test_nothing_comes_from_elsewhere(page: Browser, site: Site, well: str) -> None:
    site.prometheus = well
    page.log("performance")
    show(page, site)
    messages = [json.loads(entry["message"])["message"] for entry in page.log("performance")]
    asked = {
        message["params"]["request"]["url"].partition("?")[0].removeprefix(site.url)
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    files = {f"/{path.name}" for path in DASHBOARD.iterdir()} - {"/index.html", "/alerts.html", "/LICENSE"}
    paths = {f"/api/v1/{name}" for name in ("alerts", "rules", "query", "query_range")}
    assert {one for one in asked if not one.startswith("data:")} == {"/", *files, *paths}
