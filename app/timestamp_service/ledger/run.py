"""The records of one run of the ledger: for each number a key, an instant and the expected id."""

import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

# From the contract, not from the code under test: this reveals a release that makes other ids.
_NAMESPACE = uuid.UUID("43da3b40-7b49-4535-bd1c-1ebf3dc1dbd7")

# Not a whole number of microseconds, so that nanoseconds are tested as well.
STEP_NANOSECONDS = 1_000_003
# A run begins at a random second of these years, which hold nothing else, so that two runs do not overlap.
_FIRST_SECOND = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp())
_LAST_SECOND = int(datetime(8999, 1, 1, tzinfo=UTC).timestamp())
WINDOW_SECONDS = 10 * 86_400


@dataclass(frozen=True, slots=True)
class Run:
    """A run: its name, the second (since 1970) at which its instants begin, and whether it sends keys.

    With keys, a failed record is sent again; without, each attempt has an instant of its own.
    """

    name: str
    second: int
    keyed: bool = True

    @classmethod
    def new(cls, *, keyed: bool = True) -> "Run":
        """Return a random run, which overlaps no other."""
        second = _FIRST_SECOND + secrets.randbelow(_LAST_SECOND - _FIRST_SECOND)
        return cls(secrets.token_hex(8), second, keyed)

    def key(self, number: int) -> str:
        """Return the idempotency key of a record."""
        return f"ledger-{self.name}-{number}"

    def instant(self, number: int) -> str:
        """Return the instant of a record, as the service answers it."""
        seconds, nanoseconds = divmod(number * STEP_NANOSECONDS, 1_000_000_000)
        return instant_at(self.second + seconds, nanoseconds)

    def identifier(self, number: int) -> str:
        """Return the id that the service must give to a record that has a key."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.key(number)}\none\n{self.instant(number)}"))

    def number(self, instant: str) -> int | None:
        """Return which record of the run has this instant, or None."""
        try:
            whole, _, fraction = instant.removesuffix("Z").partition(".")
            seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) - self.second
            number, rest = divmod(
                seconds * 1_000_000_000 + int(fraction.ljust(9, "0") or "0"), STEP_NANOSECONDS
            )
        except ValueError:
            return None
        return number if rest == 0 and number >= 0 else None

    def window(self) -> tuple[str, str]:
        """Return the first instant (included) and the last one (excluded) of the run's records."""
        return instant_at(self.second, 0), instant_at(self.second + WINDOW_SECONDS, 0)


def instant_at(second: int, nanoseconds: int) -> str:
    """Return the canonical text of an instant, given by its second since 1970."""
    text = datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()
    digits = f"{nanoseconds:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"
