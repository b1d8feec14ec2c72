"""Errors of the APIs: RFC 9457 problem details."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import falcon

from timestamp_service.web import routes
from timestamp_service.web.reply import Reply

MEDIA_TYPE = "application/problem+json"

# Those of RFC 9110: Python 3.11 has older names, 3.13 these. nginx answers the same (role nginx).
_TITLES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}


class Encoded(str):
    """A member of a problem that is JSON already."""

    __slots__ = ()


class Problem(falcon.HTTPError):
    """An error that is answered to the client: `status`, what is wrong, and what was expected."""

    def __init__(self, status: int, detail: str | None, **members: Any) -> None:
        """Answer `status` with `detail`; `members` are added to the problem (RFC 9457, section 3.2)."""
        super().__init__(status, description=detail)
        self.members = members
        self.reply_headers = ""

    def with_header(self, name: str, value: str) -> "Problem":
        """Return this problem, answered with a header too (its name in lower case)."""
        self.reply_headers += f"{name}: {value}\r\n"
        return self


def try_again(status: int, detail: str) -> Problem:
    """Return a problem that may be gone in a second."""
    return Problem(status, detail).with_header("retry-after", "1")


def unavailable(dependency: str) -> Problem:
    """Return the problem of a service whose `dependency` (its kind, never its host) does not answer.

    It may say itself what is wrong, and after a colon what helps.
    """
    said = dependency if ":" in dependency else f"{dependency} does not answer at the moment"
    return try_again(503, f"The {said}. Try again shortly.")


def of(error: falcon.HTTPError, path: str) -> Problem:
    """Return `error`, which Falcon itself may have raised, as a problem."""
    if isinstance(error, Problem):
        return error
    detail = error.description
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = "There is nothing at this path. Try POST /api/v1/timestamp/2009-09-28T19:03:12Z."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"This path has the methods {', '.join(routes.allowed(path))}."
    return Problem(error.status_code, detail)


def instance_of(scope: Mapping[str, Any]) -> str:
    """Return the path of an ASGI request as it was sent."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.decode("ascii", "replace")


def reply(problem: Problem, instance: str, correlation_id: str) -> Reply:
    """Return the answer to a request whose path was `instance`.

    `type` is about:blank: the status says everything (RFC 9457, section 4.2.1).
    """
    status = problem.status_code
    title = _TITLES.get(status) or HTTPStatus(status).phrase
    content: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    if problem.description:
        content["detail"] = problem.description
    content["instance"] = instance
    content["correlationId"] = correlation_id
    encoded = {name: value for name, value in problem.members.items() if isinstance(value, Encoded)}
    content.update((name, value) for name, value in problem.members.items() if name not in encoded)
    text = json.dumps(content, ensure_ascii=False)
    if encoded:
        members = ",".join([f"{json.dumps(name)}:{value}" for name, value in encoded.items()])
        text = f"{text[:-1]},{members}}}"
    return Reply(
        status,
        f"{problem.reply_headers}content-type: {MEDIA_TYPE}\r\n",
        text.encode("utf-8", "replace"),
    )
