"""The consumer's health port reports the state of its loop."""

from timestamp_service.consumer.state import State


class HealthBackend:
    """The backend of the health port: the state that the loop keeps, in another thread."""

    def __init__(self, state: State) -> None:
        """Report `state`."""
        self._state = state

    async def start(self) -> None:
        """Do nothing: the loop has its own thread."""

    async def check(self) -> str | None:
        """Return the name of the dependency that does not answer."""
        return self._state.missing()

    def progressing(self) -> bool:
        """Leave progress to the loop."""
        return True

    def measure(self) -> None:
        """Update the gauges of how far the loop is behind."""
        self._state.measure()

    def stopping(self) -> None:
        """Do nothing: no request waits."""

    async def stop(self) -> None:
        """Do nothing: the loop has its own thread."""
