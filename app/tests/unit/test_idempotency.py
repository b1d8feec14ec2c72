import pytest

from tests.unit.requests import request_with
from timestamp_service.command import idempotency
from timestamp_service.web.problems import Problem


@pytest.mark.parametrize("key", ["a", "!", "~", "a" * 255, '"quoted"', idempotency.EXAMPLE])
def test_keys(key: str) -> None:
    assert idempotency.key_of(request_with({"Idempotency-Key": key})) == key


def test_no_key() -> None:
    assert idempotency.key_of(request_with({})) is None


@pytest.mark.parametrize("key", ["", "a" * 256, "a b", "a\tb", "ä", "a\x7f"])
def test_bad_keys(key: str) -> None:
    with pytest.raises(Problem) as raised:
        idempotency.key_of(request_with({"Idempotency-Key": key}))
    assert raised.value.status_code == 400
