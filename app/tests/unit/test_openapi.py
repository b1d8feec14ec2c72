import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import timestamp_service
from timestamp_service.command import bulk, idempotency
from timestamp_service.command.publisher import BULK_MAX
from timestamp_service.query import preferences, ranges
from timestamp_service.web import docs, openapi, routes

DOCUMENT = openapi.content()
FOLDER = Path(timestamp_service.__file__).parent


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    ]


def parameter(name: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["parameters"][name]
    return found


def test_it_is_json() -> None:
    assert json.loads(openapi.document()) == DOCUMENT


def test_every_route_is_described_with_every_method_and_no_other() -> None:
    described = {path: {method.upper() for method in methods} for path, methods in DOCUMENT["paths"].items()}
    assert described == {
        route.path.replace("{text}", "{value}"): set(route.methods) for route in routes.ROUTES
    }


def statuses_in(file: str) -> set[int]:
    """Return the statuses of all problems that are made in a module."""
    tree = ast.parse((FOLDER / file).read_text())
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if name in ("Problem", "try_again"):
            assert isinstance(node.args[0], ast.Constant), f"{file}:{node.lineno}: the status is no literal"
            assert isinstance(node.args[0].value, int)
            found.add(node.args[0].value)
        elif name == "unavailable":
            found.add(503)
    return found


def described(*operation_ids: str) -> list[set[int]]:
    return [
        {int(status) for status in operation["responses"]}
        for _, _, operation in operations()
        if operation["operationId"] in operation_ids
    ]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (
            ["web/app.py", "web/headers.py", "web/probes.py", "web/request_log.py", "server/protocol.py"],
            [operation["operationId"] for _, _, operation in operations()],
        ),
        (["command/idempotency.py"], ["recordTimestamp", "recordNow", "recordTimestamps"]),
        (["command/bulk.py"], ["recordTimestamps"]),
        (["query/ranges.py"], ["getRecords", "headRecords"]),
        (["query/preferences.py"], ["getRecord", "headRecord"]),
        (["command/api.py"], ["recordTimestamp", "recordNow", "recordNowWithSlash", "recordNowAsApp"]),
    ],
)
def test_every_error_of_the_code_is_described(files: list[str], names: list[str]) -> None:
    made = set().union(*(statuses_in(file) for file in files))
    assert made
    found = described(*names)
    assert len(found) == len(names)
    for statuses in found:
        assert made <= statuses


def test_no_module_with_errors_is_left_out() -> None:
    elsewhere = {
        str(file.relative_to(FOLDER))
        for file in FOLDER.rglob("*.py")
        # It makes problems of whatever status it is given.
        if file != FOLDER / "web/problems.py" and statuses_in(str(file.relative_to(FOLDER)))
    }
    assert elsewhere == {
        "web/app.py",
        "web/headers.py",
        "web/probes.py",
        "web/request_log.py",
        "server/protocol.py",
        "command/api.py",
        "command/bulk.py",
        "command/idempotency.py",
        "query/api.py",
        "query/preferences.py",
        "query/ranges.py",
    }
    # Of one record, and of a range.
    assert statuses_in("query/api.py") == {400, 404, 503}
    assert 404 in described("getRecord")[0]


def test_every_error_that_is_described_is_explained() -> None:
    for _, _, operation in operations():
        for status in operation["responses"]:
            if int(status) >= 400:
                assert f"Problem{status}" in DOCUMENT["components"]["responses"]


def test_every_reference_leads_somewhere() -> None:
    found = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(DOCUMENT))
    assert found
    for reference in found:
        place: Any = DOCUMENT
        for part in reference.split("/"):
            place = place[part]


def test_names_are_unique() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)


def test_limits_are_those_of_the_code() -> None:
    key = parameter("IdempotencyKey")
    assert key["name"] == idempotency.HEADER
    assert key["example"] == idempotency.EXAMPLE
    assert f"{key['schema']['pattern'][1:-2]}{{1,{key['schema']['maxLength']}}}" == idempotency.PATTERN
    limit = parameter("Limit")["schema"]["anyOf"][0]
    assert (limit["maximum"], limit["default"]) == (ranges.LIMIT_MAX, ranges.LIMIT_DEFAULT)
    assert f"0 to {preferences.WAIT_MAX_SECONDS}," in parameter("Prefer")["description"]
    assert DOCUMENT["components"]["schemas"]["Timestamps"]["maxItems"] == BULK_MAX
    (recording,) = (found for _, _, found in operations() if found["operationId"] == "recordTimestamps")
    assert set(recording["requestBody"]["content"]) == set(bulk.MEDIA_TYPES)
    assert bulk.BODY_MAX_BYTES == 1024 * 1024
    ranges.parse(f"cursor={parameter('Cursor')['example']}")
    names = [parameter(name)["name"] for name in ("From", "To", "Limit", "Cursor")]
    assert tuple(names) == ranges.PARAMETERS


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = docs.page()
    assert not re.search(rb"https?://|@import|src=", page.content)
    assert page.policy.startswith("default-src 'none'; ")
    assert page.policy.count("'sha256-") == 2
    assert "unsafe" not in page.policy
