"""Who waits for the acknowledgement of a message, and until when."""

import asyncio
from collections import deque
from collections.abc import Callable

# The library looks at its own deadlines only once a second.
_SWEEP_SECONDS = 0.05


class NotPublishedError(Exception):
    """The broker has not acknowledged the message in time; it may or may not be in the log."""


class DeliveryCallback:
    """A future for one who has no task: `then` is called once, with whether all in-sync replicas have it."""

    __slots__ = ("_done", "_then")

    def __init__(self, then: Callable[[bool], None]) -> None:
        """Call `then` at the end."""
        self._then = then
        self._done = False

    def done(self) -> bool:
        """Return whether it has ended."""
        return self._done

    def set_result(self, _result: None) -> None:
        """Report success."""
        self._done = True
        self._then(True)

    def set_exception(self, _error: NotPublishedError) -> None:
        """Report failure."""
        self._done = True
        self._then(False)


Acknowledgement = asyncio.Future[None] | DeliveryCallback


class Deadlines:
    """Fails each acknowledgement that is late by our own clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Let each acknowledgement take `seconds`."""
        self._loop = loop
        self._seconds = seconds
        self._waiting: deque[tuple[float, Acknowledgement]] = deque()
        self._handle: asyncio.Handle | None = None

    def expect(self, acknowledgement: Acknowledgement) -> None:
        """Fail `acknowledgement` with NotPublishedError when it is late."""
        self._waiting.append((self._loop.time() + self._seconds, acknowledgement))
        if self._handle is None:
            self._handle = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        """Fail nothing any more."""
        if self._handle is not None:
            self._handle.cancel()

    def _sweep(self) -> None:
        now = self._loop.time()
        waiting = self._waiting
        while waiting and (waiting[0][0] <= now or waiting[0][1].done()):
            _, acknowledgement = waiting.popleft()
            if not acknowledgement.done():
                acknowledgement.set_exception(NotPublishedError())
        self._handle = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if waiting else None
