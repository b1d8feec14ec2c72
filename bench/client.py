"""One client on one kept-alive connection."""

import json
import ssl
from http.client import HTTPConnection, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit


class Client:
    """Asks the service at `url` (scheme, host and port)."""

    def __init__(self, url: str, authority: str | None = None) -> None:
        """Connect at the first request; `authority` is a file with the CA certificate to trust."""
        parts = urlsplit(url)
        if parts.hostname is None:
            raise ValueError(f"no URL: {url}")
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=authority)
            self._connection: HTTPConnection = HTTPSConnection(
                parts.hostname, parts.port, timeout=40, context=context
            )
        else:
            self._connection = HTTPConnection(parts.hostname, parts.port, timeout=40)

    def ask(
        self, method: str, path: str, body: bytes | None = None, media_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        headers = {"Prefer": "wait=10"} if method == "GET" else {"Content-Type": media_type}
        self._connection.request(method, path, body=body, headers=headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def post(self, instant: str) -> str:
        """Record an instant and return its id."""
        content: dict[str, Any] = json.loads(self._expect("POST", f"/api/v1/timestamp/{instant}"))
        identifier: str = content["id"]
        return identifier

    def get(self, identifier: str) -> None:
        """Read a record, waiting until it is there."""
        self._expect("GET", f"/api/v1/timestamp/{identifier}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _expect(self, method: str, path: str) -> bytes:
        status, body = self.ask(method, path)
        if status != 200:
            raise RuntimeError(f"{method} {path} was answered {status}: {body!r}")
        return body
