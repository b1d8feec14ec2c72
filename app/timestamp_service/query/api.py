"""Query API: GET reads records back from PostgreSQL."""

import asyncio
import os
from functools import partial
from http import HTTPStatus

import falcon.asgi

from timestamp_service import identifiers, settings
from timestamp_service.database.records import Record
from timestamp_service.query import caching, preferences, ranges
from timestamp_service.query.reader import CrowdedError, Reader, UnavailableError
from timestamp_service.runtime import systemd
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.start import read_settings
from timestamp_service.server.fast_path import Exchange
from timestamp_service.web import app as http
from timestamp_service.web import docs, openapi, problems, routes
from timestamp_service.web.app import App

SERVICE = "timestamp-query"

# Read your write: a record posted this recently may still be on its way, and is waited for.
FRESH_SECONDS = 10.0
WAIT_SECONDS = 2.0


class Reading:
    """The work of the query API: looking up records."""

    def __init__(self, config: settings.Query, log: Log) -> None:
        """Read as `config` says, once it is started."""
        self._config = config
        self._log = log
        self._reader: Reader | None = None

    async def start(self) -> None:
        """Connect, after the fork."""
        self._reader = Reader(self._config, self._log)

    @property
    def started(self) -> bool:
        """Tell whether there is a reader."""
        return self._reader is not None

    @property
    def reader(self) -> Reader:
        """The reader, once it is started."""
        if self._reader is None:
            raise problems.unavailable("database")
        return self._reader

    async def check(self) -> str | None:
        """Name the database when it does not answer."""
        return "database" if self._reader is None else await self._reader.check()

    def progressing(self) -> bool:
        """Tell whether queries end by when they are due."""
        return self._reader is None or self._reader.progressing()

    def measure(self) -> None:
        """Tell of connections and of who waits."""
        if self._reader is not None:
            self._reader.measure()

    def stopping(self) -> None:
        """End the waits for records to come."""
        if self._reader is not None:
            self._reader.stop_waiting()

    async def stop(self) -> None:
        """Close the connections."""
        if self._reader is not None:
            await self._reader.close()


class PlainTimestamp:
    """The short way of `GET /api/v1/timestamp/{id}`, of records that are there."""

    method = "GET"

    def __init__(self, reading: Reading) -> None:
        """Read by `reading`."""
        self._reading = reading

    def take(self, exchange: Exchange) -> bool:
        """Answer the record; or leave it to the whole way where there is none yet."""
        if not self._reading.started:
            return False
        try:
            identifier = exchange.command_id = identifiers.normalise(exchange.text)
            lookup = self._reading.reader.look_up(identifier)
        except (identifiers.IdentifierError, UnavailableError):
            return False
        lookup.add_done_callback(partial(self._answer, exchange))
        return True

    def _answer(self, exchange: Exchange, lookup: "asyncio.Future[Record | None]") -> None:
        record = None if lookup.cancelled() or lookup.exception() is not None else lookup.result()
        if record is None:
            exchange.go_the_whole_way()
            return
        tag = caching.entity_tag(record.identifier)
        exchange.answer(
            f"content-type: {http.JSON}\r\netag: {tag}\r\ncache-control: {caching.FOR_EVER}\r\n",
            record.to_json(),
        )


class Timestamp:
    """`GET /api/v1/timestamp/{id}` answers the record of that id."""

    def __init__(self, reading: Reading) -> None:
        """Read by `reading`."""
        self._reading = reading

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response, text: str) -> None:
        """Answer the record, waiting for it where it may still be on its way."""
        http.require_json_accepted(request)
        try:
            identifier = identifiers.normalise(text)
        except identifiers.IdentifierError as error:
            raise problems.Problem(
                400, f"The id is not accepted: {error}. Expected is one such as {identifiers.EXAMPLE}."
            ) from None
        request.context.command_id = identifier
        reader = self._reading.reader
        preferred = preferences.wait_of(request)
        if preferred is not None:
            wait = float(preferred)
            response.set_header(preferences.APPLIED_HEADER, f"wait={preferred}")
        else:
            wait = WAIT_SECONDS if identifiers.may_be_fresh(identifier, FRESH_SECONDS) else 0.0
        try:
            record = await reader.wait(identifier, wait)
        except UnavailableError:
            raise problems.unavailable("database") from None
        except CrowdedError:
            if preferred is not None:
                raise problems.Problem(
                    503, "As many as may wait are waiting already. Try again shortly.", retry_after=1
                ) from None
            record = None
        if record is None:
            response.set_header("Cache-Control", caching.NEVER)
            raise problems.Problem(
                404, "There is no record of this id. One just posted may still be on its way.", retry_after=1
            )
        response.set_header("ETag", caching.entity_tag(identifier))
        response.set_header("Cache-Control", caching.FOR_EVER)
        if caching.has_it(request, identifier):
            response.status = HTTPStatus.NOT_MODIFIED
            return
        response.content_type = http.JSON
        response.data = record.to_json()

    on_head = on_get


class Timestamps:
    """`GET /api/v1/timestamps` answers records by their instants, a page at a time."""

    def __init__(self, reading: Reading) -> None:
        """Read by `reading`."""
        self._reading = reading

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer the page that the URL's query asks for."""
        http.require_json_accepted(request)
        wanted = ranges.parse(request.query_string)
        try:
            records = await self._reading.reader.select(*wanted.query())
        except UnavailableError:
            raise problems.unavailable("database") from None
        except CrowdedError:
            raise problems.Problem(
                503, "Too many pages are asked for. Try again shortly.", retry_after=1
            ) from None
        # Records of old instants may come at any time.
        response.set_header("Cache-Control", caching.NEVER)
        response.content_type = http.JSON
        response.data = wanted.page(records)

    on_head = on_get


def create_app() -> App:
    """Return the query API with the settings of the environment.

    It starts nothing: it is made before the fork.
    """
    config = read_settings(SERVICE, settings.read_query)
    log = Log(SERVICE, config.server.log_level)
    reading = Reading(config, log)
    page = docs.page()
    resources = {
        routes.RECORD: Timestamp(reading),
        routes.RECORDS: Timestamps(reading),
        routes.OPENAPI: http.Fixed(openapi.document(), http.JSON),
        routes.DOCS: http.Fixed(page.content, "text/html", {"Content-Security-Policy": page.policy}),
    }
    application = http.make_app(reading, resources, log, systemd.from_environment(os.environ))
    application.short = PlainTimestamp(reading)
    return application
