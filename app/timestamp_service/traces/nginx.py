"""The spans of nginx, which makes none itself: it writes a line about each request that may be traced.

A line comes as a datagram, as nginx sends it to a syslog server: a head without a brace, and a JSON object
(role nginx, `log_format span`).
"""

import json
import os
import re
import socket
import threading
from contextlib import suppress
from typing import Any

from timestamp_service import correlation
from timestamp_service.traces.spans import Span
from timestamp_service.traces.tracer import Tracer, sampled, trace_id_of

SERVICE = "nginx"

# Longer ones are cut by nginx (NGX_SYSLOG_MAX_STR).
_LINE_MOST = 4096
# What somebody asks all the time, as the APIs' own probes.
_QUIET = "/health"
_SPAN_ID = re.compile(r"[0-9a-f]{16}")


class MalformedError(ValueError):
    """A datagram is no line about a request."""


class NginxLines:
    """Listens at a unix socket for the lines of nginx on this node."""

    def __init__(self, path: str, tracer: Tracer) -> None:
        """Make the socket at `path`, and report to `tracer`. Raises OSError."""
        self._path = path
        self._tracer = tracer
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        # nginx runs as another user.
        os.chmod(path, 0o666)  # noqa: S103 (a line costs little, and says nothing that is trusted)
        self._thread = threading.Thread(target=self._run, name="nginx-lines", daemon=True)

    def start(self) -> None:
        """Read lines until the process ends."""
        self._thread.start()

    def _run(self) -> None:
        while True:
            with suppress(MalformedError):
                take(self._socket.recv(_LINE_MOST), self._tracer)


def take(line: bytes, tracer: Tracer) -> None:
    """Report to `tracer` the request of a line, if it is to be traced. Raises MalformedError."""
    try:
        fields: dict[str, Any] = json.loads(line[line.index(b"{") :].decode("utf-8", "replace"))
        status, seconds = int(fields["status"]), float(fields["seconds"])
        path = str(fields["path"])
        # What the API answered: it has decided.
        answered: str = fields["answered"]
        if path == _QUIET or not ((answered and sampled(answered)) or tracer.always(status, seconds)):
            return
        if _SPAN_ID.fullmatch(fields["span"]) is None:
            raise MalformedError("the span has no id")
        of_request = correlation.from_request(fields["correlationId"], fields["traceparent"])
        sent = of_request.traceparent
        tracer.add(
            Span(
                SERVICE,
                trace_id_of(of_request.identifier) if sent is None else sent[3:35],
                fields["span"],
                None if sent is None else sent[36:52],
                "SERVER",
                f"{fields['method']} {fields['route']}",
                float(fields["ended"]) - seconds,
                seconds,
                None,
                {
                    "http.method": fields["method"],
                    "http.path": path,
                    "http.status_code": str(status),
                    "correlationId": of_request.identifier,
                    "error": str(status) if status >= 500 else None,
                },
            )
        )
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise MalformedError(str(error)) from None
