"""The parts of a rebuild that need no server."""

import uuid
from dataclasses import replace

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message
from hypothesis import given
from hypothesis import strategies as st

from timestamp_service.kafka import messages
from timestamp_service.kafka.dead_letters import BadMessage, dead_letter_headers
from timestamp_service.kafka.messages import Command, Headers
from timestamp_service.rebuild import checksum
from timestamp_service.rebuild.dead_letter_index import source
from timestamp_service.rebuild.proof import Proof
from timestamp_service.rebuild.rows import NumberedRow, from_messages

IDENTIFIER = "01890a5d-ac96-774b-bcce-b302099a8057"
APPENDED = 1_700_000_000_120


def message(value: bytes, partition: int = 0, offset: int = 0, headers: Headers | None = None) -> Message:
    time = (TIMESTAMP_LOG_APPEND_TIME, APPENDED)
    return Message("topic", partition, offset, b"key", value, headers or [], None, time)


def good(identifier: str = IDENTIFIER, timestamp: str = "2009-09-28T19:03:12.1234567Z") -> bytes:
    return messages.encode(Command(identifier, timestamp))


def test_the_checksum_is_what_the_page_says() -> None:
    # printf '%s\n%s\n%s' <id> <event_timestamp> <created_at> | sha256sum | cut -c-16
    number = checksum.number(IDENTIFIER, "2009-09-28T19:03:12.1234567Z", "2023-11-14T22:13:20.12Z")
    assert checksum.text(number) == "d5997908c7b96f49"
    assert checksum.text(number + number) != checksum.text(0)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_the_checksum_knows_no_order(numbers: list[int]) -> None:
    total = checksum.text(sum(numbers))
    assert len(total) == 16
    assert total == checksum.text(sum(sorted(numbers)))
    assert checksum.text(sum([*numbers, 1])) != total


def test_rows_of_messages() -> None:
    other = str(uuid.UUID(int=7))
    taken = [
        message(good(), 3, 41),
        message(good(timestamp="2020-01-01T00:00:00Z"), 3, 42),
        message(b"nonsense", 4, 0),
        message(good(other), 4, 1),
    ]

    rows = from_messages(taken)

    created = "2023-11-14T22:13:20.12Z"
    number = checksum.number(IDENTIFIER, "2009-09-28T19:03:12.1234567Z", created)
    assert rows.rows[IDENTIFIER] == NumberedRow(IDENTIFIER, "2009-09-28T19:03:12.1234567Z", created, number)
    assert list(rows.rows) == [IDENTIFIER, other]
    assert (rows.count, rows.duplicates) == (4, 1)
    assert rows.bad == {(4, 0): "the value is not JSON"}
    assert rows.next_offsets == {3: 43, 4: 2}


@pytest.mark.parametrize("with_own", [True, False])
def test_the_position_in_a_dead_letter_is_the_one_that_was_added(*, with_own: bool) -> None:
    own: Headers = [("source.partition", b"9"), ("source.offset", b"9"), ("h", None)]
    bad = BadMessage(None, b"", own, "why", 5, 77)
    headers = dead_letter_headers(bad, with_own=with_own)
    if not with_own:
        headers.append(("omitted", b"key, value, headers"))
    assert source(message(b"", headers=headers)) == (5, 77)


@pytest.mark.parametrize("headers", [[], [("source.partition", b"1")], [("source.offset", b"x")]])
def test_what_is_not_a_dead_letter_has_no_position(headers: Headers) -> None:
    assert source(message(b"", headers=headers)) is None


def test_a_proof() -> None:
    proof = Proof(
        messages=10, first=7, duplicates=2, dead_letters=1, log_total=5, rows=7, table_total=5 + 2**64
    )
    assert proof.failures() == []
    assert len(replace(proof, table_total=6).failures()) == 1
    assert len(replace(proof, messages=11).failures()) == 1
    assert len(replace(proof, rows=6).failures()) == 2
