"""`POST /api/v1/timestamps` records many instants with one request: all of them, or none."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import falcon.asgi

from timestamp_service import instants
from timestamp_service.command.publisher import BULK_MAX
from timestamp_service.web import problems
from timestamp_service.web.reply import JSON

LINES = "application/x-ndjson"
MEDIA_TYPES = (JSON, LINES)
BODY_MAX_BYTES = 1024 * 1024

# Other requests get their turn after so many instants: about a millisecond.
TURN = 500


@dataclass(frozen=True, slots=True)
class Instant:
    """An instant as it was sent, and in its canonical text."""

    sent: str
    canonical: str


async def read(request: falcon.asgi.Request) -> list[Instant]:
    """Return the instants in the body of `request`.

    Raises a problem: 413 (too much), 415 (no JSON), 400 (malformed) or 422, naming the index of each one
    that is not accepted.
    """
    media_type = (request.content_type or "").partition(";")[0].strip().lower()
    encoding = request.get_header("Content-Encoding") or "identity"
    if media_type not in MEDIA_TYPES or encoding.lower() != "identity":
        raise problems.Problem(
            415,
            f"The body is not accepted. Expected is {JSON} or {LINES} in the header Content-Type, as it is.",
        )
    body = await _body(request)
    errors: dict[int, str] = {}
    texts = _array(body) if media_type == JSON else _lines(body, errors)
    if len(texts) > BULK_MAX:
        raise problems.Problem(
            413, f"The body holds {len(texts)} instants. Expected are {BULK_MAX} at most: send it in parts."
        )
    normalised = await _normalised(texts, errors)
    if errors:
        raise problems.Problem(
            422,
            f"Nothing was recorded: {len(errors)} of {len(texts)} timestamps are not accepted. "
            f"Expected is RFC 3339 such as {instants.EXAMPLE}.",
            errors=[{"index": index, "detail": errors[index]} for index in sorted(errors)],
        )
    return normalised


async def _body(request: falcon.asgi.Request) -> bytes:
    if (request.content_length or 0) <= BODY_MAX_BYTES:
        # One without a length may be longer all the same.
        body: bytes = await request.stream.read(BODY_MAX_BYTES + 1)
        if len(body) <= BODY_MAX_BYTES:
            return body
    raise problems.Problem(
        413, f"The body is larger than {BODY_MAX_BYTES} bytes, which is the limit: send it in parts."
    )


def _array(body: bytes) -> Sequence[object]:
    try:
        content = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise problems.Problem(
            400, f'The body is not JSON. Expected is an array such as ["{instants.EXAMPLE}"].'
        ) from None
    if not isinstance(content, list):
        raise problems.Problem(
            422, f'The body is no array. Expected is one of timestamps such as ["{instants.EXAMPLE}"].'
        )
    return content


def _lines(body: bytes, errors: dict[int, str]) -> Sequence[object]:
    lines = body.split(b"\n")
    if not lines[-1].strip():
        # What ends a line does not begin another.
        lines.pop()
    texts: list[object] = []
    for index, line in enumerate(lines):
        try:
            texts.append(json.loads(line.decode("utf-8")))
        except (ValueError, RecursionError):
            texts.append(None)
            errors[index] = "it is not JSON"
    return texts


async def _normalised(texts: Sequence[object], errors: dict[int, str]) -> list[Instant]:
    normalised = []
    for index, text in enumerate(texts):
        if index % TURN == TURN - 1:
            await asyncio.sleep(0)
        if not isinstance(text, str):
            errors.setdefault(index, "it is not a string")
            continue
        try:
            normalised.append(Instant(text, instants.normalise(text)))
        except instants.InstantError as error:
            errors[index] = str(error)
    return normalised
