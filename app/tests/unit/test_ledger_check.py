"""The ledger's check of single records, and that a line is on the disk before it counts."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from timestamp_service.database.records import Record
from timestamp_service.ledger import book, check
from timestamp_service.ledger.client import Answer, Line, RequestError
from timestamp_service.ledger.run import Run

ID, INSTANT = "01890a5d-ac96-774b-bcce-b302099a8057", "2200-01-01T00:00:00.001Z"
CREATED = "2026-01-01T00:00:00Z"
GOOD = {"id": ID, "command_id": ID, "event_timestamp": INSTANT, "created_at": CREATED}
LISTED = {ID: Record(ID, INSTANT, CREATED)}


class FakeLine(Line):
    """A connection that gives one answer."""

    def __init__(self, status: int, fields: dict[str, str] | None) -> None:
        self._answer = Answer(status=status, body=json.dumps(fields).encode())

    async def ask(self, method: str, path: str, headers: str = "") -> Answer:
        assert (method, path) == ("GET", f"/api/v1/timestamp/{ID}")
        if self._answer.status == 0:
            raise RequestError("closed")
        return self._answer


def problem(status: int, fields: dict[str, str] | None, listed: dict[str, Record] = LISTED) -> str | None:
    return asyncio.run(check._read_one(FakeLine(status, fields), ID, INSTANT, listed))


def test_a_right_answer_is_no_problem() -> None:
    assert problem(200, GOOD) is None


@pytest.mark.parametrize("name", GOOD)
def test_each_member_of_an_answer_is_checked(name: str) -> None:
    assert problem(200, {**GOOD, name: "another"}) is not None


def test_other_answers() -> None:
    assert problem(404, None) == f"{ID} is answered 404"
    # It is missing in the pages too: it counts as lost already.
    assert problem(404, None, {}) is None
    assert problem(200, GOOD, {}) == f"{ID} is answered, and not in the pages"
    assert problem(0, None) == f"{ID} cannot be read: closed"


def test_a_line_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"
    synced: list[int] = []
    counted: list[str] = []

    def fsync(_descriptor: int) -> None:
        synced.append(path.stat().st_size)

    monkeypatch.setattr(os, "fsync", fsync)

    async def write() -> None:
        writer = book.Writer(path, Run("name", 7))
        assert synced == [path.stat().st_size]

        def written() -> None:
            assert synced[-1] == path.stat().st_size
            counted.append(path.read_text().splitlines()[-1])

        writer.append(ID, INSTANT, written)
        assert not counted
        writer.close()
        await writer.write()

    asyncio.run(write())
    assert len(synced) == 2
    assert counted == [f"{ID} {INSTANT}"]
