import pytest

from tests.unit.requests import request_with
from timestamp_service.query import preferences
from timestamp_service.web.problems import Problem


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=0", 0),
        ("wait=7", 7),
        ("wait=007", 7),
        ("wait=30", 30),
        ("wait=31", 30),
        ("wait=" + "9" * 5000, 30),
        ('wait="7"', 7),
        ("Wait = 7", 7),
        ("respond-async, wait=7", 7),
        ("wait=7; x=y, handling=strict", 7),
        # The first one counts.
        ("wait=7, wait=8", 7),
        ("respond-async", None),
        ("waiting=7", None),
        # What is in quotes separates nothing, and is no preference.
        ('tag="a, wait=b"', None),
        ('foo=", wait=20; "', None),
        ('foo="\\", wait=20; "', None),
        ('foo=", wait=20; ", wait=3', 3),
        ('foo; bar="x;y, wait=20", wait=3', 3),
        ("foo; wait=20", None),
        (",, wait=7", 7),
        ("", None),
    ],
)
def test_wait(header: str, seconds: int | None) -> None:
    assert preferences.wait_of(request_with({"Prefer": header.encode().decode("latin-1")})) == seconds


def test_preferences_of_several_lines_are_one_list() -> None:
    lines = [("Prefer", "respond-async"), ("prefer", "wait=7"), ("Prefer", "wait=8")]
    assert preferences.wait_of(request_with(lines)) == 7


def test_no_preference() -> None:
    assert preferences.wait_of(request_with({})) is None


@pytest.mark.parametrize(
    "header", ["wait", "wait=", "wait=x", "wait=-1", "wait=1.5", "wait=²", 'wait="7', 'wait="a,b"']
)
def test_bad_waits(header: str) -> None:
    with pytest.raises(Problem) as raised:
        preferences.wait_of(request_with({"Prefer": header.encode().decode("latin-1")}))
    assert raised.value.status_code == 400
