"""The checksum of a set of records in any order, computed from the log and from a table alike.

A record's byte form is its three values as the API answers them (id, event_timestamp, created_at: UUID and
RFC 3339 in their canonical texts) in ASCII with a line feed between them. Its number is the first 8 bytes of
the form's SHA-256, as a big-endian signed integer. The checksum is the sum of the numbers modulo 2^64: unlike
an exclusive or, a sum also reveals a record that is there twice.
"""

from hashlib import sha256

_MODULUS = 1 << 64


def number(identifier: str, event_timestamp: str, created_at: str) -> int:
    """Return the number of one record."""
    form = f"{identifier}\n{event_timestamp}\n{created_at}"
    return int.from_bytes(sha256(form.encode("ascii")).digest()[:8], "big", signed=True)


def text(total: int) -> str:
    """Return the checksum of records whose numbers have the sum `total`: 16 hexadecimal digits."""
    return f"{total % _MODULUS:016x}"


def _instant(column: str, nanoseconds: str) -> str:
    digits = f"to_char({column}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || lpad({nanoseconds}, 3, '0')"
    return f"rtrim(rtrim({digits}, '0'), '.') || 'Z'"


# The time zone of the session is UTC (connections.dsn).
_FORM = (
    f"id::text || E'\\n' || {_instant('event_timestamp', 'event_nanoseconds::text')}"
    f" || E'\\n' || {_instant('created_at', chr(39) * 2)}"
)


def query(table: str) -> str:
    """Return the query for how many records `table` holds, and for the sum of their numbers."""
    digest = f"encode(substring(sha256(convert_to({_FORM}, 'UTF8')) FOR 8), 'hex')"
    return f"SELECT count(*), coalesce(sum(('x' || {digest})::bit(64)::bigint), 0) FROM {table}"  # noqa: S608
