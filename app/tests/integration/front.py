"""A stand-in for nginx: both APIs at one port, reading and writing to the one that does it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tests.integration.service import Running

# They belong to one connection.
_HOP_BY_HOP = frozenset(("connection", "keep-alive", "transfer-encoding"))


@contextmanager
def front(running: Running) -> Iterator[str]:
    """Serve both APIs of `running` at the URL that is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            service = running.command if self.command == "POST" else running.query
            length = int(self.headers.get("Content-Length", "0"))
            connection = HTTPConnection("127.0.0.1", service.port, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value.encode("latin-1"))
                connection.endheaders(self.rfile.read(length) or None)
                response = connection.getresponse()
                body = response.read()
            finally:
                connection.close()
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self._pass_on
            raise AttributeError(name)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
