"""The page /docs in a real browser (`make test-docs`)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.browser import Browser, browser
from tests.integration.front import front
from tests.integration.processes import until
from tests.integration.service import Running
from timestamp_service.web import openapi

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(running: Running) -> Iterator[str]:
    with front(running) as url:
        yield url


@pytest.fixture(scope="module")
def page(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        page.open(f"{url}/docs")
        until("the page shows the operations", lambda: page.run("return !!document.querySelector('details')"))
        yield page


def send(page: Browser, operation: str) -> tuple[str, str]:
    """Press the button of an operation that is open, and return status and body of the answer."""
    inside = f"[data-operation={operation}]"
    page.run(f"document.querySelector('{inside} .answer').replaceChildren()")
    page.click(f"{inside} .send")
    until("it is answered", lambda: page.text(f"{inside} .answer .status"))
    return page.text(f"{inside} .answer .status"), page.text(f"{inside} .answer .body")


def test_every_operation_is_shown(page: Browser) -> None:
    shown = page.run("return [...document.querySelectorAll('details')].map((each) => each.dataset.operation)")
    described = [
        operation["operationId"]
        for methods in openapi.content()["paths"].values()
        for operation in methods.values()
    ]
    assert sorted(shown) == sorted(described)


def test_a_record_is_made_and_read_back(page: Browser) -> None:
    page.click("[data-operation=recordTimestamp] summary")
    page.type("[data-operation=recordTimestamp] [name=value]", "2009-09-28T19:03:12.5+02:00")
    page.type("[data-operation=recordTimestamp] [name=Idempotency-Key]", "from-the-page")
    status, body = send(page, "recordTimestamp")
    assert status == "200"
    identifier = json.loads(body)["id"]

    page.click("[data-operation=getRecord] summary")
    page.type("[data-operation=getRecord] [name=value]", identifier)
    page.type("[data-operation=getRecord] [name=Prefer]", "wait=10")
    status, body = send(page, "getRecord")
    assert status == "200"
    assert json.loads(body)["event_timestamp"] == "2009-09-28T17:03:12.5Z"

    page.type("[data-operation=getRecord] [name=value]", "x")
    status, body = send(page, "getRecord")
    assert status == "400"
    assert json.loads(body)["status"] == 400


def test_many_records_are_made_and_found(page: Browser) -> None:
    page.click("[data-operation=recordTimestamps] summary")
    for media_type in ("application/x-ndjson", "application/json"):
        page.run(
            "const kind = document.querySelector('[data-operation=recordTimestamps] select');"
            f"kind.value = '{media_type}'; kind.dispatchEvent(new Event('change'));"
        )
        status, body = send(page, "recordTimestamps")
        assert status == "200"
        assert len(json.loads(body)["ids"]) == 2
    page.click("[data-operation=getRecords] summary")
    page.type("[data-operation=getRecords] [name=from]", "2009-09-28T19:03:12+02:00")
    status, body = send(page, "getRecords")
    assert status == "200"
    assert "items" in json.loads(body)


def test_nothing_comes_from_elsewhere(page: Browser, url: str, tmp_path: Path) -> None:
    """It is the last one: the log is of all that the page did."""
    page.screenshot(tmp_path / "docs.png")
    messages = [json.loads(entry["message"])["message"] for entry in page.log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert f"{url}/docs" in asked
    assert f"{url}/api/v1/openapi.json" in asked
    # What data: holds is in the page itself, and chrome: is the browser's own first page.
    assert [other for other in asked if not other.startswith((f"{url}/", "data:", "chrome:"))] == []
    # Such as what its Content-Security-Policy forbids. That a bad id is refused is no fault of the page.
    errors = [entry["message"] for entry in page.log("browser") if entry["source"] != "network"]
    assert errors == []
