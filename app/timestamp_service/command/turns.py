"""Turns of the event loop: work that takes long lets other requests go on."""

import asyncio

# No request keeps another waiting for much longer than this by its own cost.
_TURN_SECONDS = 0.004


class Turns:
    """Says when it is the others' turn, and lets them have it."""

    def __init__(self) -> None:
        """Begin a turn of our own."""
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + _TURN_SECONDS

    def due(self) -> bool:
        """Return whether our turn is over."""
        return self._loop.time() >= self._until

    async def give(self) -> None:
        """Let the others have their turn, and begin another one of ours."""
        await asyncio.sleep(0)
        self._until = self._loop.time() + _TURN_SECONDS
