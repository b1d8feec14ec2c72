"""A proxy of a broker, which can go away as a broker does that stops: it says that there are no brokers.

The broker answers so in the last milliseconds before it closes its connections, too rarely for a test.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from tests.integration.processes import free_port

_METADATA = 3
# From this version on, arrays have the compact form that is read here.
_COMPACT = 9


class KafkaProxy:
    """Passes everything on between clients and a broker that advertises the proxy's port."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self.port = free_port()
        # Whether it has gone away. A client that asks for brokers learns that, once, and is cut off.
        self.away = False
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError):
                if not self.away:
                    self._connect(client)
                    continue
            client.close()

    def _connect(self, client: socket.socket) -> None:
        broker = socket.create_connection(("127.0.0.1", self._broker_port))
        # The versions of the questions about brokers, by their correlation ids.
        asked: dict[int, int] = {}

        def note(question: bytes) -> tuple[bytes, bool]:
            kind, version, correlation = struct.unpack(">hhi", question[:8])
            if kind == _METADATA:
                asked[correlation] = version
            return question, False

        def change(answer: bytes) -> tuple[bytes, bool]:
            version = asked.pop(struct.unpack(">i", answer[:4])[0], None)
            if version is None or not self.away:
                return answer, False
            assert version >= _COMPACT
            return _without_brokers(answer), True

        for source, target, treat in ((client, broker, note), (broker, client, change)):
            threading.Thread(target=_pass_on, args=(source, target, treat), daemon=True).start()


def _pass_on(
    source: socket.socket, target: socket.socket, treat: Callable[[bytes], tuple[bytes, bool]]
) -> None:
    """Pass packets on until one end closes the connection, or a packet is the last one."""
    with suppress(OSError):
        for packet in _packets(source):
            treated, last = treat(packet)
            target.sendall(struct.pack(">i", len(treated)) + treated)
            if last:
                break
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _packets(source: socket.socket) -> Iterator[bytes]:
    with source.makefile("rb") as stream:
        while len(length := stream.read(4)) == 4:
            yield stream.read(struct.unpack(">i", length)[0])


def _without_brokers(answer: bytes) -> bytes:
    """Return an answer to a question about brokers with an empty list of them."""
    # After the correlation id, no tags, and the throttle time.
    begin = 4 + 1 + 4
    at = begin + 1
    # A compact array or string begins with its length and one more; each number here is less than 128.
    for _ in range(answer[begin] - 1):
        at += 4
        at += answer[at] + 4
        # No rack, and no tags.
        assert answer[at : at + 2] == b"\0\0"
        at += 2
    return answer[:begin] + b"\x01" + answer[at:]
