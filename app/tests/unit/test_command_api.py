"""The command API with a producer of the test's own: nobody is told of a record before the log has it."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import falcon.testing
import pytest
from confluent_kafka import KafkaError

from tests.unit.fake_producer import FakeProducer, until
from timestamp_service import correlation, settings
from timestamp_service.command import publisher
from timestamp_service.command.api import CommandBackend, Now, PlainTimestamp, Timestamp, Timestamps
from timestamp_service.correlation import Correlation
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier
from timestamp_service.web import routes
from timestamp_service.web.app import make_app
from timestamp_service.web.reply import Reply

CONFIG = settings.read_command(
    {
        "SERVER_PORT": "1",
        "KAFKA_BROKER": "127.0.0.1:1",
        "KAFKA_PUBLISH_TOPIC": "t",
        "KAFKA_ACKNOWLEDGE_SECONDS": "1",
    }
)
LATE = KafkaError(KafkaError._MSG_TIMED_OUT)
INSTANT = "2009-09-28T19:03:12Z"


def run(
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[CommandBackend, falcon.testing.ASGIConductor, FakeProducer], Awaitable[None]],
) -> None:
    """Run `scenario` with a command API that has started."""
    monkeypatch.setattr(publisher, "Producer", FakeProducer)
    log = Log("s", logging.INFO, lambda _line: None)

    async def live() -> None:
        backend = CommandBackend(CONFIG, log)
        resources = {
            routes.RECORD: Timestamp(backend),
            routes.RECORDS: Timestamps(backend),
            **dict.fromkeys(routes.NOW, Now(backend)),
        }
        app = make_app(backend, resources, log, Notifier())

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            # As the server hands them over; the library's own are iterators, which can be read once.
            await app(
                {**scope, "headers": [tuple(header) for header in scope.get("headers", ())]}, receive, send
            )

        async with falcon.testing.ASGIConductor(serve) as api:
            assert backend.publisher is not None
            assert await backend.check() is None
            fake = backend.publisher._producer
            assert isinstance(fake, FakeProducer)
            await scenario(backend, api, fake)

    asyncio.run(asyncio.wait_for(live(), 15))


async def until_sent(fake: FakeProducer, messages: int) -> list[str]:
    """Wait for so many messages; return their keys."""
    await until(lambda: len(fake.sent) == messages)
    return [key for key, _, _ in fake.sent]


SINGLE = pytest.param(f"/api/v1/timestamp/{INSTANT}", "", 1, id="one instant")
NOW = pytest.param("/api/v1/timestamp", "", 1, id="now")
BULK = pytest.param("/api/v1/timestamps", json.dumps([INSTANT] * 3), 3, id="bulk")
each_way = pytest.mark.parametrize(("path", "body", "messages"), [SINGLE, NOW, BULK])


def post(api: falcon.testing.ASGIConductor, path: str, body: str) -> "asyncio.Task[falcon.testing.Result]":
    """Begin a request."""
    headers = {"Content-Type": "application/json"} if body else {}
    return asyncio.create_task(api.simulate_post(path, body=body, headers=headers))


@each_way
def test_a_record_is_answered_once_all_of_it_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch, path: str, body: str, messages: int
) -> None:
    async def scenario(
        _backend: CommandBackend, api: falcon.testing.ASGIConductor, fake: FakeProducer
    ) -> None:
        answer = post(api, path, body)
        keys = await until_sent(fake, messages)
        if messages > 1:
            fake.acknowledge(*keys[:-1])
        await asyncio.sleep(0.1)
        assert not answer.done()
        fake.acknowledge()
        result = await answer
        assert result.status_code == 200
        assert (result.json.get("ids") or [result.json["id"]]) == keys

    run(monkeypatch, scenario)


@each_way
@pytest.mark.parametrize("refused", [True, False])
def test_a_record_that_is_not_acknowledged_is_no_success(
    monkeypatch: pytest.MonkeyPatch, path: str, body: str, messages: int, refused: bool
) -> None:
    """The broker refuses the last message, or it never answers."""

    async def scenario(
        _backend: CommandBackend, api: falcon.testing.ASGIConductor, fake: FakeProducer
    ) -> None:
        answer = post(api, path, body)
        *others, last = await until_sent(fake, messages)
        if others:
            fake.acknowledge(*others)
        if refused:
            fake.acknowledge(last, error=LATE)
        result = await answer
        assert result.status_code == 503
        assert "may be recorded" in result.json["detail"]
        assert "Idempotency-Key" in result.json["detail"]

    run(monkeypatch, scenario)


@each_way
def test_the_end_waits_for_requests_that_are_on_their_way(
    monkeypatch: pytest.MonkeyPatch, path: str, body: str, messages: int
) -> None:
    answers: list[asyncio.Task[falcon.testing.Result]] = []

    async def scenario(
        backend: CommandBackend, api: falcon.testing.ASGIConductor, fake: FakeProducer
    ) -> None:
        answers.append(post(api, path, body))
        await until_sent(fake, messages)
        await backend.stop()
        # Long before the deadline.
        assert (await asyncio.wait_for(answers[0], 0.5)).status_code == 200

    run(monkeypatch, scenario)
    assert len(answers) == 1


class PlainRequest:
    """A request of the fast path, with what was answered to it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.instance = f"/api/v1/timestamp/{text}"
        self.correlation = correlation.from_request(None, None)
        self.command_id: str | None = None
        self.replies: list[Reply] = []

    def sample(self) -> Correlation:
        return self.correlation

    def send(self, reply: Reply) -> None:
        self.replies.append(reply)

    def use_framework(self) -> None:
        raise AssertionError("the request is answered here")


@pytest.mark.parametrize(("error", "status"), [(None, 200), (LATE, 503)])
def test_the_fast_path_answers_once_the_record_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch, error: KafkaError | None, status: int
) -> None:
    async def scenario(
        backend: CommandBackend, _api: falcon.testing.ASGIConductor, fake: FakeProducer
    ) -> None:
        request = PlainRequest(INSTANT)
        assert PlainTimestamp(backend).try_handle(request)
        (key,) = await until_sent(fake, 1)
        await asyncio.sleep(0.1)
        assert request.replies == []
        fake.acknowledge(error=error)
        await until(lambda: request.replies)
        ((answered, headers, body),) = request.replies
        assert answered == status
        assert request.command_id == key
        if status == 200:
            assert json.loads(body) == {"id": key}
            assert f"location: /api/v1/timestamp/{key}\r\n" in headers

    run(monkeypatch, scenario)


def test_the_fast_path_leaves_what_it_cannot_send_to_the_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(
        backend: CommandBackend, _api: falcon.testing.ASGIConductor, fake: FakeProducer
    ) -> None:
        assert not PlainTimestamp(backend).try_handle(PlainRequest("no instant"))
        assert backend.publisher is not None
        monkeypatch.setattr(backend.publisher, "_partitions", [])
        assert not PlainTimestamp(backend).try_handle(PlainRequest(INSTANT))
        assert fake.sent == []

    run(monkeypatch, scenario)
