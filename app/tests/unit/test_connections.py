"""A connection that a query has left in doubt is closed; one whose query the server ended is kept."""

import asyncio
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors

from timestamp_service.database.connections import AsyncConnection


class FakeConnection:
    """A connection of the library whose queries end by `error`."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.closed = False

    def cursor(self) -> "FakeCursor":
        return FakeCursor()

    def poll(self) -> int:
        raise self.error

    def close(self) -> None:
        self.closed = True


class FakeCursor:
    """A cursor of it."""

    def execute(self, _query: str, _parameters: Any) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (errors.QueryCanceled("statement timeout"), True),
        (psycopg2.OperationalError("the server closed the connection"), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_only_a_query_that_the_server_ended_keeps_its_connection(error: BaseException, kept: bool) -> None:
    async def live() -> bool:
        library: Any = FakeConnection(error)
        with pytest.raises(type(error)):
            await AsyncConnection(library).fetch("SELECT 1", None, 1)
        return not library.closed

    assert asyncio.run(live()) == kept
