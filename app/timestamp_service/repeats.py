"""Saying what goes on and on only now and then."""

import time
from collections.abc import Callable, Hashable

from timestamp_service.logs import Log


class Repeats:
    """Logs warnings of one kind once in a while, with how many were left out since."""

    def __init__(
        self, log: Log, every_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write by `log`, each kind once in `every_seconds`."""
        self._log = log
        self._every = every_seconds
        self._clock = clock
        self._due: dict[Hashable, float] = {}
        self._left_out: dict[Hashable, int] = {}

    def warning(self, event: str, kind: Hashable, **fields: object) -> None:
        """Write a warning unless one of its event and kind was written not long ago."""
        now = self._clock()
        key = event, kind
        if now < self._due.get(key, now):
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return
        self._due[key] = now + self._every
        self._log.warning(event, **fields, left_out=self._left_out.pop(key, None))
