"""For how long to wait for an acknowledgement: longer while a cluster fails over."""

from collections.abc import Callable


class Failover:
    """What is known of the brokers without asking them, and how long to wait by that.

    When one of several brokers fails, no record is acknowledged until the others have noticed it and taken
    over. A client waits for that, but neither for a broker that is alone nor in an outage that lasts longer.
    """

    def __init__(
        self, clock: Callable[[], float], acknowledge_seconds: float, failover_seconds: float
    ) -> None:
        """Allow a failover `failover_seconds`, and all else `acknowledge_seconds`, by `clock` (seconds)."""
        self._clock = clock
        self._acknowledge_seconds = acknowledge_seconds
        self._failover_seconds = failover_seconds
        # Whether another broker can take over, and whether we are connected to any.
        self.replicated = False
        self.connected = True
        # Since when messages are on their way and none is acknowledged: only an acknowledgement ends it.
        self._silent_since: float | None = None
        self._unanswered_since: float | None = None

    def sent(self) -> None:
        """Note that a message is on its way."""
        if self._silent_since is None:
            self._silent_since = self._clock()

    def acknowledged(self, in_flight: int) -> None:
        """Note that a message was acknowledged, and that so many others still are on their way."""
        self._silent_since = self._clock() if in_flight else None

    def seconds(self) -> float:
        """Return how long a message may wait for its acknowledgement."""
        return self._failover_seconds if self._possible() and not self.over() else self._acknowledge_seconds

    def over(self) -> bool:
        """Return whether messages have not been acknowledged for longer than a failover takes."""
        return self._lasts_too_long(self._silent_since)

    def answered(self) -> None:
        """Note that a broker has answered a question about the topic."""
        self._unanswered_since = None

    def unanswered(self) -> bool:
        """Note that none has; return whether that may be a failover."""
        if self._unanswered_since is None:
            self._unanswered_since = self._clock()
        return self._possible() and not self._lasts_too_long(self._unanswered_since)

    def _possible(self) -> bool:
        return self.replicated and self.connected

    def _lasts_too_long(self, since: float | None) -> bool:
        return since is not None and self._clock() - since >= self._failover_seconds
