"""Instants as RFC 3339 texts.

An instant is held as its canonical text everywhere: UTC with `Z`, the fraction without trailing zeros,
years 0001 to 9999, to the nanosecond. Two texts are equal exactly when the instants are.
"""

import re
import time
from datetime import UTC, datetime, timedelta, timezone

EXAMPLE = "2009-09-28T19:03:12.123456789Z"

# Canonical texts except those of 29 February: they need no further check.
PLAIN = (
    r"(?!0000)[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{0,8}[1-9])?Z"
)
_PLAIN = re.compile(PLAIN)
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])"
    r"(?:\.([0-9]{1,9}))?(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)

# datetime has no year 0000; the year 2000 has as many days and stands in for it.
_STAND_IN = 2000
_MICROSECOND_TEXT_LENGTH = len("2009-09-28T19:03:12.123456Z")


class InstantError(ValueError):
    """A text is not an instant that can be recorded; the message says why."""


def normalise(text: str) -> str:
    """Return the canonical text of the timestamp `text` (RFC 3339, section 5.6).

    An offset is required, `T` may be `t` or a space, `Z` may be `z`, the fraction has 1 to 9 digits, and
    there is no leap second. Raises InstantError.
    """
    return text if _PLAIN.fullmatch(text) is not None else _canonical(text)


def _canonical(text: str) -> str:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise InstantError(_reason(text))
    date, clock, fraction, sign, hours, minutes = match.groups()
    if sign is None and date[:4] != "0000":
        try:
            datetime.fromisoformat(date)
        except ValueError:
            raise InstantError(f"there is no day {date}") from None
        seconds = f"{date}T{clock}"
    else:
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        seconds = _to_utc(date, clock, -offset if sign == "-" else offset)
    if fraction is None:
        return f"{seconds}Z"
    fraction = fraction.rstrip("0")
    return f"{seconds}.{fraction}Z" if fraction else f"{seconds}Z"


def _to_utc(date: str, clock: str, offset: timedelta) -> str:
    year_zero = date.startswith("0000")
    try:
        local = datetime.fromisoformat(f"{_STAND_IN if year_zero else date[:4]}{date[4:]}T{clock}")
    except ValueError:
        raise InstantError(f"there is no day {date}") from None
    out_of_range = InstantError("its year in UTC must be 0001 to 9999")
    try:
        moment = local.replace(tzinfo=timezone(offset)).astimezone(UTC)
    except OverflowError:
        raise out_of_range from None
    if year_zero:
        if moment.year <= _STAND_IN:
            raise out_of_range
        moment = moment.replace(year=1)
    return moment.replace(tzinfo=None).isoformat()


def _reason(text: str) -> str:
    if re.fullmatch(r"(?a:\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?)", text):
        return "its offset from UTC is missing: end it with Z or ±hh:mm"
    if re.fullmatch(r"(?a:\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:60.*)", text):
        return "leap seconds cannot be recorded"
    if re.match(r"(?a:\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d\.\d{10})", text):
        return "its fraction has more than 9 digits"
    return "it is not an RFC 3339 timestamp"


def now() -> str:
    """Return the current instant, to the clock's nanosecond."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return _with_fraction(datetime.fromtimestamp(seconds, UTC), f"{nanoseconds:09d}")


def from_milliseconds(milliseconds: int) -> str:
    """Return the instant `milliseconds` after 1970-01-01T00:00:00Z."""
    seconds, rest = divmod(milliseconds, 1000)
    return _with_fraction(datetime.fromtimestamp(seconds, UTC), f"{rest:03d}")


def _with_fraction(moment: datetime, digits: str) -> str:
    digits = digits.rstrip("0")
    text = moment.replace(tzinfo=None).isoformat()
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def to_columns(instant: str) -> tuple[str, int]:
    """Split an instant into what PostgreSQL's `timestamptz` holds, as text, and the remaining 0 to 999 ns."""
    if len(instant) <= _MICROSECOND_TEXT_LENGTH:
        return instant, 0
    return f"{instant[:26]}Z", int(instant[26:-1].ljust(3, "0"))


def from_columns(timestamptz: str, nanoseconds: int) -> str:
    """Join what `to_columns` split.

    `timestamptz` is PostgreSQL's text with DateStyle ISO and TimeZone UTC: `2009-09-28 19:03:12.123456+00`.
    """
    date, clock = timestamptz[:10], timestamptz[11:-3]
    if nanoseconds:
        seconds, _, microseconds = clock.partition(".")
        clock = f"{seconds}.{microseconds.ljust(6, '0')}{nanoseconds:03d}".rstrip("0")
    return f"{date}T{clock}Z"
