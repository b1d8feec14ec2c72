import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.requests import request_with
from timestamp_service.web import headers
from timestamp_service.web.problems import Problem

JSON = "application/json"


@pytest.mark.parametrize(
    ("accept", "accepted"),
    [
        ([], True),
        ([""], True),
        ([" , ,"], True),
        (["*/*"], True),
        (["application/*"], True),
        (["Application/JSON"], True),
        (["APPLICATION/*;Q=0.5"], True),
        (["application/json,"], True),
        ([",,application/json"], True),
        (["application/json, x"], True),
        (["x, application/json"], True),
        (["x/, /y, a b/c, application/json"], True),
        (["text/html", "application/json"], True),
        (["text/html, application/xhtml+xml, */*;q=0.8"], True),
        (["application/json; charset=utf-8"], True),
        (["application/json;q=1.000"], True),
        (["application/json;q=0.001"], True),
        (['text/plain; x="a, application/json"'], False),
        (['text/plain; x="\\", application/json"'], False),
        (['text/plain; x="a", application/json'], True),
        (["application/json;q=0"], False),
        (["application/json;q=0, */*"], False),
        (["*/*, application/json;q=0.000"], False),
        (["*/*;q=0, application/json"], True),
        (["application/*;q=0, */*"], False),
        (["application/json;version=1;q=0, */*"], True),
        # A weight that is none spoils its own member alone.
        (["application/json;q=2"], False),
        (["application/json;q=x, */*;q=0.1"], True),
        (["text/html"], False),
        (["x"], False),
        (["*/json"], False),
        (["*"], False),
        (["application/jsonp"], False),
        (["application/problem+json"], False),
    ],
)
def test_accept(accept: list[str], accepted: bool) -> None:
    assert headers.accepts(accept, JSON) is accepted


@given(st.lists(st.text(alphabet='aq/=;,*"\\ .01', max_size=30), max_size=3))
def test_another_member_spoils_nothing(others: list[str]) -> None:
    # One that opens a quote, or weighs the same range, is another matter.
    others = [other for other in others if other.count('"') == 0 and "a/a" not in other]
    assert headers.accepts([*others, "a/a"], "a/a")


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        ([], []),
        (['"a"'], ["a"]),
        (['W/"a"'], ["a"]),
        (['"a", W/"b" ,"c"'], ["a", "b", "c"]),
        (['"a"', '"b"'], ["a", "b"]),
        (['"a,b", "c"'], ["a,b", "c"]),
        (['"*"'], ["*"]),
        (["*"], []),
        (['w/"a", "b"'], ["b"]),
        (['x"a", "b"'], ["b"]),
        (['"a" x, "b"'], ["b"]),
        ([', ,"a",,'], ["a"]),
        (['"a'], []),
        # Nothing is escaped in a tag.
        (['"a\\", "b"'], ["a\\", "b"]),
    ],
)
def test_entity_tags(values: list[str], tags: list[str]) -> None:
    assert headers.entity_tags(values) == tags


@pytest.mark.parametrize(
    ("values", "members"),
    [
        ([], []),
        (["a"], ["a"]),
        (["a,b", " c "], ["a", "b", "c"]),
        ([",,a\t,"], ["a"]),
        (['a="b,c", d'], ['a="b,c"', "d"]),
        (['a="b\\",c", d'], ['a="b\\",c"', "d"]),
        (['a="b, c'], ['a="b, c']),
    ],
)
def test_members_of_a_list(values: list[str], members: list[str]) -> None:
    assert headers.members(values) == members


@given(st.lists(st.text(max_size=20), max_size=3))
def test_any_list_is_read(values: list[str]) -> None:
    for member in headers.members(values):
        assert member.strip(" \t")
        headers.parts(member)
    headers.entity_tags(values)
    headers.accepts(values, JSON)


def test_a_header_that_may_come_once() -> None:
    assert headers.single(request_with({}), "Idempotency-Key") is None
    assert headers.single(request_with({"Idempotency-Key": "a"}), "Idempotency-Key") == "a"
    twice = request_with([("Idempotency-Key", "a"), ("idempotency-key", "a")])
    with pytest.raises(Problem) as raised:
        headers.single(twice, "Idempotency-Key")
    assert raised.value.status_code == 400
    assert "came 2 times" in (raised.value.description or "")
