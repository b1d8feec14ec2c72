"""Identifiers of records: UUIDs (RFC 9562) as lower-case text."""

import re
import time

import uuid_utils

UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
EXAMPLE = "01890a5d-ac96-774b-bcce-b302099a8057"

# Never change it: keys that were used already would get other ids.
_NAMESPACE = uuid_utils.UUID("43da3b40-7b49-4535-bd1c-1ebf3dc1dbd7")


class IdentifierError(ValueError):
    """A text is not a UUID."""


def new() -> str:
    """Return a new UUIDv7: ids of the same time are neighbours in an index."""
    return str(uuid_utils.uuid7())


def from_key(key: str, kind: str, timestamp: str) -> str:
    """Return the UUIDv5 of an idempotency key: the same for the same three texts, in every release.

    `kind` is "one", "now" or "bulk:<index>"; `timestamp` is as it was sent, or "".
    """
    return str(uuid_utils.uuid5(_NAMESPACE, f"{key}\n{kind}\n{timestamp}"))


def normalise(text: str) -> str:
    """Return the UUID `text` in lower case. Raises IdentifierError."""
    if UUID.fullmatch(text) is None:
        raise IdentifierError("it is not a UUID")
    return text.lower()


def may_be_fresh(identifier: str, within_seconds: float) -> bool:
    """Return whether a record of this id may have been posted in the last `within_seconds`.

    A UUIDv7 holds the time of its creation; the clocks of the nodes may differ by as much. A UUIDv5 (of an
    idempotency key) holds no time: the answer is always True.
    """
    version = identifier[14]
    if version == "7":
        created = int(identifier[:8] + identifier[9:13], 16) / 1000
        return abs(time.time() - created) <= within_seconds
    return version == "5"
