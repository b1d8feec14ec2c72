"""The verdict: is each acknowledged record there once and unchanged, and nothing that was never sent?"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from timestamp_service.database.records import Record
from timestamp_service.ledger.book import Book


@dataclass(slots=True)
class Verdict:
    """The result of a check: counts, and a sentence for each thing that is wrong."""

    acknowledged: int = 0
    found: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    # The answer to a GET of the id differs from the pages.
    misread: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    # Sent and recorded, but never acknowledged: allowed once per record.
    unacknowledged: int = 0

    def wrong(self) -> list[str]:
        """Return a sentence for each thing that is wrong."""
        return [*self.lost, *self.duplicated, *self.changed, *self.misread, *self.unknown]

    def counts(self) -> dict[str, int]:
        """Return the counts by their names."""
        return {
            "acknowledged": self.acknowledged,
            "found": self.found,
            "lost": len(self.lost),
            "duplicated": len(self.duplicated),
            "changed": len(self.changed),
            "misread": len(self.misread),
            "unknown": len(self.unknown),
            "unacknowledged": self.unacknowledged,
        }


def judge(book: Book, rows: Iterable[Record]) -> Verdict:
    """Compare a ledger with all rows whose instants are in the run's window."""
    verdict = Verdict(acknowledged=len(book.acknowledged))
    seen: dict[str, Record] = {}
    for row in rows:
        verdict.found += 1
        if row.identifier in seen:
            verdict.duplicated.append(f"{row.identifier} is there more than once")
        seen[row.identifier] = row
    # Without keys, the id of a record is not known in advance: its instant tells which one it is.
    by_instant = {} if book.run.keyed else {instant: one for one, instant in book.acknowledged.items()}
    for row in seen.values():
        if row.identifier in book.acknowledged:
            continue
        number = book.run.number(row.event_timestamp)
        if number is None:
            sent = None
        elif book.run.keyed:
            sent = book.run.identifier(number)
        else:
            sent = by_instant.setdefault(row.event_timestamp, row.identifier)
        if sent == row.identifier:
            verdict.unacknowledged += 1
        elif sent in seen:
            verdict.duplicated.append(f"{row.event_timestamp} is there as {sent} and as {row.identifier}")
        else:
            verdict.unknown.append(f"{row.identifier} {row.event_timestamp} was never sent")
    for identifier, instant in book.acknowledged.items():
        record = seen.get(identifier)
        if record is None:
            verdict.lost.append(f"{identifier} {instant} is lost")
        elif record.event_timestamp != instant:
            verdict.changed.append(f"{identifier} {instant} has become {record.event_timestamp}")
    return verdict
