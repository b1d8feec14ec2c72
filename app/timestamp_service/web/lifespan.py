"""What a process does behind its HTTP resources, from the start of its event loop to the end."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from timestamp_service.runtime import metrics
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier
from timestamp_service.traces.tracer import Tracer

_REFRESH_SECONDS = 30.0
# So long, requests wait for what a starting process depends on. Then they are told what is missing.
_START_SECONDS = 2.0
# The figures of the other workers are at most this old when one worker is asked.
_MEASURE_SECONDS = 1.0


class Backend(Protocol):
    """What does the work of a process: a publisher, a reader."""

    async def start(self) -> None:
        """Create connections and threads, without waiting for anything that may be down."""

    async def check(self) -> str | None:
        """Return the name of the dependency that does not answer, or None."""

    def progressing(self) -> bool:
        """Return whether no work is stuck beyond its deadlines."""

    def measure(self) -> None:
        """Update the gauges."""

    def stopping(self) -> None:
        """End the waits of requests: no new ones come."""

    async def stop(self) -> None:
        """Finish what is in flight, and close."""


class Lifespan:
    """Middleware: starts and stops the backend with the event loop, and notifies systemd once it is ready."""

    def __init__(
        self,
        backend: Backend,
        log: Log,
        notifier: Notifier,
        tracer: Tracer | None = None,
        *,
        refresh_seconds: float = _REFRESH_SECONDS,
        start_seconds: float = _START_SECONDS,
    ) -> None:
        """Look after `backend` and `tracer`."""
        self._backend = backend
        self._tracer = tracer
        self._refresh_seconds = refresh_seconds
        self._start_seconds = start_seconds
        self._ready = asyncio.Event()
        self._log = log
        self._notifier = notifier
        self._tasks: list[asyncio.Task[None]] = []

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Start the backend. Requests are served once it is ready, or soon, ready or not."""
        self._log.join_lines()
        if self._tracer is not None:
            self._tracer.start()
        await self._backend.start()
        self._tasks = [asyncio.create_task(task) for task in (self._become_ready(), self._measure())]
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), self._start_seconds)

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Stop the backend."""
        for task in self._tasks:
            task.cancel()
        await self._backend.stop()
        if self._tracer is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._tracer.close)
        self._backend.measure()
        metrics.flush()
        self._log.info("stopped")
        self._log.separate_lines()

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(_MEASURE_SECONDS)
            self._backend.measure()
            metrics.flush()

    async def _become_ready(self) -> None:
        delay, reported = 0.1, None
        while True:
            missing = await self._backend.check()
            if missing is None:
                break
            if missing != reported:
                reported = missing
                self._log.warning("not_ready", waits_for=missing)
                self._notifier.status(f"Not ready: {missing}")
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 2)
        self._ready.set()
        self._log.info("ready")
        self._notifier.ready()
        # What the backend knows of its dependencies, such as the leaders of partitions, is kept fresh.
        while True:
            await asyncio.sleep(self._refresh_seconds)
            await self._backend.check()
