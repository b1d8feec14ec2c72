"""Errors of the APIs: RFC 9457 problem details."""

import json
from http import HTTPStatus
from typing import Any

import falcon

MEDIA_TYPE = "application/problem+json"


class Problem(falcon.HTTPError):
    """An error that the client is told of: `status`, what is wrong and what was expected."""

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None, **members: Any) -> None:
        """Answer `status` with `detail`; `members` are added to the problem (RFC 9457, section 3.2)."""
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, description=detail, headers=headers)
        self.members = members


def unavailable(dependency: str) -> Problem:
    """Return the problem of a service whose `dependency` (its kind, never its host) does not answer."""
    return Problem(503, f"The {dependency} does not answer at the moment. Try again shortly.", retry_after=1)


def render(
    status: int, detail: str | None, instance: str, correlation_id: str | None, members: dict[str, Any]
) -> bytes:
    """Return the body of a problem.

    `type` is about:blank: the status says it all (RFC 9457, section 4.2.1).
    """
    content: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if detail:
        content["detail"] = detail
    content["instance"] = instance
    if correlation_id is not None:
        content["correlationId"] = correlation_id
    content.update(members)
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
