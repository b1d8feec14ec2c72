"""How long other requests wait while requests run that cost as much as a request may."""

import threading
import time
from collections.abc import Iterator
from statistics import quantiles

from bench.apis import INSTANT, Target
from bench.client import Client
from bench.report import Sample

_MIB = 1024 * 1024
# Each is as large as a body may be, and is refused or records nothing.
BODIES = {
    "line feeds": ("application/x-ndjson", b"\n" * _MIB),
    "empty lines": ("application/x-ndjson", b"\n" * (_MIB - 3) + b'"x"'),
    "deep": ("application/json", b"[" * (_MIB // 2) + b"]" * (_MIB // 2)),
    "numbers": ("application/json", b"[[" + b"0," * (_MIB // 2 - 3) + b"0]]"),
    "errors": ("application/json", b"[" + b'"' + b'x","' * 9_999 + b'x"]'),
}


def rounds(target: Target, count: int, seconds: float) -> Iterator[Sample]:
    """Post one after the other for `seconds`, alone and beside each of the bodies: the slowest, in ms.

    The ruler of each is the slowest of the calm time in the same round.
    """
    for _ in range(count):
        calm = _latencies(target, seconds)
        yield _sample("POST, slowest when calm", target, calm, None)
        for name, (media_type, body) in BODIES.items():
            stop = threading.Event()
            sender = threading.Thread(target=_send, args=(target, media_type, body, stop))
            sender.start()
            try:
                latencies = _latencies(target, seconds)
            finally:
                stop.set()
                sender.join()
            yield _sample(f"POST, slowest beside {name}", target, latencies, max(calm))


def _sample(row: str, target: Target, latencies: list[float], ruler: float | None) -> Sample:
    ordered = quantiles(latencies, n=100)
    return Sample(f"{row} @ {target.name}", "ms", max(latencies), ruler, ordered[49], ordered[98])


def _latencies(target: Target, seconds: float) -> list[float]:
    client = Client(target.command, target.authority)
    latencies = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        client.post(INSTANT)
        latencies.append((time.monotonic() - started) * 1000)
    client.close()
    return latencies


def _send(target: Target, media_type: str, body: bytes, stop: threading.Event) -> None:
    client = Client(target.command, target.authority)
    while not stop.is_set():
        client.ask("POST", "/api/v1/timestamps", body, media_type)
    client.close()
