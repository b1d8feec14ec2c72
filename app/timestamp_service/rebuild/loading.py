"""Loading the log into the new table: one chunk is written while the next one is read."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from timestamp_service.kafka.topic import Topic
from timestamp_service.rebuild.dead_letter_index import Position
from timestamp_service.rebuild.rows import Rows, from_messages
from timestamp_service.rebuild.table import Table, Written


@dataclass(slots=True)
class Loaded:
    """How much of the log is in the new table."""

    # The next offset to load, by partition.
    next_offsets: dict[int, int]
    first: int = 0
    duplicates: int = 0
    total: int = 0
    # Why each message that can never be projected cannot.
    bad: dict[Position, str] = field(default_factory=dict)

    def copy(self) -> "Loaded":
        """Return what is loaded by now."""
        return replace(self, next_offsets=dict(self.next_offsets), bad=dict(self.bad))

    def add(self, rows: Rows, written: Written) -> None:
        """Count what was written of `rows`."""
        self.next_offsets.update(rows.next_offsets)
        self.first += written.rows
        self.duplicates += rows.duplicates + len(rows.rows) - written.rows
        self.total += written.total
        self.bad.update(rows.bad)


def load(
    topic: Topic,
    table: Table,
    loaded: Loaded,
    ends: dict[int, int],
    on_progress: Callable[[int], None],
    stall_seconds: float,
) -> None:
    """Load the log from where `loaded` ends up to `ends`; `on_progress` gets the size of each chunk.

    Whatever it raises (TopicError, StoppedError, psycopg2.Error), `loaded` describes the table.
    """
    with ThreadPoolExecutor(1, "writer") as pool:
        writing: tuple[Rows, Future[Written]] | None = None

        def settle() -> None:
            nonlocal writing
            if writing is not None:
                (rows, future), writing = writing, None
                loaded.add(rows, future.result())
                on_progress(rows.count)

        try:
            for chunk in topic.read(dict(loaded.next_offsets), ends, stall_seconds):
                rows = from_messages(chunk)
                settle()
                writing = rows, pool.submit(table.write, list(rows.rows.values()))
        finally:
            settle()
