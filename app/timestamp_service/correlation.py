"""What ties the log lines of one request together, in all services: correlationId and traceparent."""

import random
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import uuid_utils

from timestamp_service.identifiers import UUID

HEADER = "correlationId"
TRACE_HEADER = "traceparent"
_REPLY_HEADER = HEADER.lower()

# W3C Trace Context, section 3.2: neither id is all zeros. Of a later version the first four fields are read,
# and carried on as version 00, of whose flags only the lowest bit is known (section 3.2.4: 4.2).
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


class CorrelationError(ValueError):
    """The header correlationId is not a UUID."""


class Trace:
    """The spans of a request that is sampled: ids as Trace Context has them, in hexadecimal digits."""

    __slots__ = ("parent_id", "producer_id", "sent_at", "span_id", "trace_id")

    def __init__(self, trace_id: str, parent_id: str | None) -> None:
        """Begin the request's own span, the child of `parent_id`."""
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.span_id = new_span_id()
        # Of the span of its messages, and when (performance counter, in seconds) they were sent.
        self.producer_id: str | None = None
        self.sent_at = 0.0

    def send(self) -> str:
        """Begin the span of the request's messages; return the traceparent that they carry."""
        self.sent_at = time.perf_counter()
        self.producer_id = new_span_id()
        return f"00-{self.trace_id}-{self.producer_id}-01"


def new_span_id() -> str:
    """Return a new span id: 16 hexadecimal digits."""
    return f"{random.getrandbits(64):016x}"


# A tuple: a frozen dataclass takes three times as long to create.
class Correlation(NamedTuple):
    """The correlation id of a request, its traceparent if it has one, and its trace if it is sampled."""

    identifier: str
    traceparent: str | None = None
    trace: Trace | None = None

    def kafka_headers(self) -> list[tuple[str, str | bytes | None]]:
        """Return the headers of a Kafka message that carry it on."""
        headers: list[tuple[str, str | bytes | None]] = [(HEADER, self.identifier.encode())]
        if self.trace is not None:
            headers.append((TRACE_HEADER, self.trace.send().encode()))
        elif self.traceparent is not None:
            headers.append((TRACE_HEADER, self.traceparent.encode()))
        return headers

    def reply_headers(self) -> str:
        """Return the header lines of the answer to the request."""
        trace = "" if self.traceparent is None else f"{TRACE_HEADER}: {self.traceparent}\r\n"
        return f"{_REPLY_HEADER}: {self.identifier}\r\n{trace}"


def new() -> Correlation:
    """Return a correlation for a request that came without."""
    return Correlation(str(uuid_utils.uuid4()))


def from_request(identifier: str | None, traceparent: str | None) -> Correlation:
    """Return the correlation of a request with these headers.

    Any RFC 9562 UUID is an id, whatever its version, and stays as it was sent. A malformed traceparent is
    dropped, as Trace Context asks. Raises CorrelationError.
    """
    if identifier is None:
        identifier = str(uuid_utils.uuid4())
    elif UUID.fullmatch(identifier) is None:
        raise CorrelationError("the header correlationId is not a UUID")
    return Correlation(identifier, None if traceparent is None else _carried_on(traceparent))


def _carried_on(traceparent: str) -> str | None:
    fields = _TRACEPARENT.fullmatch(traceparent)
    if fields is None:
        return None
    version, identifiers, flags, more = fields.groups()
    if version == "00":
        return traceparent if more is None else None
    return f"00-{identifiers}-{int(flags, 16) & 1:02x}"


def from_kafka(headers: Sequence[tuple[str, str | bytes | None]] | None) -> Correlation | None:
    """Return the correlation that a Kafka message carries, or None. The last of several headers counts."""
    headers = headers or ()
    if len(headers) == 1 and headers[0][0] == HEADER:
        # What nearly all have.
        alone = headers[0][1]
        text = alone.decode("ascii", "replace") if isinstance(alone, bytes) else alone
        return None if text is None or UUID.fullmatch(text) is None else Correlation(text)
    carried = {name: value for name, value in headers if name in (HEADER, TRACE_HEADER)}
    texts = {
        name: value.decode("ascii", "replace") if isinstance(value, bytes) else value
        for name, value in carried.items()
    }
    if texts.get(HEADER) is None:
        return None
    try:
        return from_request(texts[HEADER], texts.get(TRACE_HEADER))
    except CorrelationError:
        return None
