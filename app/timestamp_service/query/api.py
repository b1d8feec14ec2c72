"""Query API: GET reads records back from PostgreSQL."""

import asyncio
import os
from dataclasses import dataclass
from functools import partial

import falcon.asgi

from timestamp_service import identifiers, settings
from timestamp_service.database.records import Record
from timestamp_service.query import caching, preferences, ranges
from timestamp_service.query.lane import CrowdedError, UnavailableError
from timestamp_service.query.pages import SlowError
from timestamp_service.query.projection import Projection
from timestamp_service.query.projections import Lookups, Projections
from timestamp_service.query.waiting import WaitingRoom
from timestamp_service.runtime import metrics, systemd
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.start import read_settings
from timestamp_service.traces import tracer as tracing
from timestamp_service.web import docs, openapi, problems, routes
from timestamp_service.web.app import App, make_app
from timestamp_service.web.probes import Fixed, require_json_accepted
from timestamp_service.web.reply import JSON, PlainRequest, Reply

SERVICE = "timestamp-query"

# Read your write: a record posted this recently may still be on its way, and is waited for.
FRESH_SECONDS = 10.0
WAIT_SECONDS = 2.0


def read(record: Record) -> Reply:
    """Return the answer to who reads `record`."""
    headers = f"content-type: {JSON}\r\n{_caching_headers(record.identifier)}"
    return Reply(200, headers, record.to_json())


def not_modified(identifier: str) -> Reply:
    """Return the answer to who has the record of that id already."""
    return Reply(304, _caching_headers(identifier), b"")


def _caching_headers(identifier: str) -> str:
    return f"etag: {caching.entity_tag(identifier)}\r\ncache-control: {caching.FOR_EVER}\r\n"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where records are read: by their ids, once they come, and (of the projections) by their instants."""

    lookups: Lookups
    waiting: WaitingRoom
    projections: Projections


class QueryBackend:
    """The backend of the query API: it looks up records."""

    def __init__(self, config: settings.Query, log: Log) -> None:
        """Read as `config` says, once it is started."""
        self._config = config
        self._log = log
        self._sources: Sources | None = None

    async def start(self) -> None:
        """Connect, after the fork."""
        databases = self._config.databases
        projections = Projections(
            [
                Projection(database, self._config.connections, self._log, alone=len(databases) == 1)
                for database in databases
            ]
        )
        lookups = projections.lookups
        self._sources = Sources(lookups, WaitingRoom(lookups, self._config.waiting_max), projections)

    @property
    def started(self) -> bool:
        """Whether records can be asked for."""
        return self._sources is not None

    @property
    def sources(self) -> Sources:
        """Where records are read. Raises a problem before it is started."""
        if self._sources is None:
            raise problems.unavailable("database")
        return self._sources

    async def check(self) -> str | None:
        """Return "database" when none answers, or what is wrong with it."""
        return "database" if self._sources is None else await self._sources.projections.check()

    def progressing(self) -> bool:
        """Return whether queries end by when they are due."""
        sources = self._sources
        return sources is None or sources.projections.progressing()

    def measure(self) -> None:
        """Update the gauges of connections and of who waits."""
        if self._sources is None:
            return
        projections = self._sources.projections.all
        metrics.CONNECTIONS.set(sum(one.reader.connected + one.pages.connected for one in projections))
        metrics.LOOKUPS.set(sum(one.reader.pending + one.pages.waiting for one in projections))
        metrics.WAITING.set(self._sources.waiting.taken)
        for one in projections:
            metrics.PROJECTION_HEALTHY.labels(one.name).set(one.healthy)
            metrics.PROJECTION_LACKS.labels(one.name).set(one.lacks)

    def stopping(self) -> None:
        """End the waits for records to come."""
        if self._sources is not None:
            self._sources.waiting.end()

    async def stop(self) -> None:
        """Close the connections."""
        if self._sources is not None:
            for source in (self._sources.waiting, self._sources.projections):
                await source.close()


class PlainTimestamp:
    """The fast path of `GET /api/v1/timestamp/{id}`, for records that are there."""

    method = "GET"

    def __init__(self, backend: QueryBackend) -> None:
        """Read by `backend`."""
        self._backend = backend

    def try_handle(self, request: PlainRequest) -> bool:
        """Answer the record; leave it to the framework where there is none yet."""
        if not self._backend.started:
            return False
        try:
            identifier = request.command_id = identifiers.normalise(request.text)
            lookup = self._backend.sources.lookups.look_up(identifier)
        except (identifiers.IdentifierError, UnavailableError):
            return False
        lookup.add_done_callback(partial(self._answer, request))
        return True

    def _answer(self, request: PlainRequest, lookup: "asyncio.Future[Record | None]") -> None:
        record = None if lookup.cancelled() or lookup.exception() is not None else lookup.result()
        if record is None:
            request.use_framework()
        else:
            request.send(read(record))


class Timestamp:
    """`GET /api/v1/timestamp/{id}` answers the record of that id."""

    def __init__(self, backend: QueryBackend) -> None:
        """Read by `backend`."""
        self._backend = backend

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response, text: str) -> None:
        """Answer the record, waiting for it where it may still be on its way."""
        require_json_accepted(request)
        try:
            identifier = identifiers.normalise(text)
        except identifiers.IdentifierError as error:
            raise problems.Problem(
                400, f"The id is not accepted: {error}. Expected is one such as {identifiers.EXAMPLE}."
            ) from None
        request.context.command_id = identifier
        waiting = self._backend.sources.waiting
        preferred = preferences.wait_of(request)
        if preferred is not None:
            wait = float(preferred)
            response.set_header(preferences.APPLIED_HEADER, f"wait={preferred}")
        else:
            wait = WAIT_SECONDS if identifiers.may_be_fresh(identifier, FRESH_SECONDS) else 0.0
        try:
            record = await waiting.get(identifier, wait)
        except UnavailableError:
            raise problems.unavailable("database") from None
        except CrowdedError:
            if preferred is not None:
                raise problems.try_again(
                    503, "As many as may wait are waiting already. Try again shortly."
                ) from None
            record = None
        if record is None:
            raise problems.try_again(
                404, "There is no record of this id. One just posted may still be on its way."
            ).with_header("cache-control", caching.NEVER)
        reply = not_modified(identifier) if caching.has_it(request, identifier) else read(record)
        reply.fill(response)

    on_head = on_get


class Timestamps:
    """`GET /api/v1/timestamps` answers records by their instants, a page at a time."""

    def __init__(self, backend: QueryBackend) -> None:
        """Read by `backend`."""
        self._backend = backend

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer the page that the URL's query asks for."""
        require_json_accepted(request)
        wanted = ranges.parse(request.query_string)
        mark = None if wanted.after is None else wanted.after.mark
        try:
            records, mark = await self._backend.sources.projections.select(*wanted.query(), mark)
        except UnavailableError:
            raise problems.unavailable("database") from None
        except SlowError:
            raise problems.try_again(
                503, "The page was not there in time. Ask for fewer records, or try again shortly."
            ) from None
        except CrowdedError:
            raise problems.try_again(503, "Too many pages are asked for. Try again shortly.") from None
        # Records of past instants may come at any time.
        headers = f"content-type: {JSON}\r\ncache-control: {caching.NEVER}\r\n"
        Reply(200, headers, wanted.page(records, mark)).fill(response)

    on_head = on_get


def create_app() -> App:
    """Return the query API with the settings of the environment.

    It starts nothing: it is created before the fork.
    """
    config = read_settings(SERVICE, settings.read_query)
    log = Log(SERVICE, config.server.log_level)
    backend = QueryBackend(config, log)
    page = docs.page()
    resources = {
        routes.RECORD: Timestamp(backend),
        routes.RECORDS: Timestamps(backend),
        routes.OPENAPI: Fixed(openapi.document(), JSON),
        routes.DOCS: Fixed(page.content, "text/html", {"Content-Security-Policy": page.policy}),
    }
    tracer = tracing.of(SERVICE, config.traces, log)
    app = make_app(backend, resources, log, systemd.from_environment(os.environ), tracer)
    app.fast_path = PlainTimestamp(backend)
    return app
