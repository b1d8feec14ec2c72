"""An answer is made once, as a `Reply`. Falcon (framework path) and the fast path only carry it."""

from typing import NamedTuple, Protocol

import falcon.asgi

from timestamp_service.correlation import Correlation

JSON = "application/json"


def set_headers(response: falcon.asgi.Response, lines: str) -> None:
    """Hand header lines to Falcon."""
    for line in lines.split("\r\n")[:-1]:
        name, _, value = line.partition(": ")
        response.set_header(name, value)


# A tuple: a frozen dataclass takes three times as long to create.
class Reply(NamedTuple):
    """An answer: status, header lines ("name: value" CR LF, in lower case, each name once), and body."""

    status: int
    headers: str
    body: bytes

    def fill(self, response: falcon.asgi.Response) -> None:
        """Hand the answer to Falcon."""
        response.status = self.status
        set_headers(response, self.headers)
        response.data = self.body


class PlainRequest(Protocol):
    """A request about one timestamp or record without anything that changes its answer (see `FastPath`)."""

    # The last segment of the path, percent-decoded.
    text: str
    correlation: Correlation
    # For the log line of the request, once it is known.
    command_id: str | None

    @property
    def instance(self) -> str:
        """The path as it was sent, for a problem."""

    def sample(self) -> Correlation:
        """Decide whether the request is traced, once; return its correlation, which says so."""

    def send(self, reply: Reply) -> None:
        """Answer the request, log and trace it."""

    def use_framework(self) -> None:
        """Let Falcon answer the request instead, from the start."""


class FastPath(Protocol):
    """Answers the plain requests of one method, without a task and without the framework.

    The way through ASGI and Falcon costs a plain request more than its work does.
    """

    method: str

    def try_handle(self, request: PlainRequest) -> bool:
        """Answer `request` now or later; or return False without having done anything."""
