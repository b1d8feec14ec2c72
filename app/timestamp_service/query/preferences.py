"""What a client prefers (RFC 7240): for how long it would wait for a record."""

import re

import falcon.asgi

from timestamp_service.web import headers, problems

HEADER = "Prefer"
APPLIED_HEADER = "Preference-Applied"
WAIT_MAX_SECONDS = 30

_WAIT = re.compile(r"wait\s*=\s*(?:\"([0-9]+)\"|([0-9]+))", re.IGNORECASE)
_NAME = re.compile(r"wait\s*(?:=.*)?", re.IGNORECASE)
# 30 and more is the same, however many digits follow.
_DIGITS_MAX = 9


def wait_of(request: falcon.asgi.Request) -> int | None:
    """Return for how many seconds (0 to 30) `request` asks to wait at most; None: it does not say.

    Preferences that are not known are ignored, as is all but the first `wait` (RFC 7240, section 2).
    Raises a 400 problem for a `wait` that is no number of seconds.
    """
    for member in headers.members(headers.lines(request, HEADER.lower())):
        preference = headers.parts(member)[0]
        if _NAME.fullmatch(preference) is None:
            continue
        wait = _WAIT.fullmatch(preference)
        if wait is None:
            raise problems.Problem(
                400, f"The header {HEADER} is not accepted. Expected are whole seconds such as wait=10."
            )
        digits = (wait[1] or wait[2]).lstrip("0")
        return WAIT_MAX_SECONDS if len(digits) > _DIGITS_MAX else min(int(digits or 0), WAIT_MAX_SECONDS)
    return None
