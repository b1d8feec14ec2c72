"""A small HTTP/1.1 client that never repeats a request by itself, so that each failure is counted."""

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 5.0


class RequestError(Exception):
    """A request got no answer; `kind` is how it failed, in a word."""

    def __init__(self, kind: str) -> None:
        """Set the kind: not_connected, connect_timeout, tls, closed (before it), cut (in it), timeout."""
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go."""

    host: str
    port: int
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str, ca_file: Path | None) -> "Server":
        """Read a URL without a path; with a CA file only certificates of that CA are trusted.

        Raises ValueError, and OSError when the CA file cannot be read.
        """
        # The message does not quote the URL, which may hold a password.
        invalid = ValueError("the URL must be one such as https://timestamps.example.com")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise invalid from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise invalid
        tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        return cls(parts.hostname, port or (443 if tls else 80), tls)


@dataclass(slots=True)
class Answer:
    """An answer: status, body, the header Retry-After (seconds), and the seconds that it took."""

    status: int = 0
    body: bytes = b""
    retry_after: int | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class _Exchange:
    """One request, and its answer as far as it has arrived."""

    done: asyncio.Future[Answer]
    answer: Answer = field(default_factory=Answer)
    body: list[bytes] = field(default_factory=list)
    begun: bool = False


class _Connection(asyncio.Protocol):
    """A connection; one request at a time."""

    def __init__(self) -> None:
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: _Exchange | None = None

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        exchange = self._exchange = _Exchange(asyncio.get_running_loop().create_future())
        if self._transport is not None:
            self._transport.write(request)
        return exchange.done

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()
            self._fail("malformed")

    def eof_received(self) -> None:
        self.usable = False

    def connection_lost(self, _: Exception | None) -> None:
        self.usable = False
        self._fail("closed")

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None and name.lower() == b"retry-after" and value.isdigit():
            self._exchange.answer.retry_after = int(value)

    def on_body(self, body: bytes) -> None:
        if self._exchange is not None:
            self._exchange.body.append(body)

    def on_message_complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        if not self._parser.should_keep_alive():
            self.close()
        if exchange is not None and not exchange.done.done():
            exchange.answer.status = self._parser.get_status_code()
            exchange.answer.body = b"".join(exchange.body)
            exchange.done.set_result(exchange.answer)
        self._parser = httptools.HttpResponseParser(self)

    def _fail(self, kind: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and not exchange.done.done():
            exchange.done.set_exception(RequestError("cut" if exchange.begun and kind == "closed" else kind))


class Line:
    """Sends one request after the other to a server, on a new connection where that is necessary."""

    def __init__(self, server: Server, timeout_seconds: float) -> None:
        """Ask `server`; each request has `timeout_seconds` for its whole answer."""
        self._server = server
        self._timeout = timeout_seconds
        self._connection: _Connection | None = None

    async def ask(self, method: str, path: str, headers: str = "") -> Answer:
        """Send a request without a body; `headers` are whole lines, CR LF included. Raises RequestError."""
        started = time.perf_counter()
        connection = self._connection
        if connection is None or not connection.usable:
            connection = self._connection = await self._connect()
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        request = f"{method} {path} HTTP/1.1\r\nHost: {self._server.host}\r\n{length}{headers}\r\n"
        try:
            async with asyncio.timeout(self._timeout):
                answer = await connection.send(request.encode("ascii"))
        except TimeoutError:
            connection.close()
            raise RequestError("timeout") from None
        except asyncio.CancelledError:
            connection.close()
            raise
        answer.seconds = time.perf_counter() - started
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    _Connection, self._server.host, self._server.port, ssl=self._server.tls
                )
        except TimeoutError:
            raise RequestError("connect_timeout") from None
        except ssl.SSLError:
            raise RequestError("tls") from None
        except OSError:
            raise RequestError("not_connected") from None
        return connection
