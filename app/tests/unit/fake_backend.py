"""A backend for tests of what stands around one."""


class Idle:
    """A backend with nothing to do."""

    async def start(self) -> None:
        pass

    async def check(self) -> str | None:
        return None

    def progressing(self) -> bool:
        return True

    def measure(self) -> None:
        pass

    def stopping(self) -> None:
        pass

    async def stop(self) -> None:
        pass
