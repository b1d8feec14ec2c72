"""Records, as they are in the table and in the answers of the API."""

from dataclasses import dataclass

from timestamp_service import instants

# What a query selects for `Record.from_row`.
COLUMNS = "id::text, event_timestamp::text, event_nanoseconds, created_at::text"


@dataclass(frozen=True, slots=True)
class Record:
    """A recorded instant; `created_at` is when the broker appended it. All are canonical texts."""

    identifier: str
    event_timestamp: str
    created_at: str

    @classmethod
    def from_row(cls, identifier: str, event_timestamp: str, nanoseconds: int, created_at: str) -> "Record":
        """Return the record of a row of COLUMNS; DateStyle must be ISO and TimeZone UTC."""
        return cls(
            identifier,
            instants.from_columns(event_timestamp, nanoseconds),
            instants.from_columns(created_at, 0),
        )

    def to_json(self) -> bytes:
        """Return the record as the API answers it."""
        # None of the texts holds anything that JSON would escape.
        text = (
            f'{{"id":"{self.identifier}","command_id":"{self.identifier}",'
            f'"event_timestamp":"{self.event_timestamp}","created_at":"{self.created_at}"}}'
        )
        return text.encode("ascii")
