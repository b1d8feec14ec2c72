"""The ledger's verdict: whatever is lost, duplicated, changed or added is found, and nothing else."""

from __future__ import annotations

import io
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timestamp_service import identifiers, instants
from timestamp_service.database.records import Record
from timestamp_service.ledger import book
from timestamp_service.ledger.book import Book
from timestamp_service.ledger.judge import judge
from timestamp_service.ledger.run import Run

RUN = Run("0123456789abcdef", 7_300_000_000)
CREATED = "2026-01-01T00:00:00Z"


def row(number: int) -> Record:
    return Record(RUN.identifier(number), RUN.instant(number), CREATED)


def held(*numbers: int) -> Book:
    return Book(RUN, {RUN.identifier(number): RUN.instant(number) for number in numbers})


@given(st.integers(0, 1 << 32), st.integers(0, 100_000_000))
def test_each_record_has_its_instant_and_the_id_of_the_contract(second: int, number: int) -> None:
    run = Run("0123456789abcdef", second)
    instant = run.instant(number)
    assert instants.normalise(instant) == instant
    assert run.number(instant) == number
    assert run.identifier(number) == identifiers.from_key(run.key(number), "one", instant)
    start, end = run.window()
    assert start[:19] <= instant[:19] < end[:19]


@pytest.mark.parametrize("instant", ["2201-01-01T00:00:00.5Z", "1999-01-01T00:00:00Z", "nothing", ""])
def test_other_instants_are_of_no_record(instant: str) -> None:
    assert RUN.number(instant) is None


def test_two_runs_do_not_meet() -> None:
    first, second = Run.new(), Run.new()
    assert first.window() != second.window()
    assert first.key(1) != second.key(1)


def test_complete_records_are_accepted() -> None:
    verdict = judge(held(0, 1, 2), [row(2), row(0), row(1)])
    assert verdict.wrong() == []
    assert (verdict.acknowledged, verdict.found) == (3, 3)


def test_loss_is_found() -> None:
    verdict = judge(held(0, 1, 2), [row(0), row(2)])
    assert verdict.wrong() == [f"{RUN.identifier(1)} {RUN.instant(1)} is lost"]
    assert verdict.counts()["lost"] == 1


def test_change_is_found() -> None:
    verdict = judge(held(0, 1), [row(0), replace(row(1), event_timestamp=RUN.instant(5))])
    assert verdict.wrong() == [f"{RUN.identifier(1)} {RUN.instant(1)} has become {RUN.instant(5)}"]


def test_duplicate_is_found() -> None:
    assert judge(held(0, 1), [row(0), row(1), row(1)]).counts()["duplicated"] == 1


def test_same_record_under_another_id_is_found() -> None:
    other = replace(row(1), identifier=str(uuid.uuid4()))
    assert judge(held(0, 1), [row(0), row(1), other]).counts()["duplicated"] == 1
    assert judge(held(0, 1), [row(0), other, row(1)]).counts()["duplicated"] == 1


def test_what_was_not_acknowledged_may_be_there_once() -> None:
    verdict = judge(held(0), [row(0), row(7)])
    assert verdict.wrong() == []
    assert verdict.unacknowledged == 1
    assert judge(held(0), [row(0), row(7), row(7)]).counts()["duplicated"] == 1


def test_what_was_never_sent_is_found() -> None:
    stranger = Record(str(uuid.uuid4()), RUN.instant(9), CREATED)
    between = Record(str(uuid.uuid4()), "2201-05-01T00:00:00.000000001Z", CREATED)
    assert judge(held(), [stranger, between]).counts()["unknown"] == 2


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_whatever_is_done_to_the_rows_is_counted(
    acknowledged: set[int], recorded: set[int], twice: set[int]
) -> None:
    rows = [row(number) for number in recorded] + [row(number) for number in recorded & twice]
    counts = judge(held(*acknowledged), rows).counts()
    assert counts["lost"] == len(acknowledged - recorded)
    assert counts["duplicated"] == len(recorded & twice)
    assert counts["unacknowledged"] == len(recorded - acknowledged)
    assert counts["changed"] == counts["unknown"] == 0


def test_book_is_read_up_to_where_it_was_cut_off() -> None:
    text = f"timestamp-ledger 1 {RUN.name} {RUN.second}\n{RUN.identifier(0)} {RUN.instant(0)}\n"
    assert book.read(io.StringIO(f"{text}{RUN.identifier(1)} 22")) == held(0)


@pytest.mark.parametrize("text", ["", "a b c\n", "timestamp-ledger 2 a 1\n", "timestamp-ledger 1 a 1\nid\n"])
def test_another_file_is_no_book(text: str) -> None:
    with pytest.raises(book.BookError):
        book.read(io.StringIO(text))


KEYLESS = Run("0123456789abcdef", 7_300_000_000, keyed=False)


def keyless(number: int, identifier: str | None = None) -> Record:
    return Record(identifier or str(uuid.UUID(int=number)), KEYLESS.instant(number), CREATED)


def test_without_keys_a_record_may_be_there_once_though_it_was_never_acknowledged() -> None:
    held = Book(KEYLESS, {keyless(0).identifier: KEYLESS.instant(0)})
    verdict = judge(held, [keyless(0), keyless(1)])
    assert verdict.wrong() == []
    assert (verdict.acknowledged, verdict.unacknowledged) == (1, 1)


@pytest.mark.parametrize("number", [0, 1])
def test_without_keys_a_record_that_is_there_twice_is_found(number: int) -> None:
    held = Book(KEYLESS, {keyless(0).identifier: KEYLESS.instant(0)})
    rows = [keyless(0), keyless(1), keyless(number, str(uuid.uuid4()))]
    assert len(judge(held, rows).duplicated) == 1


def test_without_keys_loss_and_change_are_found() -> None:
    held = Book(KEYLESS, {keyless(number).identifier: KEYLESS.instant(number) for number in range(3)})
    verdict = judge(held, [keyless(0), keyless(7, keyless(1).identifier)])
    assert (len(verdict.lost), len(verdict.changed)) == (1, 1)


def test_a_file_says_whether_keys_were_sent() -> None:
    for mode, keyed in (("", True), (" without-keys", False)):
        assert book.read(io.StringIO(f"timestamp-ledger 1 a 5{mode}\n")).run == Run("a", 5, keyed)
    for first in ("timestamp-ledger 1 a 5 x", "timestamp-ledger 1 a without-keys"):
        with pytest.raises(book.BookError):
            book.read(io.StringIO(f"{first}\n"))
