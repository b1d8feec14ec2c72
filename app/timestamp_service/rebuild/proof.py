"""The proof that the new table holds what the log does: independent counts and checksums of both."""

from dataclasses import dataclass

from timestamp_service.rebuild import checksum


@dataclass(frozen=True, slots=True)
class Proof:
    """Counts and checksums of one range of the log, and of the whole new table."""

    # By the offsets of the range.
    messages: int
    # The messages as they were read: the first ones of their ids, the others, and those with a dead letter.
    first: int
    duplicates: int
    dead_letters: int
    log_total: int
    # What the table holds.
    rows: int
    table_total: int

    def failures(self) -> list[str]:
        """Return a sentence for each pair that must be equal and is not."""
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
