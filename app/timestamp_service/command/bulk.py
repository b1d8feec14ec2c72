"""`POST /api/v1/timestamps` records many instants with one request: all of them, or none."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import falcon.asgi

from timestamp_service import instants, strict_json
from timestamp_service.command.publisher import BULK_MAX
from timestamp_service.command.turns import Turns
from timestamp_service.strict_json import JSONError, Turn
from timestamp_service.web import headers, problems
from timestamp_service.web.reply import JSON

LINES = "application/x-ndjson"
MEDIA_TYPES = (JSON, LINES)
BODY_MAX_BYTES = 1024 * 1024

_BLANKS = b" \t\r\n"
# So many instants are looked at together: a look at the clock costs a third as much as one instant.
CHUNK = 32


# A tuple: a frozen dataclass takes three times as long to create.
class Instant(NamedTuple):
    """An instant as it was sent, and in its canonical text."""

    sent: str
    canonical: str


async def read(request: falcon.asgi.Request) -> list[Instant]:
    """Return the instants in the body of `request`; other requests have their turns meanwhile.

    Raises a problem: 413 (too much), 415 (no JSON), 400 (malformed) or 422, naming the index of each one
    that is not accepted.
    """
    media_type = (headers.single(request, "Content-Type") or "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise problems.Problem(
            415, f"The body is not accepted. Expected is {JSON} or {LINES} in the header Content-Type."
        )
    codings = headers.members(headers.lines(request, "content-encoding"))
    if any(coding.lower() != "identity" for coding in codings):
        raise problems.Problem(
            415, "The body is compressed (header Content-Encoding). Expected is one that is not."
        ).with_header("accept-encoding", "identity")
    body = await _body(request)
    turns = Turns()
    chunks = _array(body) if media_type == JSON else _lines(body)
    normalised: list[Instant] = []
    errors: list[str] = []
    count = 0
    async for chunk in chunks:
        if turns.due():
            await turns.give()
        if count + len(chunk) > BULK_MAX:
            raise problems.Problem(
                413, f"The body holds more than {BULK_MAX} instants, which is the limit: send it in parts."
            )
        for index, text in enumerate(chunk, count):
            try:
                if not isinstance(text, str):
                    wrong = text if isinstance(text, _Wrong) else _NO_TEXT
                    raise instants.InstantError(wrong.detail)
                normalised.append(Instant(text, instants.normalise(text)))
            except instants.InstantError as error:
                errors.append(f'{{"index":{index},"detail":{json.dumps(str(error))}}}')
        count += len(chunk)
    if errors:
        raise problems.Problem(
            422,
            f"Nothing was recorded: {len(errors)} of {count} timestamps are not accepted. "
            f"Expected is RFC 3339 such as {instants.EXAMPLE}.",
            errors=problems.Encoded(f"[{','.join(errors)}]"),
        )
    return normalised


@dataclass(frozen=True, slots=True)
class _Wrong:
    """What is not even JSON, or no text, and why it is not accepted."""

    detail: str


_NO_TEXT = _Wrong("it is not a string")
_NO_JSON = _Wrong("it is not JSON")
_EMPTY_LINE = _Wrong("the line is empty")


async def _body(request: falcon.asgi.Request) -> bytes:
    if (request.content_length or 0) <= BODY_MAX_BYTES:
        # One without a length may be longer all the same.
        body: bytes = await request.stream.read(BODY_MAX_BYTES + 1)
        if len(body) <= BODY_MAX_BYTES:
            return body
    raise problems.Problem(
        413, f"The body is larger than {BODY_MAX_BYTES} bytes, which is the limit: send it in parts."
    )


async def _array(body: bytes) -> AsyncIterator[Sequence[object]]:
    """Give the elements, some at a time."""
    try:
        text = body.decode("utf-8")
        if len(text) <= strict_json.QUICK_LENGTH:
            try:
                content = strict_json.loads(text)
            except RecursionError:
                pass
            else:
                if not isinstance(content, list):
                    raise _no_array()
                for start in range(0, len(content), CHUNK):
                    yield content[start : start + CHUNK]
                return
        steps = strict_json.elements(text)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                if not end.value:
                    raise _no_array() from None
                return
            if isinstance(step, Turn):
                await asyncio.sleep(0)
            else:
                yield step
    except (JSONError, UnicodeDecodeError):
        raise problems.Problem(
            400, f'The body is not JSON. Expected is an array such as ["{instants.EXAMPLE}"].'
        ) from None


def _no_array() -> problems.Problem:
    return problems.Problem(
        422, f'The body is no array. Expected is one of timestamps such as ["{instants.EXAMPLE}"].'
    )


async def _lines(body: bytes) -> AsyncIterator[Sequence[object]]:
    """Give the values of the lines, some at a time. Empty lines at the end are none."""
    chunk: list[object] = []
    end, position, begin = len(body.rstrip(_BLANKS)), 0, 0
    while position < end:
        feed = body.find(b"\n", position, end)
        line = body[position : end if feed < 0 else feed]
        position = end if feed < 0 else feed + 1
        chunk.append(await _line(line))
        if len(chunk) == CHUNK or position - begin >= strict_json.QUICK_LENGTH:
            yield chunk
            chunk, begin = [], position
    if chunk:
        yield chunk


async def _line(line: bytes) -> object:
    """Return the value of a line."""
    if not line.strip(_BLANKS):
        return _EMPTY_LINE
    try:
        text = line.decode("utf-8")
        if len(text) <= strict_json.QUICK_LENGTH:
            try:
                value = strict_json.loads(text)
            except RecursionError:
                value = await _slowly(text)
        else:
            value = await _slowly(text)
    except (JSONError, UnicodeDecodeError):
        return _NO_JSON
    return value


async def _slowly(text: str) -> str | None:
    steps = strict_json.value(text)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: str | None = end.value
            return value
        await asyncio.sleep(0)
