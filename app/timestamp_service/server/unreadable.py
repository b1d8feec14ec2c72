"""What can be told of a request that the parser refuses: its path, and who asked for it."""

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote_from_bytes

from timestamp_service import correlation
from timestamp_service.correlation import Correlation, CorrelationError

EXPECTED = (
    "Expected is HTTP/1.1 (RFC 9112): path and query in visible ASCII, everything else percent-encoded, and "
    "headers without control characters."
)

_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([^\n]*?)(?: HTTP/[0-9.]+)?\r?\n")
_END = b"\r\n\r\n"
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
# In a label of the metrics, whatever was sent.
_OTHER = "other"


class Unreadable(NamedTuple):
    """A request that cannot be read: its method and path, as far as they can, and its correlation."""

    method: str
    instance: str
    correlation: Correlation


def read(received: bytes, method: bytes, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Unreadable:
    """Return what there is: `received` holds the last bytes, the parser has read the others so far."""
    if received.count(_END) > 1:
        # Several requests: which of them it is cannot be told.
        received = b""
    head = received.partition(_END)[0] + b"\r\n"
    line = _REQUEST_LINE.match(head)
    name_of_method = (line[1] if line is not None else method).decode("latin-1")
    target = (line[2] if line is not None else b"") or url
    path = target.partition(b"?")[0]
    fields = {name.lower(): value for name, value in headers}
    for text in head.split(b"\n"):
        name, colon, value = text.partition(b":")
        if colon:
            fields[name.lower()] = value.strip(b" \t\r")
    return Unreadable(
        name_of_method if name_of_method in _METHODS else _OTHER,
        quote_from_bytes(path, safe=_VISIBLE) if path.startswith(b"/") else "/",
        _correlation(fields),
    )


def _correlation(fields: dict[bytes, bytes]) -> Correlation:
    identifier, trace = (
        None if (value := fields.get(name.lower().encode())) is None else value.decode("latin-1")
        for name in (correlation.HEADER, correlation.TRACE_HEADER)
    )
    try:
        return correlation.from_request(identifier, trace)
    except CorrelationError:
        return correlation.from_request(None, trace)
