import pytest

from tests.unit.requests import request_with
from timestamp_service.query import caching

IDENTIFIER = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize(
    ("header", "has_it"),
    [
        (f'"{IDENTIFIER}"', True),
        (f'W/"{IDENTIFIER}"', True),
        (f'"x", "{IDENTIFIER}"', True),
        ("*", True),
        (" * ", True),
        # In quotes it is a tag as any other.
        ('"*"', False),
        ('W/"*"', False),
        ('"x", *', False),
        (f'x"{IDENTIFIER}"', False),
        (f'"x,", ,"{IDENTIFIER}"', True),
        ('"x"', False),
        ("", False),
        ("x", False),
    ],
)
def test_has_it(header: str, has_it: bool) -> None:
    assert caching.has_it(request_with({"If-None-Match": header}), IDENTIFIER) is has_it


def test_tags_of_several_lines_are_one_list() -> None:
    lines = [("If-None-Match", '"x"'), ("If-None-Match", f'"{IDENTIFIER}"')]
    assert caching.has_it(request_with(lines), IDENTIFIER)
    assert not caching.has_it(request_with([("If-None-Match", "*"), ("If-None-Match", "*")]), IDENTIFIER)


def test_has_nothing() -> None:
    assert not caching.has_it(request_with({}), IDENTIFIER)


def test_what_is_answered_is_what_is_compared() -> None:
    tag = caching.entity_tag(IDENTIFIER)
    assert caching.has_it(request_with({"If-None-Match": tag}), IDENTIFIER)
