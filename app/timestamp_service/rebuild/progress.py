"""The progress of a rebuild: a log line and systemd's status every few seconds."""

import time

from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier

_EVERY_SECONDS = 2.0


class Progress:
    """Counts the messages of one load of the log after the other."""

    def __init__(self, log: Log, notifier: Notifier) -> None:
        """Report to `log` and `notifier`."""
        self._log = log
        self._notifier = notifier
        self._total = self._base = self._done = 0
        self._started = time.monotonic()
        self._logged_at = float("-inf")

    def begin(self, done: int, total: int) -> None:
        """Start counting at `done` messages of `total`; the rate is that of this load."""
        self._base = self._done = done
        self._total = total
        self._started = time.monotonic()

    def add(self, count: int) -> None:
        """Count messages that are written, and report every few seconds."""
        self._done += count
        now = time.monotonic()
        if now - self._logged_at < _EVERY_SECONDS:
            return
        self._logged_at = now
        rate = (self._done - self._base) / max(now - self._started, 0.001)
        left = (self._total - self._done) / rate if rate else 0.0
        self._log.info(
            "progress",
            messages=self._done,
            of=self._total,
            per_second=round(rate),
            seconds_left=round(left),
        )
        self.state(f"{self._done:,} of {self._total:,} messages, {rate:,.0f} a second, {left:.0f} s left")

    def state(self, text: str) -> None:
        """Report in words what is being done."""
        self._notifier.status(text)
