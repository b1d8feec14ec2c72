import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from timestamp_service import strict_json
from timestamp_service.strict_json import JSONError, Turn

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
# Texts that are nearly JSON.
NEARLY = st.text(alphabet='[]{}:,"\\/ue0123456789.-+ \t\n\rtrufalsn\x00\x0b', max_size=14)


def is_json(text: str) -> bool:
    """Return whether Python's reader takes `text`, without what it takes beside JSON."""

    def refuse(_constant: str) -> None:
        raise ValueError

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


def elements_of(text: str) -> tuple[bool, list[str | None]]:
    found: list[str | None] = []
    steps = strict_json.elements(text)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value, found
        if not isinstance(step, Turn):
            found += step


def members_of(text: str) -> dict[str, str | None] | None:
    return strict_json.run(strict_json._read_object(text, ("a", "b")))


def value_of(text: str) -> str | None:
    return strict_json.run(strict_json.value(text))


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_values_are_read_as_by_pythons_reader(content: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    is_array, found = elements_of(text)
    assert is_array == isinstance(content, list)
    if is_array:
        assert found == [element if isinstance(element, str) else None for element in content]
    assert value_of(text) == (content if isinstance(content, str) else None)


@given(NEARLY)
@example("01")
@example("1.")
@example("[1,]")
@example("[,1]")
@example('{"a":1,}')
@example('{"a" 1}')
@example("[1}")
@example('"\\u12"')
@example('"\n"')
@example("[] []")
@example("\x0b1")
@example("")
def test_what_is_not_json_is_refused(text: str) -> None:
    expected = is_json(text)
    for read in (
        elements_of,
        value_of,
        lambda given: strict_json.run(strict_json._read_object(given, "a")),
    ):
        try:
            read(text)
        except JSONError:
            assert not expected
        else:
            assert expected
    try:
        strict_json.loads(text)
    except JSONError:
        assert not expected
    else:
        assert expected


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("form", ["%s", "[%s]", '{"a": %s}', '{"x": [{"y": %s}], "a": "b"}'])
def test_constants_of_javascript_are_no_json(constant: str, form: str) -> None:
    text = form % constant
    for read in (strict_json.loads, elements_of, lambda given: strict_json.texts_in_object(given, ("a",))):
        with pytest.raises(JSONError):
            read(text)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES))
def test_members_of_an_object(content: dict[str, Any]) -> None:
    expected = {
        name: value if isinstance(value, str) else None for name, value in content.items() if name != "c"
    }
    text = json.dumps(content)
    assert strict_json.texts_in_object(text, ("a", "b")) == expected
    assert members_of(text) == expected


@pytest.mark.parametrize("value", ["9" * 5000, "-0." + "1" * 5000, "1e" + "9" * 400, "[" * 3000 + "]" * 3000])
def test_other_members_may_hold_whatever_json_allows(value: str) -> None:
    text = f'{{"x": {value}, "a": "b"}}'
    assert strict_json.texts_in_object(text, ("a",)) == {"a": "b"}


def test_the_last_member_of_a_name_counts() -> None:
    deep = "[" * 3000 + "]" * 3000
    for other in ("1", deep):
        text = f'{{"a": "first", "x": {other}, "a": "last"}}'
        assert strict_json.texts_in_object(text, ("a",)) == {"a": "last"}


@pytest.mark.parametrize("text", ["[]", '"a"', "1", "[" * 3000 + "]" * 3000])
def test_another_value_than_an_object(text: str) -> None:
    assert strict_json.texts_in_object(text, ("a",)) is None


@pytest.mark.parametrize(
    "text",
    [
        "[" + "0," * 100_000 + "0]",
        "[" + "[" * 100_000 + "]" * 100_000 + "]",
        '[{"a":' * 30_000 + "0" + "}]" * 30_000,
    ],
)
def test_others_have_their_turn_while_much_is_skipped(text: str) -> None:
    steps = list(strict_json.elements(text))
    tokens = len(re.findall(r"[\[\]{}:,]|[0-9]+|\"a\"", text))
    assert len(steps) > tokens // 4000
