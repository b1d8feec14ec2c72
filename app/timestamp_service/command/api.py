"""Command API: POST records an instant in the Kafka log."""

import os
import traceback
from collections.abc import Sequence
from functools import partial

import falcon.asgi

from timestamp_service import identifiers, instants, settings
from timestamp_service.command import bulk, idempotency
from timestamp_service.command.publisher import NotPublishedError, OverloadedError, Publisher
from timestamp_service.kafka import messages
from timestamp_service.kafka.messages import Command
from timestamp_service.runtime import systemd
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.start import read_settings
from timestamp_service.server.fast_path import Exchange
from timestamp_service.web import app as http
from timestamp_service.web import problems, routes
from timestamp_service.web.app import App

SERVICE = "timestamp-command"


class Recording:
    """The work of the command API: publishing commands."""

    def __init__(self, config: settings.Command, log: Log) -> None:
        """Publish as `config` says, once it is started."""
        self._config = config
        self._log = log
        self._publisher: Publisher | None = None

    async def start(self) -> None:
        """Make the producer: after the fork, since its threads do not survive one."""
        self._publisher = Publisher(self._config, self._log)

    @property
    def publisher(self) -> Publisher | None:
        """The publisher, once it is started."""
        return self._publisher

    async def check(self) -> str | None:
        """Name kafka when it does not answer."""
        return "kafka" if self._publisher is None else await self._publisher.check()

    def progressing(self) -> bool:
        """Tell whether acknowledgements come by when they are due."""
        return self._publisher is None or self._publisher.progressing()

    def measure(self) -> None:
        """Tell of messages in flight."""
        if self._publisher is not None:
            self._publisher.measure()

    def stopping(self) -> None:
        """Do nothing: each request ends by its own deadline."""

    async def stop(self) -> None:
        """Flush the producer."""
        if self._publisher is not None:
            await self._publisher.close()

    async def record(self, instant: str, request: falcon.asgi.Request, sent: str | None) -> str:
        """Publish `instant` and return its id once it is acknowledged. Raises Problem.

        `sent`: the timestamp as it was sent, None where none was; the id of an idempotency key is made of it.
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
                http.correlation_of(request).kafka_headers(),
                by_key=key is not None,
            )
        except NotPublishedError:
            raise _late() from None
        except OverloadedError:
            raise _overloaded() from None
        return identifier

    async def record_all(self, found: Sequence[bulk.Instant], request: falcon.asgi.Request) -> list[str]:
        """Publish all and return their ids, in order, once all are acknowledged. Raises Problem."""
        key = idempotency.key_of(request)
        if self._publisher is None:
            raise problems.unavailable("kafka")
        if key is None:
            made = [identifiers.new() for _ in found]
        else:
            made = [
                identifiers.from_key(key, f"bulk:{index}", instant.sent)
                for index, instant in enumerate(found)
            ]
        commands = [
            (identifier, messages.encode(Command(identifier, instant.canonical)))
            for identifier, instant in zip(made, found, strict=True)
        ]
        headers = http.correlation_of(request).kafka_headers()
        try:
            await self._publisher.publish_all(commands, headers, by_key=key is not None)
        except NotPublishedError:
            raise problems.Problem(
                503,
                "The log has not acknowledged all records in time; some may be recorded. "
                f"Repeating the request is safe with the same {idempotency.HEADER}.",
                retry_after=1,
            ) from None
        except OverloadedError:
            raise _overloaded() from None
        return made


def _late() -> problems.Problem:
    return problems.Problem(
        503, "The log has not acknowledged the record in time. Try again shortly.", retry_after=1
    )


def _overloaded() -> problems.Problem:
    return problems.Problem(503, "Too many records are on their way. Try again shortly.", retry_after=1)


class PlainTimestamp:
    """The short way of `POST /api/v1/timestamp/{timestamp}`."""

    method = "POST"

    def __init__(self, recording: Recording, log: Log) -> None:
        """Record by `recording`."""
        self._recording = recording
        self._log = log

    def take(self, exchange: Exchange) -> bool:
        """Answer once the record is acknowledged; or leave it to the whole way where nothing can be sent."""
        publisher = self._recording.publisher
        if publisher is None:
            return False
        try:
            instant = instants.normalise(exchange.text)
            identifier = exchange.command_id = identifiers.new()
            publisher.send(
                identifier,
                messages.encode(Command(identifier, instant)),
                exchange.correlation.kafka_headers(),
                partial(self._answer, exchange, identifier),
            )
        except (instants.InstantError, NotPublishedError, OverloadedError):
            return False
        return True

    def _answer(self, exchange: Exchange, identifier: str, acknowledged: bool) -> None:
        try:
            if acknowledged:
                exchange.answer(
                    f"content-type: {http.JSON}\r\nlocation: /api/v1/timestamp/{identifier}\r\n",
                    b'{"id":"%s"}' % identifier.encode(),
                )
            else:
                exchange.fail(_late())
        except Exception as error:
            # It is called from the producer's polling, which must go on.
            self._log.error("unexpected_error", exception="".join(traceback.format_exception(error)))


class Timestamp:
    """`POST /api/v1/timestamp/{timestamp}` records that instant."""

    def __init__(self, recording: Recording) -> None:
        """Record by `recording`."""
        self._recording = recording

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response, text: str) -> None:
        """Answer the id of the record."""
        http.require_json_accepted(request)
        try:
            instant = instants.normalise(text)
        except instants.InstantError as error:
            raise problems.Problem(
                400,
                f"The timestamp is not accepted: {error}. Expected is RFC 3339 such as {instants.EXAMPLE}.",
            ) from None
        answer(response, await self._recording.record(instant, request, text))


class Now:
    """`POST /api/v1/timestamp` and `POST /app` record the current time."""

    def __init__(self, recording: Recording) -> None:
        """Record by `recording`."""
        self._recording = recording

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer the id of the record."""
        http.require_json_accepted(request)
        answer(response, await self._recording.record(instants.now(), request, None))


class Timestamps:
    """`POST /api/v1/timestamps` records many instants: all of them, or none."""

    def __init__(self, recording: Recording) -> None:
        """Record by `recording`."""
        self._recording = recording

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer the ids of the records, in the order of the instants."""
        http.require_json_accepted(request)
        made = await self._recording.record_all(await bulk.read(request), request)
        response.content_type = http.JSON
        response.data = b'{"ids":[%s]}' % ",".join([f'"{identifier}"' for identifier in made]).encode()


def answer(response: falcon.asgi.Response, identifier: str) -> None:
    """Fill `response` with the id of a new record."""
    response.content_type = http.JSON
    response.set_header("Location", f"/api/v1/timestamp/{identifier}")
    response.data = b'{"id":"%s"}' % identifier.encode()


def create_app() -> App:
    """Return the command API with the settings of the environment.

    It starts nothing: it is made before the fork.
    """
    config = read_settings(SERVICE, settings.read_command)
    log = Log(SERVICE, config.server.log_level)
    recording = Recording(config, log)
    resources = {
        routes.RECORD: Timestamp(recording),
        routes.RECORDS: Timestamps(recording),
        **dict.fromkeys(routes.NOW, Now(recording)),
    }
    application = http.make_app(recording, resources, log, systemd.from_environment(os.environ))
    application.short = PlainTimestamp(recording, log)
    return application
