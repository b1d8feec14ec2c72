"""Who waits for the acknowledgement of a message, and until when."""

import asyncio
from collections import deque
from collections.abc import Callable

# The library looks at its own deadlines only once a second.
_SWEEP_SECONDS = 0.05
# With so many in the queue, those that have ended are removed from it.
_TIDY_LENGTH = 1024


class NotPublishedError(Exception):
    """The broker has not acknowledged the message in time; it may or may not be in the log."""


class DeliveryCallback:
    """A future for one who has no task: `then` is called once, with whether all in-sync replicas have it."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[bool], None]) -> None:
        """Call `then` at the end."""
        self._then: Callable[[bool], None] | None = then

    def done(self) -> bool:
        """Return whether it has ended."""
        return self._then is None

    def set_result(self, _result: None) -> None:
        """Report success."""
        self._end(True)

    def set_exception(self, _error: NotPublishedError) -> None:
        """Report failure."""
        self._end(False)

    def _end(self, acknowledged: bool) -> None:
        # What has ended keeps nothing of its request in memory.
        then, self._then = self._then, None
        if then is not None:
            then(acknowledged)


Acknowledgement = asyncio.Future[None] | DeliveryCallback


class Deadlines:
    """Fails each acknowledgement that is late by our own clock."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: Callable[[], float],
        before: Callable[[], object],
    ) -> None:
        """Let each take as long as `seconds` returns by then.

        `before` takes in those that have come, before any is failed.
        """
        self._loop = loop
        self._seconds = seconds
        self._before = before
        self._tidy_at = _TIDY_LENGTH
        self._waiting: deque[tuple[float, Acknowledgement]] = deque()
        self._handle: asyncio.Handle | None = None

    def expect(self, acknowledgement: Acknowledgement) -> None:
        """Fail `acknowledgement` with NotPublishedError when it is late."""
        waiting = self._waiting
        waiting.append((self._loop.time(), acknowledgement))
        if len(waiting) >= self._tidy_at:
            # Those that have ended stand behind one that has not: they are not to pile up.
            self._waiting = deque(entry for entry in waiting if not entry[1].done())
            self._tidy_at = max(_TIDY_LENGTH, 2 * len(self._waiting))
        if self._handle is None:
            self._handle = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        """Fail nothing any more."""
        if self._handle is not None:
            self._handle.cancel()

    def _sweep(self) -> None:
        # After a stall of ours, acknowledgements are here that nobody has looked at.
        self._before()
        late = self._loop.time() - self._seconds()
        waiting = self._waiting
        while waiting and (waiting[0][0] <= late or waiting[0][1].done()):
            _, acknowledgement = waiting.popleft()
            if not acknowledgement.done():
                acknowledgement.set_exception(NotPublishedError())
        self._handle = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if waiting else None
