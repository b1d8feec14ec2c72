import asyncio
import logging

from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier
from timestamp_service.web.lifespan import Lifespan


class Counting:
    """A backend whose dependency answers at the second time of asking."""

    def __init__(self) -> None:
        self.checks = 0
        self.stopped = False
        self.often = asyncio.Event()

    async def start(self) -> None:
        pass

    async def check(self) -> str | None:
        self.checks += 1
        if self.checks >= 5:
            self.often.set()
        return "kafka" if self.checks == 1 else None

    def progressing(self) -> bool:
        return True

    def measure(self) -> None:
        pass

    def stopping(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True


def test_dependencies_are_asked_again_until_the_end() -> None:
    async def live() -> tuple[int, int]:
        backend = Counting()
        lifespan = Lifespan(backend, Log("test", logging.ERROR), Notifier(), refresh_seconds=0.01)
        await lifespan.process_startup({}, {})
        await backend.often.wait()
        assert not backend.stopped
        await lifespan.process_shutdown({}, {})
        assert backend.stopped
        ended = backend.checks
        await asyncio.sleep(0.05)
        return ended, backend.checks

    ended, later = asyncio.run(asyncio.wait_for(live(), 10))
    assert ended == later >= 5
