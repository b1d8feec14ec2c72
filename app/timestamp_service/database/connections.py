"""Connections to PostgreSQL on which every wait has a limit, so that a frozen server does not block us."""

import asyncio
import os
import socket
from typing import Any

import psycopg2
from psycopg2 import errors, extensions

from timestamp_service.settings import Database

CONNECT_SECONDS = 5


class DeadlineError(Exception):
    """The server has not answered in time; the connection is closed."""


def dsn(database: Database, application: str) -> str:
    """Return libpq's connection string: `database` with bounded waits, and times as UTC in ISO form."""
    parameters: dict[str, Any] = {
        "user": database.username,
        "application_name": application,
        "connect_timeout": CONNECT_SECONDS,
        # The kernel notices a peer that has vanished without closing the connection.
        "tcp_user_timeout": 10_000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "options": "-c timezone=UTC -c datestyle=ISO -c client_encoding=UTF8",
    }
    if database.password is not None:
        parameters["password"] = database.password
    return extensions.make_dsn(database.url, **parameters)


def name(database: Database) -> str:
    """Return what to call `database` in metrics: where it is, without user and password."""
    parts = extensions.parse_dsn(database.url)
    return f"{parts.get('host', '')}:{parts.get('port', '5432')}/{parts.get('dbname', '')}"


def connect(dsn: str) -> extensions.connection:
    """Return a connection in autocommit mode, whose calls block. Raises psycopg2.Error."""
    connection: extensions.connection = psycopg2.connect(dsn)
    connection.autocommit = True
    return connection


def sever(connection: extensions.connection) -> None:
    """Shut down a connection that blocks another thread: its call there raises psycopg2.OperationalError."""
    try:
        descriptor = os.dup(connection.fileno())
    except (OSError, psycopg2.Error):
        return
    with socket.socket(fileno=descriptor) as peer:
        try:
            peer.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


class AsyncConnection:
    """A connection driven by the running event loop; one query at a time."""

    def __init__(self, connection: extensions.connection) -> None:
        """Drive `connection`, which is asynchronous. Use `open`."""
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, dsn: str, seconds: float = CONNECT_SECONDS) -> "AsyncConnection":
        """Connect within `seconds`. Raises psycopg2.Error and DeadlineError."""
        opened = cls(psycopg2.connect(dsn, async_=True))
        await opened._drive(seconds)
        return opened

    async def fetch(self, query: str, parameters: Any, seconds: float) -> list[tuple[Any, ...]]:
        """Run `query` and return its rows within `seconds`.

        Raises psycopg2.errors.QueryCanceled, after which the connection goes on, and DeadlineError and any
        other psycopg2.Error, after which it is closed.
        """
        cursor = self._connection.cursor()
        try:
            cursor.execute(query, parameters)
            await self._drive(seconds)
            return cursor.fetchall() if cursor.description is not None else []
        finally:
            cursor.close()

    def close(self) -> None:
        """Close at once, also during a query."""
        self._connection.close()

    async def _drive(self, seconds: float) -> None:
        """Let libpq continue whenever its socket is ready, until it is done."""
        deadline = self._loop.time() + seconds
        try:
            while (state := self._connection.poll()) != extensions.POLL_OK:
                await self._until_ready(state, deadline)
        except errors.QueryCanceled:
            # The server has ended the query, and the connection is as good as before.
            raise
        except BaseException:
            # Cancelled, too late or broken: the next query must not get the rest of this one.
            self.close()
            raise

    async def _until_ready(self, state: int, deadline: float) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        # The descriptor may be another one after each step of connecting.
        descriptor = self._connection.fileno()
        if state == extensions.POLL_READ:
            self._loop.add_reader(descriptor, _finish, ready)
            remove = self._loop.remove_reader
        else:
            self._loop.add_writer(descriptor, _finish, ready)
            remove = self._loop.remove_writer
        timer = self._loop.call_at(deadline, _expire, ready)
        try:
            await ready
        finally:
            timer.cancel()
            remove(descriptor)


def _finish(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _expire(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_exception(DeadlineError())
