import time
import uuid
from collections.abc import Callable

import pytest

from timestamp_service import identifiers


def test_new_ids_are_version_7_of_now() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(identifiers.new())
    after = time.time_ns() // 1_000_000

    assert made.version == 7
    assert before <= made.int >> 80 <= after


def test_new_ids_differ() -> None:
    assert len({identifiers.new() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text", ["01890a5d-ac96-774b-bcce-b302099a8057", "01890A5D-AC96-774B-BCCE-B302099A8057"]
)
def test_normalise(text: str) -> None:
    assert identifiers.normalise(text) == "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "01890a5dac96774bbcceb302099a8057",
        "{01890a5d-ac96-774b-bcce-b302099a8057}",
        "urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a8057\n",
        "01890a5d-ac96-774b-bcce-b302099a805g",
        "\u06601890a5d-ac96-774b-bcce-b302099a8057",
    ],
)
def test_no_uuid(text: str) -> None:
    with pytest.raises(identifiers.IdentifierError):
        identifiers.normalise(text)


def _version_7(seconds_ago: float) -> str:
    milliseconds = int((time.time() - seconds_ago) * 1000)
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62))


@pytest.mark.parametrize(
    ("make", "fresh"),
    # Made when the test runs: it may have been collected long before.
    [
        (lambda: _version_7(0), True),
        (lambda: _version_7(50), True),
        # The clock of another node may be ahead.
        (lambda: _version_7(-50), True),
        (lambda: _version_7(1000), False),
        (lambda: _version_7(-1000), False),
        (lambda: str(uuid.uuid5(uuid.NAMESPACE_URL, "x")), True),
        (lambda: str(uuid.uuid4()), False),
        (lambda: "00000000-0000-0000-0000-000000000000", False),
    ],
)
def test_may_be_fresh(make: Callable[[], str], fresh: bool) -> None:
    assert identifiers.may_be_fresh(make(), within_seconds=100) is fresh


# They are for ever: a release that gives other ids would record again what was recorded before.
@pytest.mark.parametrize(
    ("key", "kind", "timestamp", "identifier"),
    [
        ("a", "one", "2009-09-28T19:03:12Z", "f63dfa62-f25d-5bfe-87ca-1da9c28dff69"),
        ("a", "one", "2009-09-28T19:03:13Z", "599def4c-8a60-5ed8-8a5b-f00db4ba8bef"),
        ("b", "one", "2009-09-28T19:03:12Z", "6b34c719-f005-50e0-b893-2be5a645c0ea"),
        ("a", "now", "", "f39cdee1-4fb5-5971-a1b8-556ab354d954"),
        ("a", "bulk:0", "2009-09-28T19:03:12Z", "cfb20d0f-b28c-547a-9af0-0b8959c1bc48"),
        ("a", "bulk:9999", "2009-09-28T19:03:12Z", "54efca28-fe2a-5476-8e8c-c1d82be1373d"),
        (
            "8e03978e-40d5-43e8-bc93-6894a57f9324",
            "one",
            "2009-09-28 19:03:12.5+02:00",
            "9d0fdec7-d05b-5cd7-be28-95f0ecc3d9db",
        ),
    ],
)
def test_ids_of_idempotency_keys(key: str, kind: str, timestamp: str, identifier: str) -> None:
    assert identifiers.from_key(key, kind, timestamp) == identifier
