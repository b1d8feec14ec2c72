"""The table of results: rewritten after each fault, so that an interrupted run leaves its part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("report.md")
# Of planned work; its time is that of the play.
PLANNED = FILE.with_name("planned.md")
HEAD = (
    "| fault | recovered after | acknowledged | lost | duplicated | changed | POST errors | GET errors |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


@dataclass(frozen=True)
class Seen:
    """What was seen of one fault."""

    name: str
    seconds: float
    summary: dict[str, Any]
    counts: dict[str, int]

    def line(self) -> str:
        """Return the line of the table."""
        counts = self.counts
        cells = [
            self.name,
            f"{self.seconds:.1f} s",
            f"{counts['acknowledged']:,}",
            str(counts["lost"]),
            str(counts["duplicated"]),
            str(counts["changed"] + counts["misread"] + counts["unknown"]),
            kinds(self.summary["post"]),
            kinds(self.summary["get"]),
        ]
        return f"| {' | '.join(cells)} |\n"


def kinds(requests: dict[str, Any]) -> str:
    """Return the errors of one method by kind: `503: 12, closed: 1`; or none."""
    return ", ".join(f"{kind}: {count}" for kind, count in requests["errors"].items()) or "none"


def write(seen: list[Seen], file: Path = FILE) -> None:
    """Write the table."""
    file.write_text(HEAD + "".join(one.line() for one in seen))
