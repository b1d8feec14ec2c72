"""Command API: POST records an instant in the Kafka log."""

import asyncio
import os
from collections.abc import Sequence
from functools import partial

import falcon.asgi

from timestamp_service import identifiers, instants, settings
from timestamp_service.command import bulk, idempotency
from timestamp_service.command.acknowledgements import NotPublishedError
from timestamp_service.command.lag import Lag
from timestamp_service.command.publisher import OverloadedError, Publisher
from timestamp_service.command.turns import Turns
from timestamp_service.kafka import messages
from timestamp_service.kafka.messages import Command
from timestamp_service.runtime import systemd
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.start import read_settings
from timestamp_service.traces import tracer as tracing
from timestamp_service.web import problems, routes
from timestamp_service.web.app import App, make_app
from timestamp_service.web.probes import require_json_accepted
from timestamp_service.web.reply import JSON, PlainRequest, Reply
from timestamp_service.web.request_log import correlation_of

SERVICE = "timestamp-command"


def recorded(identifier: str) -> Reply:
    """Return the answer to who has recorded one instant."""
    return Reply(
        200,
        f"content-type: {JSON}\r\nlocation: /api/v1/timestamp/{identifier}\r\n",
        b'{"id":"%s"}' % identifier.encode(),
    )


def all_recorded(new: Sequence[str]) -> Reply:
    """Return the answer to who has recorded many instants: their ids, in order."""
    body = b'{"ids":[%s]}' % ",".join([f'"{identifier}"' for identifier in new]).encode()
    return Reply(200, f"content-type: {JSON}\r\n", body)


class CommandBackend:
    """The backend of the command API: it publishes commands, and measures the lag of who reads them."""

    def __init__(self, config: settings.Command, log: Log) -> None:
        """Publish as `config` says, once it is started."""
        self._config = config
        self._log = log
        self._publisher: Publisher | None = None
        self._lag = Lag(config, log)

    async def start(self) -> None:
        """Create the producer: after the fork, since its threads do not survive one."""
        self._publisher = Publisher(self._config, self._log)
        self._lag.start()

    @property
    def publisher(self) -> Publisher | None:
        """The publisher, once it is started."""
        return self._publisher

    async def check(self) -> str | None:
        """Return "kafka" when it does not answer."""
        return "kafka" if self._publisher is None else await self._publisher.check()

    def progressing(self) -> bool:
        """Return whether acknowledgements come by when they are due."""
        return self._publisher is None or self._publisher.progressing()

    def measure(self) -> None:
        """Update the gauges of messages in flight."""
        if self._publisher is not None:
            self._publisher.measure()

    def stopping(self) -> None:
        """Do nothing: each request ends by its own deadline."""

    async def stop(self) -> None:
        """Flush the producer, and end the thread that measures."""
        if self._publisher is not None:
            ending = asyncio.get_running_loop().run_in_executor(None, self._lag.stop)
            await asyncio.gather(self._publisher.close(), ending)

    async def record(self, instant: str, request: falcon.asgi.Request, sent: str | None) -> str:
        """Publish `instant` and return its id once it is acknowledged. Raises Problem.

        `sent`: the timestamp as it was sent, or None; the id of an idempotency key depends on it.
        """
        key = idempotency.key_of(request)
        if key is None:
            identifier = identifiers.new()
        else:
            identifier = identifiers.from_key(key, "now" if sent is None else "one", sent or "")
        command = Command(identifier, instant)
        request.context.command_id = command.command_id
        if self._publisher is None:
            raise problems.unavailable("kafka")
        try:
            await self._publisher.publish(
                identifier,
                messages.encode(command),
                correlation_of(request).kafka_headers(),
                by_key=key is not None,
            )
        except NotPublishedError:
            raise _late() from None
        except OverloadedError:
            raise _overloaded() from None
        return identifier

    async def record_all(self, sent: Sequence[bulk.Instant], request: falcon.asgi.Request) -> list[str]:
        """Publish all and return their ids, in order, once all are acknowledged. Raises Problem."""
        key = idempotency.key_of(request)
        if self._publisher is None:
            raise problems.unavailable("kafka")
        new: list[str] = []
        commands: list[tuple[str, bytes]] = []
        turns = Turns()
        for start in range(0, len(sent), bulk.CHUNK):
            if turns.due():
                await turns.give()
            for index, instant in enumerate(sent[start : start + bulk.CHUNK], start):
                if key is None:
                    identifier = identifiers.new()
                else:
                    identifier = identifiers.from_key(key, f"bulk:{index}", instant.sent)
                new.append(identifier)
                commands.append((identifier, messages.encode(Command(identifier, instant.canonical))))
        headers = correlation_of(request).kafka_headers()
        try:
            await self._publisher.publish_all(commands, headers, by_key=key is not None)
        except NotPublishedError:
            raise problems.try_again(
                503,
                "The log has not acknowledged all records in time; some may be recorded. "
                f"Repeating the request is safe with the same {idempotency.HEADER}.",
            ) from None
        except OverloadedError:
            raise _overloaded() from None
        return new


def _late() -> problems.Problem:
    return problems.try_again(
        503,
        "The log has not acknowledged the record in time; it may be recorded. "
        f"Repeating the request is safe with the same {idempotency.HEADER}.",
    )


def _overloaded() -> problems.Problem:
    return problems.try_again(503, "Too many records are on their way. Try again shortly.")


class PlainTimestamp:
    """The fast path of `POST /api/v1/timestamp/{timestamp}`."""

    method = "POST"

    def __init__(self, backend: CommandBackend) -> None:
        """Record by `backend`."""
        self._backend = backend

    def try_handle(self, request: PlainRequest) -> bool:
        """Answer once the record is acknowledged; leave it to the framework where nothing can be sent."""
        publisher = self._backend.publisher
        if publisher is None:
            return False
        try:
            instant = instants.normalise(request.text)
            identifier = request.command_id = identifiers.new()
            publisher.send(
                identifier,
                messages.encode(Command(identifier, instant)),
                request.sample().kafka_headers(),
                partial(self._answer, request, identifier),
            )
        except (instants.InstantError, NotPublishedError, OverloadedError):
            return False
        return True

    def _answer(self, request: PlainRequest, identifier: str, acknowledged: bool) -> None:
        if acknowledged:
            request.send(recorded(identifier))
        else:
            request.send(problems.reply(_late(), request.instance, request.correlation.identifier))


class Timestamp:
    """`POST /api/v1/timestamp/{timestamp}` records that instant."""

    def __init__(self, backend: CommandBackend) -> None:
        """Record by `backend`."""
        self._backend = backend

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response, text: str) -> None:
        """Answer the id of the record."""
        require_json_accepted(request)
        try:
            instant = instants.normalise(text)
        except instants.InstantError as error:
            raise problems.Problem(
                400,
                f"The timestamp is not accepted: {error}. Expected is RFC 3339 such as {instants.EXAMPLE}.",
            ) from None
        recorded(await self._backend.record(instant, request, text)).fill(response)


class Now:
    """`POST /api/v1/timestamp` and `POST /app` record the current time."""

    def __init__(self, backend: CommandBackend) -> None:
        """Record by `backend`."""
        self._backend = backend

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer the id of the record."""
        require_json_accepted(request)
        recorded(await self._backend.record(instants.now(), request, None)).fill(response)


class Timestamps:
    """`POST /api/v1/timestamps` records many instants: all of them, or none."""

    def __init__(self, backend: CommandBackend) -> None:
        """Record by `backend`."""
        self._backend = backend

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer the ids of the records, in the order of the instants."""
        require_json_accepted(request)
        all_recorded(await self._backend.record_all(await bulk.read(request), request)).fill(response)


def create_app() -> App:
    """Return the command API with the settings of the environment.

    It starts nothing: it is created before the fork.
    """
    config = read_settings(SERVICE, settings.read_command)
    log = Log(SERVICE, config.server.log_level)
    backend = CommandBackend(config, log)
    resources = {
        routes.RECORD: Timestamp(backend),
        routes.RECORDS: Timestamps(backend),
        **dict.fromkeys(routes.NOW, Now(backend)),
    }
    tracer = tracing.of(SERVICE, config.traces, log)
    app = make_app(backend, resources, log, systemd.from_environment(os.environ), tracer)
    app.fast_path = PlainTimestamp(backend)
    return app
