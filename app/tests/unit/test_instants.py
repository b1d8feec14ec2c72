from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timestamp_service import instants

ACCEPTED = {
    # What is sent, and what is answered: UTC, the fraction as sent without trailing zeros.
    "2009-09-28T19:03:12Z": "2009-09-28T19:03:12Z",
    "2009-09-28t19:03:12z": "2009-09-28T19:03:12Z",
    "2009-09-28 19:03:12Z": "2009-09-28T19:03:12Z",
    "2009-09-28T19:03:12+02:00": "2009-09-28T17:03:12Z",
    "2009-09-28T19:03:12-05:30": "2009-09-29T00:33:12Z",
    "2009-09-28T19:03:12+23:59": "2009-09-27T19:04:12Z",
    "2009-09-28T19:03:12-23:59": "2009-09-29T19:02:12Z",
    "2009-09-28T19:03:12+00:00": "2009-09-28T19:03:12Z",
    # RFC 3339, section 4.3: UTC is known, the local offset is not.
    "2009-09-28T19:03:12-00:00": "2009-09-28T19:03:12Z",
    "2009-09-28T19:03:12.1Z": "2009-09-28T19:03:12.1Z",
    "2009-09-28T19:03:12.120Z": "2009-09-28T19:03:12.12Z",
    "2009-09-28T19:03:12.000000000Z": "2009-09-28T19:03:12Z",
    "2009-09-28T19:03:12.123456789Z": "2009-09-28T19:03:12.123456789Z",
    "2009-09-28T19:03:12.000000001+01:00": "2009-09-28T18:03:12.000000001Z",
    "2000-02-29T00:00:00Z": "2000-02-29T00:00:00Z",
    "2024-02-29T23:59:59.999999999Z": "2024-02-29T23:59:59.999999999Z",
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z": "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59+01:00": "9999-12-31T22:59:59Z",
    "0001-01-01T00:00:00-01:00": "0001-01-01T01:00:00Z",
    # A year that is out of range here may be in range in UTC.
    "0000-12-31T23:30:00-01:00": "0001-01-01T00:30:00Z",
    "0000-12-31T00:01:00-23:59": "0001-01-01T00:00:00Z",
}

REFUSED = {
    # What is sent, and a part of the answer.
    "": "not an RFC 3339 timestamp",
    "now": "not an RFC 3339 timestamp",
    "2009-09-28": "not an RFC 3339 timestamp",
    "19:03:12Z": "not an RFC 3339 timestamp",
    "1254164592": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12": "offset",
    "2009-09-28T19:03:12.5": "offset",
    "2009-09-28T19:03Z": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12.Z": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12,5Z": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12.1234567890Z": "more than 9 digits",
    "2009-09-28_19:03:12Z": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12 Z": "not an RFC 3339 timestamp",
    " 2009-09-28T19:03:12Z": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12Z\n": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12Z\0": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12+02": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12+0200": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12+24:00": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12+02:60": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12\u221202:00": "not an RFC 3339 timestamp",
    "2009-09-28T19:03:12GMT": "not an RFC 3339 timestamp",
    # Leap seconds, ends of days, days that there are not.
    "2016-12-31T23:59:60Z": "leap second",
    "2009-09-28T23:59:61Z": "not an RFC 3339 timestamp",
    "2009-09-28T24:00:00Z": "not an RFC 3339 timestamp",
    "2009-09-28T19:60:12Z": "not an RFC 3339 timestamp",
    "2009-00-28T19:03:12Z": "no day",
    "2009-13-28T19:03:12Z": "no day",
    "2009-09-00T19:03:12Z": "no day",
    "2009-09-31T19:03:12Z": "no day",
    "2009-02-29T19:03:12Z": "no day",
    "1900-02-29T19:03:12Z": "no day",
    "2009-02-29T19:03:12+01:00": "no day",
    "0000-02-30T00:00:00-01:00": "no day",
    # ISO 8601's other forms.
    "20090928T190312Z": "not an RFC 3339 timestamp",
    "2009-W40-1T19:03:12Z": "not an RFC 3339 timestamp",
    "2009-271T19:03:12Z": "not an RFC 3339 timestamp",
    "09-09-28T19:03:12Z": "not an RFC 3339 timestamp",
    "+12009-09-28T19:03:12Z": "not an RFC 3339 timestamp",
    "-0009-09-28T19:03:12Z": "not an RFC 3339 timestamp",
    "12009-09-28T19:03:12Z": "not an RFC 3339 timestamp",
    # Digits of other scripts.
    "２００９-09-28T19:03:12Z": "not an RFC 3339 timestamp",  # noqa: RUF001
    "٢٠٠٩-09-28T19:03:12Z": "not an RFC 3339 timestamp",
    # Beyond the years 0001 to 9999 in UTC.
    "0000-12-31T23:59:59Z": "year",
    "0000-12-31T22:59:59-01:00": "year",
    "0000-06-01T00:00:00-12:00": "year",
    "0001-01-01T00:59:59+01:00": "year",
    "9999-12-31T23:00:00-01:00": "year",
}


@pytest.mark.parametrize(("sent", "canonical"), ACCEPTED.items())
def test_accepts(sent: str, canonical: str) -> None:
    assert instants.normalise(sent) == canonical


@pytest.mark.parametrize(("sent", "reason"), REFUSED.items())
def test_refuses(sent: str, reason: str) -> None:
    with pytest.raises(instants.InstantError, match=reason):
        instants.normalise(sent)


moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29))  # noqa: DTZ001 (it gets its offset below)
offsets = st.integers(-1439, 1439)
nanoseconds = st.integers(0, 999)


@given(moments, offsets, nanoseconds)
def test_any_instant_keeps_its_nanoseconds(moment: datetime, minutes: int, nanoseconds: int) -> None:
    offset = timezone(timedelta(minutes=minutes))
    sign, rest = "-" if minutes < 0 else "+", abs(minutes)
    seconds = moment.replace(microsecond=0)
    fraction = f"{moment.microsecond:06d}{nanoseconds:03d}"

    canonical = instants.normalise(f"{seconds.isoformat()}.{fraction}{sign}{rest // 60:02d}:{rest % 60:02d}")

    utc = seconds.replace(tzinfo=offset).astimezone(UTC)
    digits = fraction.rstrip("0")
    expected = utc.replace(tzinfo=None).isoformat() + (f".{digits}Z" if digits else "Z")
    assert canonical == expected
    assert instants.normalise(canonical) == canonical


@given(moments, nanoseconds)
def test_columns_hold_the_whole_instant(moment: datetime, nanoseconds: int) -> None:
    digits = f"{moment.microsecond:06d}{nanoseconds:03d}"
    canonical = instants.normalise(f"{moment.replace(microsecond=0).isoformat()}.{digits}Z")

    text, rest = instants.to_columns(canonical)

    assert 0 <= rest <= 999
    stored = datetime.fromisoformat(text)
    assert stored == moment.replace(tzinfo=UTC)
    # PostgreSQL's own text of it: no trailing zeros, a space, and +00.
    fraction = f".{stored.microsecond:06d}".rstrip("0") if stored.microsecond else ""
    answered = f"{stored.replace(microsecond=0, tzinfo=None).isoformat(' ')}{fraction}+00"
    assert instants.from_columns(answered, rest) == canonical


@pytest.mark.parametrize(
    ("milliseconds", "instant"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_254_164_592_120, "2009-09-28T19:03:12.12Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_milliseconds(milliseconds: int, instant: str) -> None:
    assert instants.from_milliseconds(milliseconds) == instant


def test_now_is_now() -> None:
    before = datetime.now(UTC)
    text = instants.now()
    after = datetime.now(UTC)

    assert instants.normalise(text) == text
    # One microsecond of room: a datetime does not hold the nanoseconds.
    assert before - timedelta(microseconds=1) <= datetime.fromisoformat(text) <= after


@given(st.from_regex(instants.PLAIN, fullmatch=True))
def test_plain_texts_are_canonical(text: str) -> None:
    # With another way of writing UTC it goes the long way.
    assert instants.normalise(text) == text == instants.normalise(f"{text[:-1]}+00:00")
