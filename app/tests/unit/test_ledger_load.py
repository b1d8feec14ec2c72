"""The ledger against a small server that fails on demand: each failure is counted, each loss found."""

from __future__ import annotations

import asyncio
import json
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from timestamp_service import identifiers
from timestamp_service.ledger import book
from timestamp_service.ledger.main import run
from timestamp_service.ledger.run import Run

PAGE = 7


@dataclass
class Service:
    """Records of the small server by id; `disturb` may replace the answer to a request (None: hang up)."""

    records: dict[str, str] = field(default_factory=dict)
    posts: int = 0
    disturb: Callable[[int, str], str | None] = lambda _number, answer: answer

    def post(self, path: str, key: str) -> str | None:
        instant = path.rpartition("/")[2]
        identifier = identifiers.from_key(key, "one", instant) if key else identifiers.new()
        self.records.setdefault(identifier, instant)
        self.posts += 1
        return self.disturb(self.posts, answer(200, {"id": identifier}))

    def get(self, path: str) -> str:
        parts = urlsplit(path)
        if parts.path == "/api/v1/timestamps":
            place = int(parse_qs(parts.query).get("cursor", ["0"])[0])
            found = sorted(self.records)
            more = place + PAGE < len(found)
            items = [self.record(one) for one in found[place : place + PAGE]]
            return answer(200, {"items": items, "next": str(place + PAGE) if more else None})
        identifier = parts.path.rpartition("/")[2]
        return answer(200, self.record(identifier)) if identifier in self.records else answer(404, {})

    def record(self, identifier: str) -> dict[str, str]:
        return {
            "id": identifier,
            "command_id": identifier,
            "event_timestamp": self.records[identifier],
            "created_at": "2026-01-01T00:00:00Z",
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            method, path, _ = head.split("\r\n")[0].split(" ")
            key = head.partition("Idempotency-Key: ")[2].partition("\r\n")[0]
            text = self.post(path, key) if method == "POST" else self.get(path)
            if text is None:
                break
            writer.write(text.encode())
        writer.close()


def answer(status: int, body: object, headers: str = "") -> str:
    text = json.dumps(body)
    return f"HTTP/1.1 {status} -\r\nContent-Length: {len(text)}\r\n{headers}\r\n{text}"


@contextmanager
def served(service: Service) -> Iterator[str]:
    ready, ports, ends = threading.Event(), [], []

    async def serve() -> None:
        end = asyncio.Event()
        server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ends.append((asyncio.get_running_loop(), end))
        ready.set()
        await end.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        loop, end = ends[0]
        loop.call_soon_threadsafe(end.set)
        thread.join()


def load(url: str, file: Path, *more: str) -> int:
    return run(["run", "--url", url, "--ledger", str(file), "--rate", "200", "--duration", "0.5", *more])


def check(url: str, file: Path, *more: str) -> int:
    return run(["check", "--url", url, "--ledger", str(file), "--wait", "0", *more])


def said(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str]:
    caught = capsys.readouterr()
    return json.loads(caught.out), caught.err


def test_what_was_acknowledged_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, service = tmp_path / "ledger", Service()
    with served(service) as url:
        assert load(url, file, "--strict", "--get-rate", "100", "--get-age", "0") == 0
        summary, _ = said(capsys)
        assert summary["acknowledged"] == len(service.records) > PAGE
        assert len(file.read_text().splitlines()) == 1 + len(service.records)
        assert check(url, file) == 0
        counts, _ = said(capsys)
    assert counts["found"] == counts["acknowledged"] == len(service.records)


@pytest.mark.parametrize(
    ("failure", "kind", "without"),
    [
        (answer(503, {}, "Retry-After: 0\r\n"), "503", 0),
        (answer(503, {}), "503", 1),
        (None, "closed", 0),
        ("nonsense\r\n\r\n", "malformed", 0),
        ("HTTP/1.1 200 -\r\nContent-Length: 1\r\n", "timeout", 0),
    ],
)
def test_each_failure_is_counted_and_the_record_sent_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], failure: str | None, kind: str, without: int
) -> None:
    file = tmp_path / "ledger"
    service = Service(disturb=lambda number, answer: failure if number == 3 else answer)
    with served(service) as url:
        assert load(url, file, "--strict", "--timeout", "1") == 1
    summary, errors = said(capsys)
    assert summary["post"]["errors"] == {kind: 1}  # type: ignore[index]
    assert summary["post"]["without_retry_after"] == without  # type: ignore[index]
    assert summary["post"]["sent"] == summary["records"] + 1  # type: ignore[index, operator]
    assert summary["acknowledged"] == summary["records"] == len(service.records)
    assert "1 requests failed" in errors


def test_without_strict_a_failure_that_was_mended_is_well(tmp_path: Path) -> None:
    service = Service(disturb=lambda number, answer: None if number == 3 else answer)
    with served(service) as url:
        assert load(url, tmp_path / "ledger") == 0


def test_another_id_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = Service(disturb=lambda number, text: answer(200, {"id": "x"}) if number == 3 else text)
    with served(service) as url:
        assert load(url, tmp_path / "ledger") == 1
    summary, errors = said(capsys)
    assert summary["wrong"] == 1
    assert summary["acknowledged"] == len(service.records) - 1
    assert "instead of id" in errors


def test_what_is_refused_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = Service(disturb=lambda number, text: answer(400, {}) if number == 3 else text)
    with served(service) as url:
        assert load(url, tmp_path / "ledger") == 1
    assert "was answered 400" in said(capsys)[1]


def test_loss_change_and_stranger_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, service = tmp_path / "ledger", Service()
    with served(service) as url:
        assert load(url, file) == 0
        said(capsys)
        lost, changed, doubled, *_ = list(service.records)
        del service.records[lost]
        service.records[changed] = "2009-09-28T19:03:12Z"
        stranger = identifiers.new()
        service.records[stranger] = service.records[doubled]
        assert check(url, file) == 1
        counts, errors = said(capsys)
    assert {name: counts[name] for name in ("lost", "duplicated", "changed", "misread", "unknown")} == {
        "lost": 1,
        "duplicated": 1,
        "changed": 1,
        "misread": 1,
        "unknown": 0,
    }
    for identifier in (lost, changed, stranger):
        assert identifier in errors


def test_nothing_counts_before_it_is_on_the_disk(tmp_path: Path) -> None:
    file, run = tmp_path / "ledger", Run.new()
    counted: list[str] = []

    async def write() -> None:
        writer = book.Writer(file, run)
        writing = asyncio.create_task(writer.write())
        for number in range(3):
            writer.append(
                run.identifier(number), run.instant(number), lambda: counted.append(file.read_text())
            )
        assert counted == []
        writer.close()
        await writing

    asyncio.run(write())
    assert counted == [file.read_text()] * 3
    with file.open() as held:
        assert list(book.read(held).acknowledged) == [run.identifier(number) for number in range(3)]


def test_a_ledger_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with served(Service()) as url:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
        try:
            assert load(url, tmp_path / "ledger") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in capsys.readouterr().err


def test_no_answer_is_no_verdict(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    with served(Service()) as url:
        assert load(url, file) == 0
    assert check(url, file) == 2


def test_a_ledger_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    file.write_text("kept")
    assert run(["run", "--url", "http://127.0.0.1:1", "--ledger", str(file)]) == 2
    assert file.read_text() == "kept"


@pytest.mark.parametrize(
    "url",
    ["ftp://u:hunter2@host", "https://u:hunter2@host/path", "https://u:hunter2/1@host", "//u:hunter2@[x"],
)
def test_an_invalid_url_is_refused_and_not_quoted(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(url, tmp_path / "ledger") == 2
    message = capsys.readouterr().err
    assert "https://timestamps.example.com" in message
    assert "hunter2" not in message


def test_without_keys_no_record_is_sent_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Every third answer is lost on its way.
    service = Service(disturb=lambda number, text: None if number % 3 == 0 else text)
    file = tmp_path / "ledger"
    with served(service) as url:
        assert load(url, file, "--without-keys") == 0
        summary, _ = said(capsys)
        assert check(url, file) == 0
        counts, _ = said(capsys)
    assert summary["abandoned"] == counts["unacknowledged"] != 0
    assert summary["acknowledged"] == counts["acknowledged"] != 0
    assert len(set(service.records.values())) == len(service.records) == service.posts


@pytest.mark.parametrize(
    "identifier", ["x", "0b9a9a34-3a4d-4f0e-9d5e-0d6f7f2f8a11", "01890a5d-ac96-774b-bcce-b302099a8057"]
)
def test_without_keys_each_id_must_be_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], identifier: str
) -> None:
    service = Service(disturb=lambda _number, _text: answer(200, {"id": identifier}))
    with served(service) as url:
        assert load(url, tmp_path / "ledger", "--without-keys") == 1
    assert "instead of a new UUIDv7" in said(capsys)[1]
