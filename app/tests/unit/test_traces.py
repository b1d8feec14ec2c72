import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from tests.unit.fake_backend import Idle
from tests.unit.fake_topic import message
from tests.unit.test_batch import good
from tests.unit.test_writer import FakeDeadLetters, FakeProjection
from timestamp_service import correlation, settings
from timestamp_service.consumer.batch import Batch
from timestamp_service.consumer.state import State
from timestamp_service.consumer.writer import Writer
from timestamp_service.correlation import Correlation
from timestamp_service.runtime import metrics
from timestamp_service.runtime.logs import Log
from timestamp_service.runtime.systemd import Notifier
from timestamp_service.server import fast_path
from timestamp_service.server.protocol import Protocol
from timestamp_service.traces import nginx, tracer
from timestamp_service.traces.exporter import Exporter, post_to
from timestamp_service.traces.nginx import MalformedError, NginxLines
from timestamp_service.traces.spans import Span, encode
from timestamp_service.traces.tracer import Tracer
from timestamp_service.web import routes
from timestamp_service.web.app import make_app
from timestamp_service.web.reply import PlainRequest, Reply

QUIET = Log("test", logging.CRITICAL)
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
ASKED = f"00-{TRACE_ID}-{PARENT_ID}-01"
NOT_ASKED = f"00-{TRACE_ID}-{PARENT_ID}-00"
CORRELATION = "7c3f2aca-c5c9-45f0-a924-5c9ff1762c94"
OF_CORRELATION = CORRELATION.replace("-", "")
PATH = "/api/v1/timestamp/2009-09-28T19:03:12Z"

Json = dict[str, Any]


class Spans(Exporter):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(lambda _body: None, QUIET)
        self.spans: list[Span] = []

    def add(self, span: Span) -> None:
        self.spans.append(span)

    def sent(self) -> list[Json]:
        """Return them as Zipkin gets them."""
        sent: list[Json] = json.loads(encode(self.spans))
        return sent


def tracing(
    spans: Spans,
    *,
    per_second: int = 10,
    share: float = 0,
    slow_seconds: float = 1,
    clock: Callable[[], float] = lambda: 0,
) -> Tracer:
    config = settings.Traces("", per_second, share, slow_seconds)
    return Tracer("timestamp-test", config, spans, clock)


def end(of: Tracer, of_request: Correlation, status: int = 200, seconds: float = 0.5) -> None:
    of.end(of_request, "the-id", "POST", "/api/v1/timestamp/{text}", PATH, status, seconds)


def test_client_that_asks_is_traced_and_the_message_carries_it_on() -> None:
    spans = Spans()
    of = tracing(spans)
    before = time.time()
    of_request = of.begin(Correlation(CORRELATION, ASKED))
    assert of_request.traceparent == ASKED
    carried = correlation.from_kafka(of_request.kafka_headers())
    time.sleep(0.02)
    end(of, of_request)
    served, produced = spans.sent()
    began = before + 0.02 - 0.5
    assert abs(served.pop("timestamp") / 1e6 - began) < 0.2
    assert served == {
        "traceId": TRACE_ID,
        "id": served["id"],
        "parentId": PARENT_ID,
        "kind": "SERVER",
        "name": "post /api/v1/timestamp/{text}",
        "duration": 500_000,
        "localEndpoint": {"serviceName": "timestamp-test"},
        "tags": {
            "http.method": "POST",
            "http.path": PATH,
            "http.status_code": "200",
            "correlationId": CORRELATION,
            "command_id": "the-id",
        },
    }
    assert abs(produced.pop("timestamp") / 1e6 - before) < 0.2
    assert 20_000 <= produced.pop("duration") < 400_000
    assert produced == {
        "traceId": TRACE_ID,
        "id": produced["id"],
        "parentId": served["id"],
        "kind": "PRODUCER",
        "name": "send",
        "localEndpoint": {"serviceName": "timestamp-test"},
        "remoteEndpoint": {"serviceName": "kafka"},
        "tags": {},
    }
    assert len({PARENT_ID, served["id"], produced["id"]}) == 3
    assert carried == Correlation(CORRELATION, f"00-{TRACE_ID}-{produced['id']}-01")


def test_so_many_a_second_may_ask() -> None:
    spans, now = Spans(), 7.5
    of = tracing(spans, per_second=2, clock=lambda: now)
    for second in range(2):
        now = 7.5 + second
        begun = [of.begin(Correlation(CORRELATION, ASKED)) for _ in range(4)]
        assert [one.trace is not None for one in begun] == [True, True, False, False]
        # Who comes later does not trace it either.
        assert [one.traceparent for one in begun] == [ASKED, ASKED, NOT_ASKED, NOT_ASKED]
    assert of.begin(Correlation(CORRELATION, NOT_ASKED)) == Correlation(CORRELATION, NOT_ASKED)
    assert spans.spans == []


@pytest.mark.parametrize("flags", ["01", "03", "ff"])
def test_flag_is_the_lowest_bit(flags: str) -> None:
    of = tracing(Spans())
    assert of.begin(Correlation(CORRELATION, f"{ASKED[:-2]}{flags}")).trace is not None
    other = f"{ASKED[:-2]}{int(flags, 16) - 1:02x}"
    assert of.begin(Correlation(CORRELATION, other)) == Correlation(CORRELATION, other)


@pytest.mark.parametrize("with_traceparent", [True, False])
def test_share_of_all_is_chosen_by_trace_id(with_traceparent: bool) -> None:
    of, again = (tracing(Spans(), share=0.25) for _ in range(2))
    chosen = 0
    for number in range(2000):
        identifier = str(uuid.UUID(int=(number << 64) + (4 << 76) + (8 << 60)))
        trace_id = identifier.replace("-", "")
        sent = Correlation(identifier, f"00-{trace_id}-{PARENT_ID}-00" if with_traceparent else None)
        one, other = of.begin(sent), again.begin(sent)
        assert (one.trace is None) == (other.trace is None)
        if one.trace is None:
            assert one is sent
            continue
        chosen += 1
        assert one.trace.trace_id == trace_id
        assert one.trace.parent_id == (PARENT_ID if with_traceparent else None)
        # Whoever gets the answer finds the trace, and so does nginx.
        assert one.traceparent == f"00-{trace_id}-{one.trace.span_id}-01"
    assert 400 < chosen < 600


def test_share_is_for_those_too_that_ask_beyond_the_limit() -> None:
    all_of_them = tracing(Spans(), per_second=0, share=1)
    assert all_of_them.begin(Correlation(CORRELATION, ASKED)).trace is not None
    assert all_of_them.begin(Correlation(CORRELATION)).trace is not None


@pytest.mark.parametrize(
    ("status", "seconds", "traced"),
    [(200, 0.5, False), (404, 0.999, False), (500, 0, True), (503, 0, True), (200, 1, True), (404, 2, True)],
)
@pytest.mark.parametrize(
    ("traceparent", "trace_id", "parent_id"),
    [(None, OF_CORRELATION, None), (NOT_ASKED, TRACE_ID, PARENT_ID)],
)
def test_errors_and_slow_requests_are_always_traced(
    status: int, seconds: float, traced: bool, traceparent: str | None, trace_id: str, parent_id: str | None
) -> None:
    spans = Spans()
    of = tracing(spans, per_second=0)
    of_request = of.begin(Correlation(CORRELATION.upper(), traceparent))
    of_request.kafka_headers()
    end(of, of_request, status, seconds)
    assert len(spans.spans) == traced
    for span in spans.sent():
        assert (span["traceId"], span.get("parentId"), span["kind"]) == (trace_id, parent_id, "SERVER")
        assert span["tags"].get("error") == (str(status) if status >= 500 else None)
        assert span["duration"] == max(1, int(seconds * 1e6))


def test_error_marks_both_spans() -> None:
    spans = Spans()
    of = tracing(spans)
    of_request = of.begin(Correlation(CORRELATION, ASKED))
    of_request.kafka_headers()
    end(of, of_request, 503)
    assert [span["tags"]["error"] for span in spans.sent()] == ["503", "503"]


def test_nil_correlation_is_no_trace_id() -> None:
    first, second = (tracer.trace_id_of(str(uuid.UUID(int=0))) for _ in range(2))
    assert first != second
    assert len(first) == 32


def batch(*traceparents: str | None) -> Batch:
    made = Batch()
    made.add(
        message(good(number), 0, number, headers=Correlation(CORRELATION, traceparent).kafka_headers())
        for number, traceparent in enumerate(traceparents)
    )
    return made


def test_consumer_reports_the_messages_of_a_request_as_one_span() -> None:
    spans = Spans()
    other = f"00-{TRACE_ID}-{'9' * 16}-01"
    writer = Writer(FakeProjection(), FakeDeadLetters(), State(), QUIET, tracing(spans, per_second=0))
    assert writer.submit(batch(ASKED, None, other, NOT_ASKED, ASKED)).result(5)
    sent = spans.sent()
    # A span's own id is none of those that it got.
    assert len({one["id"] for one in sent} - {PARENT_ID, "9" * 16}) == 2
    assert [(one["parentId"], one["tags"]["messages"]) for one in sent] == [(PARENT_ID, "2"), ("9" * 16, "1")]
    for one in sent:
        assert (one["traceId"], one["kind"]) == (TRACE_ID, "CONSUMER")
        assert one["remoteEndpoint"] == {"serviceName": "kafka"}
        assert one["tags"]["correlationId"] == CORRELATION
        assert abs(one["timestamp"] / 1e6 - time.time()) < 5


class Constant:
    """A resource, and the fast path to it, whose answer is `status`."""

    method = "POST"

    def __init__(self, status: int) -> None:
        self.reply = Reply(status, "content-type: application/json\r\n", b"{}")
        self.headers: list[Any] = []

    def try_handle(self, request: PlainRequest) -> bool:
        request.command_id = "the-id"
        self.headers += request.sample().kafka_headers()
        request.send(self.reply)
        return True

    async def on_post(self, request: Any, response: Any, text: str) -> None:
        request.context.command_id = "the-id"
        self.headers += request.context.correlation.kafka_headers()
        self.reply.fill(response)


@contextlib.asynccontextmanager
async def served(of: Tracer, constant: Constant) -> AsyncIterator[Callable[[str], Any]]:
    """Give what sends a request with these header lines, and returns the head of the answer."""
    app = make_app(Idle(), {routes.RECORD: constant}, QUIET, Notifier(), of)
    config = Config(app, lifespan="off", log_config=None)
    config.load()

    def try_handle(cycle: Any, use_framework: Callable[[], None]) -> bool:
        return fast_path.try_handle(constant, app.request_log, cycle, use_framework)

    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(
            config=config,
            server_state=ServerState(),
            app_state={},
            request_log=app.request_log,
            try_fast_path=try_handle,
        ),
        "127.0.0.1",
        0,
    )

    async def ask(headers: str) -> str:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.close()
        return head.decode()

    async with server:
        yield ask


@pytest.mark.parametrize("traceparent", [ASKED, NOT_ASKED, None])
@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("share", [0, 1])
def test_fast_path_and_framework_make_the_same_spans(
    traceparent: str | None, status: int, share: float
) -> None:
    spans, constant = Spans(), Constant(status)
    sent = f"correlationId: {CORRELATION}\r\n" + (f"traceparent: {traceparent}\r\n" if traceparent else "")
    # Only the framework looks at this one.
    ways = (sent, f"{sent}prefer: x\r\n")

    async def ask() -> list[str]:
        async with served(tracing(spans, share=share), constant) as asking:
            before = metrics.FAST_PATH._count
            answers = [await asking(way) for way in ways]
            assert metrics.FAST_PATH._count == before + 1
            return answers

    answers = asyncio.run(ask())
    made = spans.sent()
    sampled = traceparent == ASKED or share == 1
    assert len(made) == 2 * (2 if sampled else status == 503)
    half = len(made) // 2
    for one, other in zip(made[:half], made[half:], strict=True):
        assert one["id"] != other["id"]
        assert one["duration"] < 5_000_000
        assert abs(one["timestamp"] - other["timestamp"]) < 10_000_000
        same = ("traceId", "kind", "name", "tags", "localEndpoint", "remoteEndpoint")
        assert [one.get(name) for name in same] == [other.get(name) for name in same]
        if one["kind"] == "SERVER":
            assert one.get("parentId") == other.get("parentId") == (PARENT_ID if traceparent else None)
    carried = [value for name, value in constant.headers if name == "traceparent"]
    if sampled:
        assert carried == [
            f"00-{one['traceId']}-{one['id']}-01".encode() for one in made if one["kind"] == "PRODUCER"
        ]
    else:
        assert carried == [traceparent.encode()] * 2 if traceparent else carried == []
    for answer in answers:
        assert (("-01\r\n" in answer) or ("-00\r\n" in answer)) == (traceparent is not None or sampled)
        assert ("-01\r\n" in answer) == sampled


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_probes_are_not_traced(level: int) -> None:
    spans = Spans()
    quiet = Log("test", level, lambda _line: None)
    app = make_app(Idle(), {}, quiet, Notifier(), tracing(spans, share=1))
    log = app.request_log
    for path in (routes.HEALTH, routes.READY, routes.METRICS):
        log.record(log.sample(Correlation(CORRELATION)), None, "GET", path, path, 503, time.perf_counter())
    assert spans.spans == []


def span(number: int) -> Span:
    return Span("s", TRACE_ID, f"{number:016x}", None, "SERVER", "n", 1.5, 0.25, None, {"a": "b", "c": None})


def counted() -> dict[str, float]:
    return {"sent": metrics.SPANS_SENT._value.get(), "dropped": metrics.SPANS_DROPPED._value.get()}


def since(before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in counted().items()}


def test_all_spans_are_sent_by_the_end() -> None:
    posted: list[bytes] = []
    before = counted()
    exporter = Exporter(posted.append, QUIET, every_seconds=60)
    exporter.start()
    for number in range(1200):
        exporter.add(span(number))
    assert posted == []
    exporter.close()
    batches = [json.loads(body) for body in posted]
    assert [one["id"] for many in batches for one in many] == [f"{number:016x}" for number in range(1200)]
    assert max(map(len, batches)) == 500
    assert batches[0][0] == {
        "traceId": TRACE_ID,
        "id": "0" * 16,
        "kind": "SERVER",
        "name": "n",
        "timestamp": 1_500_000,
        "duration": 250_000,
        "localEndpoint": {"serviceName": "s"},
        "tags": {"a": "b"},
    }
    assert since(before) == {"sent": 1200, "dropped": 0}


def test_what_has_no_room_is_dropped_and_counted() -> None:
    posted: list[bytes] = []
    before = counted()
    exporter = Exporter(posted.append, QUIET, queue_most=3, every_seconds=60)
    for number in range(5):
        exporter.add(span(number))
    assert since(before) == {"sent": 0, "dropped": 2}
    exporter.start()
    exporter.close()
    assert [one["id"][-1] for one in json.loads(posted[0])] == ["0", "1", "2"]
    assert since(before) == {"sent": 3, "dropped": 2}


@pytest.mark.parametrize("error", [OSError("refused"), HTTPException("503"), ValueError("no number")])
def test_collector_that_fails_costs_one_batch_at_a_time(error: Exception) -> None:
    lines: list[bytes] = []
    before = counted()
    attempts: list[int] = []
    done = threading.Event()

    def post(body: bytes) -> None:
        attempts.append(len(json.loads(body)))
        if len(attempts) < 3:
            raise error
        done.set()

    exporter = Exporter(post, Log("test", logging.INFO, lines.append), every_seconds=0.01)
    for number in range(1100):
        exporter.add(span(number))
    exporter.start()
    assert done.wait(10)
    exporter.close()
    assert attempts == [500, 500, 100]
    assert since(before) == {"sent": 100, "dropped": 1000}
    # Of several of one kind, one line in a while.
    (line,) = map(json.loads, lines)
    assert (line["event"], line["error"], line["dropped"]) == ("spans_not_sent", str(error), 500)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, str, bytes]], list[int]]]:
    """Give the URL of a collector, what it got, and the status that it answers."""
    got: list[tuple[str, str, bytes]] = []
    status = [202]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], body))
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api/v2/spans?x=y", got, status
    server.shutdown()
    server.server_close()
    thread.join()


def test_spans_are_posted(collector: tuple[str, list[tuple[str, str, bytes]], list[int]]) -> None:
    url, got, status = collector
    post = post_to(url)
    post(b"[]")
    assert got == [("/api/v2/spans?x=y", "application/json", b"[]")]
    status[0] = 500
    with pytest.raises(HTTPException, match="answered 500"):
        post(b"[]")


def test_collector_that_hangs_is_waited_for_no_longer_than_the_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("timestamp_service.traces.exporter._TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        post = post_to(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(TimeoutError):
            post(b"[]")


LINE: Json = {
    "correlationId": CORRELATION,
    "traceparent": "",
    "answered": "",
    "span": "0123456789abcdef",
    "ended": 1_700_000_000.25,
    "seconds": 0.25,
    "method": "POST",
    "path": PATH,
    "route": "command",
    "status": 200,
}
SYSLOG_HEAD = b"<190>Nov 28 04:12:22 nginx: "


def taken(**fields: object) -> list[Json]:
    spans = Spans()
    nginx.take(SYSLOG_HEAD + json.dumps({**LINE, **fields}).encode(), tracing(spans))
    return spans.sent()


def test_span_of_nginx() -> None:
    (made,) = taken(traceparent=ASKED, answered=f"00-{TRACE_ID}-0123456789abcdef-01")
    assert made == {
        "traceId": TRACE_ID,
        "id": "0123456789abcdef",
        "parentId": PARENT_ID,
        "kind": "SERVER",
        "name": "post command",
        "timestamp": 1_700_000_000_000_000,
        "duration": 250_000,
        "localEndpoint": {"serviceName": "nginx"},
        "tags": {
            "http.method": "POST",
            "http.path": PATH,
            "http.status_code": "200",
            "correlationId": CORRELATION,
        },
    }
    (made,) = taken(answered=f"00-{OF_CORRELATION}-0123456789abcdef-01")
    assert (made["traceId"], "parentId" in made) == (OF_CORRELATION, False)


@pytest.mark.parametrize(
    ("fields", "traced"),
    [
        ({}, False),
        # It asked, and the API did not trace it.
        ({"traceparent": ASKED, "answered": NOT_ASKED}, False),
        ({"seconds": 1.0}, True),
        ({"status": 502}, True),
        ({"status": 503, "path": "/health"}, False),
        ({"status": 499}, False),
    ],
)
def test_nginx_traces_what_the_api_does_and_errors_and_slow_requests(fields: Json, traced: bool) -> None:
    made = taken(**fields)
    assert len(made) == traced
    for one in made:
        assert one["traceId"] == OF_CORRELATION
        assert one["tags"].get("error") == ("502" if fields.get("status") == 502 else None)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"<190>no object",
        b"<190>{",
        b"<190>{}",
        b'{"a":' * 1500,
        *(
            json.dumps({**LINE, "status": 500, **wrong}).encode()
            for wrong in (
                {"span": "x"},
                {"span": 7},
                {"correlationId": "x"},
                {"answered": 7},
                {"status": "x"},
                {"ended": "x"},
                {"traceparent": 7},
            )
        ),
    ],
)
def test_line_that_is_none_of_a_request(line: bytes) -> None:
    spans = Spans()
    with pytest.raises(MalformedError):
        nginx.take(line, tracing(spans))
    assert spans.spans == []


def test_lines_come_to_a_socket_that_any_user_may_write_to(tmp_path: Path) -> None:
    spans, path = Spans(), tmp_path / "nginx.sock"
    # Of a process that has ended.
    for _ in range(2):
        lines = NginxLines(str(path), tracing(spans))
    assert path.stat().st_mode & 0o777 == 0o666
    lines.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for line in (b"nonsense", SYSLOG_HEAD + json.dumps({**LINE, "status": 500}).encode()):
            sender.sendto(line, str(path))
    deadline = time.monotonic() + 5
    while not spans.spans and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [one.service for one in spans.spans] == ["nginx"]


def test_tracer_is_made_where_there_is_a_collector() -> None:
    assert tracer.of("s", None, QUIET) is None
    of = tracer.of("s", settings.Traces("http://127.0.0.1:1/", 1, 0, 1), QUIET)
    assert of is not None
    of.start()
    of.close()
