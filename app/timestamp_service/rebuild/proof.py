"""The proof that the new table holds what the log does: counts and checksums of both, made independently."""

from dataclasses import dataclass

from timestamp_service.rebuild import checksum


@dataclass(frozen=True, slots=True)
class Proof:
    """Counts and sums of numbers over one range of the log, and over the whole new table."""

    # By the offsets of the range.
    messages: int
    # What became of the messages, as they were read: first occurrences of an id, others, dead letters.
    first: int
    duplicates: int
    dead_letters: int
    log_total: int
    # What the table holds.
    rows: int
    table_total: int

    def failures(self) -> list[str]:
        """Return what is not equal and must be."""
        failures = []
        parts = self.rows + self.duplicates + self.dead_letters
        if self.messages != parts:
            failures.append(
                f"{self.messages} messages in the log are not {self.rows} rows + {self.duplicates} duplicates"
                f" + {self.dead_letters} dead letters = {parts}"
            )
        if self.rows != self.first:
            failures.append(f"the table has {self.rows} rows, the log {self.first} records")
        ours, theirs = checksum.text(self.log_total), checksum.text(self.table_total)
        if ours != theirs:
            failures.append(f"the checksum of the log is {ours}, that of the table {theirs}")
        return failures

    def fields(self) -> dict[str, int | str]:
        """Return the figures for the log line."""
        return {
            "messages": self.messages,
            "rows": self.rows,
            "duplicates": self.duplicates,
            "dead_letters": self.dead_letters,
            "checksum_log": checksum.text(self.log_total),
            "checksum_table": checksum.text(self.table_total),
        }
