"""A message as a line of a backup's file: JSON in ASCII, readable without this program.

Fields: `offset`, `time` (ms since 1970, when the broker appended it), `key`, `value`, `headers` (a list of
name and value). Bytes that are UTF-8 stand as a text, others as {"base64": "…"}, absent ones as null.
Headers that the library cannot read, as the name of one is not UTF-8, are [["omitted", "headers"]].
"""

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from timestamp_service.kafka import messages


class LineError(ValueError):
    """A line is not one of a backup, or a message cannot be saved as a line."""


@dataclass(frozen=True, slots=True)
class SavedMessage:
    """A message of a partition; `time` is in ms since 1970."""

    offset: int
    time: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def from_message(message: Message) -> SavedMessage:
    """Return `message` as it is saved. Raises LineError."""
    offset = message.offset()
    kind, time = message.timestamp()
    if offset is None or kind == TIMESTAMP_NOT_AVAILABLE:
        raise LineError(f"the message at offset {offset} has no offset or no time")
    headers = [
        (name, value.encode() if isinstance(value, str) else value)
        for name, value in messages.headers(message)
    ]
    return SavedMessage(offset, time, _bytes(message.key()), _bytes(message.value()), headers)


def encode(message: SavedMessage) -> bytes:
    """Return the line of a message, with its line feed."""
    fields = {
        "offset": message.offset,
        "time": message.time,
        "key": _to_json(message.key),
        "value": _to_json(message.value),
        "headers": [[name, _to_json(value)] for name, value in message.headers],
    }
    return json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> SavedMessage:
    """Return the message of a line. Raises LineError."""
    try:
        fields = json.loads(line)
        return SavedMessage(
            int(fields["offset"]),
            int(fields["time"]),
            _from_json(fields["key"]),
            _from_json(fields["value"]),
            [(str(name), _from_json(value)) for name, value in fields["headers"]],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LineError(f"it is not a line of a backup: {error}") from None


def _bytes(content: str | bytes | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content


def _to_json(content: bytes | None) -> str | dict[str, str] | None:
    if content is None:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": b64encode(content).decode("ascii")}


def _from_json(content: Any) -> bytes | None:
    if content is None:
        return None
    if isinstance(content, str):
        return content.encode("utf-8")
    return b64decode(content["base64"], validate=True)
