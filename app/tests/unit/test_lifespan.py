import asyncio
import logging

from tests.unit.fake_backend import Idle
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier
from timestamp_service.web.lifespan import Lifespan


class Counting(Idle):
    """A backend whose dependency answers at the second time of asking."""

    def __init__(self) -> None:
        self.checks = 0
        self.stopped = False
        self.often = asyncio.Event()

    async def check(self) -> str | None:
        self.checks += 1
        if self.checks >= 5:
            self.often.set()
        return "kafka" if self.checks == 1 else None

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


class Away(Counting):
    """A backend whose dependency never answers."""

    async def check(self) -> str | None:
        self.checks += 1
        return "kafka"


async def start(backend: Counting, start_seconds: float) -> None:
    """Return once requests are served."""
    lifespan = Lifespan(backend, Log("test", logging.ERROR), Notifier(), start_seconds=start_seconds)
    await lifespan.process_startup({}, {})
    await lifespan.process_shutdown({}, {})


def test_requests_wait_until_the_backend_is_ready() -> None:
    backend = Counting()
    asyncio.run(asyncio.wait_for(start(backend, start_seconds=30), 20))
    assert backend.checks == 2


def test_requests_do_not_wait_for_ever() -> None:
    asyncio.run(asyncio.wait_for(start(Away(), start_seconds=0.2), 20))
