import uuid

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fake_topic import APPENDED, UnreadableHeaders, message
from timestamp_service.consumer.batch import Batch, TracedRecord
from timestamp_service.correlation import Correlation
from timestamp_service.kafka import messages
from timestamp_service.kafka.dead_letters import dead_letter_headers
from timestamp_service.kafka.messages import Command, Headers

CREATED_AT = "2023-11-14T22:13:20.12Z"


def identifier(number: int) -> str:
    return str(uuid.UUID(int=number))


def good(number: int, year: int = 2009) -> bytes:
    return messages.encode(Command(identifier(number), f"{year}-01-01T00:00:00Z"))


def test_a_row() -> None:
    batch = Batch()
    batch.add([message(good(7), 3, 41, [("correlationId", identifier(9).encode())])])
    assert list(batch.records.values()) == [
        TracedRecord(identifier(7), "2009-01-01T00:00:00Z", CREATED_AT, Correlation(identifier(9)))
    ]
    assert batch.next_offsets == {3: 42}
    assert not batch.bad


def test_what_it_holds_of_each_partition() -> None:
    batch = Batch()
    batch.add([message(good(1), 4, 7), message(b"nonsense", 3, 41), message(good(2), 3, 42)])
    batch.add([message(good(1), 4, 8)])
    assert batch.spans() == [(3, 41, 43), (4, 7, 9)]
    # Given up, and taken again.
    batch.next_offsets.pop(4)
    assert batch.spans() == [(3, 41, 43), (4, 7, 7)]
    batch.add([message(good(3), 4, 12)])
    assert batch.spans() == [(3, 41, 43), (4, 7, 13)]


def test_a_bad_message_stays_as_it_was() -> None:
    batch = Batch()
    batch.add([message(b"nonsense", 3, 41, [("h", b"\xff"), ("h", None)])])
    assert not batch.records
    assert batch.next_offsets == {3: 42}
    bad = batch.bad[0]
    assert (bad.key, bad.value, bad.headers) == (b"key", b"nonsense", [("h", b"\xff"), ("h", None)])
    assert batch.bytes == len("nonsense" + "key" + "h" + "h") + 1
    assert dead_letter_headers(bad) == [
        ("h", b"\xff"),
        ("h", None),
        ("error", b"the value is not JSON"),
        ("source.partition", b"3"),
        ("source.offset", b"41"),
    ]


def test_each_record_has_the_correlation_of_its_own_request() -> None:
    def headers(number: int) -> Headers:
        return [("correlationId", identifier(number).encode())]

    batch = Batch()
    # Messages of one bulk share it; what follows must not.
    sent: list[Headers] = [
        headers(91),
        headers(91),
        [],
        headers(92),
        [("correlationId", b"none")],
        headers(93),
    ]
    batch.add([message(good(number), 0, number, own) for number, own in enumerate(sent)])
    batch.add([message(good(6), 0, 6, headers(94))])
    assert [record.correlation and record.correlation.identifier for record in batch.records.values()] == [
        identifier(91),
        identifier(91),
        None,
        identifier(92),
        None,
        identifier(93),
        identifier(94),
    ]


def test_each_record_has_the_time_of_its_own_message() -> None:
    batch = Batch()
    times = [APPENDED, APPENDED, APPENDED + 1, APPENDED]
    batch.add(
        [
            message(good(number), 0, number, timestamp=(TIMESTAMP_LOG_APPEND_TIME, time))
            for number, time in enumerate(times)
        ]
    )
    assert [record.created_at[19:] for record in batch.records.values()] == [".12Z", ".12Z", ".121Z", ".12Z"]
    assert batch.oldest_ms == APPENDED


def test_a_header_whose_name_is_not_utf_8_stops_nothing() -> None:
    batch = Batch()
    batch.add([message(good(7), kind=UnreadableHeaders), message(b"", 0, 1, kind=UnreadableHeaders)])
    assert batch.records[identifier(7)].correlation is None
    # The library gives none of the headers. The dead letter says so: the message stays in the log.
    assert dead_letter_headers(batch.bad[0])[0] == ("omitted", b"headers")


def test_times_that_cannot_be_written() -> None:
    batch = Batch()
    batch.add([message(good(1), timestamp=(TIMESTAMP_NOT_AVAILABLE, 0))])
    batch.add([message(good(2), timestamp=(TIMESTAMP_LOG_APPEND_TIME, 2**62))])
    assert not batch.records
    assert [bad.error.partition(":")[0] for bad in batch.bad] == [
        "the message has no time",
        "the message's time is out of range",
    ]


# What a message holds: a record of one of a few ids, or nonsense.
contents = st.tuples(st.integers(0, 5), st.integers(1, 9999)) | st.binary(max_size=5)


@given(st.lists(st.tuples(st.integers(0, 2), contents)))
def test_any_mix_gives_the_first_of_each_id_and_all_that_is_bad(
    sent: list[tuple[int, tuple[int, int] | bytes]],
) -> None:
    batch = Batch()
    offsets = [0, 0, 0]
    first: dict[str, str] = {}
    bad = []
    for partition, content in sent:
        offset, offsets[partition] = offsets[partition], offsets[partition] + 1
        if isinstance(content, bytes):
            bad.append((partition, offset))
            batch.add([message(content, partition, offset)])
        else:
            number, year = content
            first.setdefault(identifier(number), f"{year:04d}-01-01T00:00:00Z")
            value = messages.encode(Command(identifier(number), f"{year:04d}-01-01T00:00:00Z"))
            batch.add([message(value, partition, offset)])

    assert {row.identifier: row.event_timestamp for row in batch.records.values()} == first
    assert [(message.partition, message.offset) for message in batch.bad] == bad
    assert batch.next_offsets == {number: offset for number, offset in enumerate(offsets) if offset}
    assert batch.count == len(sent)
