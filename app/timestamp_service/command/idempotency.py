"""Idempotency keys: a retry with the same key gives the same id, however often it is sent."""

import re

import falcon.asgi

from timestamp_service.web import headers, problems

HEADER = "Idempotency-Key"
EXAMPLE = "8e03978e-40d5-43e8-bc93-6894a57f9324"
PATTERN = "[!-~]{1,255}"

_KEY = re.compile(PATTERN)


def key_of(request: falcon.asgi.Request) -> str | None:
    """Return the idempotency key of `request`, or None.

    Raises a 400 problem when it is malformed, or came twice.
    """
    key = headers.single(request, HEADER)
    if key is not None and _KEY.fullmatch(key) is None:
        raise problems.Problem(
            400,
            f"The header {HEADER} is not accepted. Expected are 1 to 255 visible ASCII characters such as "
            f"{EXAMPLE}, or no such header.",
        )
    return key
