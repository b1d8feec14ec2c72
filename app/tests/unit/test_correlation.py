import uuid

import pytest

from timestamp_service import correlation
from timestamp_service.correlation import Correlation, CorrelationError

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "identifier",
    [
        "b3c2b0a6-cab6-11f0-8de9-0242ac120002",
        "7c3f2aca-c5c9-45f0-a924-5c9ff1762c94",
        "4f3f2898-69e3-5a0d-820a-c4e87987dbce",
        "01890A5D-AC96-774B-BCCE-B302099A8057",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ],
)
def test_any_uuid_stays_as_it_was_sent(identifier: str) -> None:
    assert correlation.from_request(identifier, None) == Correlation(identifier)


@pytest.mark.parametrize("identifier", ["", "x", "01890a5d-ac96-774b-bcce-b302099a8057,", "1" * 36])
def test_malformed(identifier: str) -> None:
    with pytest.raises(CorrelationError):
        correlation.from_request(identifier, None)


def test_without_one_it_is_made() -> None:
    first, second = (correlation.from_request(None, None).identifier for _ in range(2))
    assert first != second
    assert str(uuid.UUID(first)) == first


@pytest.mark.parametrize(
    ("sent", "carried"),
    [
        (TRACE, TRACE),
        (None, None),
        ("x", None),
        (TRACE.upper(), None),
        (TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32), None),
        (TRACE.replace("00f067aa0ba902b7", "0" * 16), None),
        (f"{TRACE}\n", None),
        (f"{TRACE}-00", None),
        (f"ff{TRACE[2:]}", None),
        (f"cc{TRACE[2:]}x", None),
        # Of a later version the first four fields are read, and carried on in the version that is known here.
        (f"01{TRACE[2:]}", TRACE),
        (f"cc{TRACE[2:]}-what-the-future-will-be-like", TRACE),
        (f"cc{TRACE[2:-2]}fe", f"{TRACE[:-2]}00"),
        (f"cc{TRACE[2:-2]}ff-", f"{TRACE[:-2]}01"),
    ],
)
def test_a_malformed_traceparent_is_dropped(sent: str | None, carried: str | None) -> None:
    assert correlation.from_request(None, sent).traceparent == carried


@pytest.mark.parametrize("traceparent", [None, TRACE])
def test_kafka_carries_it(traceparent: str | None) -> None:
    sent = Correlation("01890a5d-ac96-774b-bcce-b302099a8057", traceparent)
    assert correlation.from_kafka(sent.kafka_headers()) == sent


@pytest.mark.parametrize(
    "headers", [None, [], [("correlationId", None)], [("correlationId", b"\xff")], [("other", b"x")]]
)
def test_messages_without_a_good_one(headers: list[tuple[str, str | bytes | None]] | None) -> None:
    assert correlation.from_kafka(headers) is None
