import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timestamp_service.kafka import messages
from timestamp_service.kafka.messages import Command, MalformedError

COMMAND = Command("01890a5d-ac96-774b-bcce-b302099a8057", "2009-09-28T19:03:12.123456789Z")


def test_own_messages_are_read_back() -> None:
    written = messages.encode(COMMAND)

    assert json.loads(written) == {
        "command_id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "event_timestamp": "2009-09-28T19:03:12.123456789Z",
    }
    assert messages.decode(written) == COMMAND


def value(**fields: object) -> bytes:
    return json.dumps(fields).encode()


ID, TIMESTAMP = COMMAND.command_id, COMMAND.event_timestamp


@pytest.mark.parametrize(
    "written",
    [
        value(event_timestamp=TIMESTAMP, command_id=ID),
        value(command_id=ID.upper(), event_timestamp="2009-09-28t21:03:12.123456789+02:00"),
        value(command_id=ID, event_timestamp=TIMESTAMP, new=[1]),
        b" " + value(command_id=ID, event_timestamp=TIMESTAMP).replace(b'"0', b'"\\u0030') + b"\n",
        b'{"command_id": 1, ' + value(command_id=ID, event_timestamp=TIMESTAMP)[1:],
    ],
)
def test_other_writings_of_the_same_are_read(written: bytes) -> None:
    assert messages.decode(written) == COMMAND


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (None, "no value"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5_000, "not a JSON object"),
        (b"01", "not JSON"),
        (value(command_id=ID, event_timestamp=TIMESTAMP, x=float("nan")), "not JSON"),
        (b"null", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{}", "command_id is missing"),
        (value(event_timestamp=TIMESTAMP), "command_id is missing"),
        (value(command_id=7, event_timestamp=TIMESTAMP), "command_id is missing or no text"),
        (value(command_id="7", event_timestamp=TIMESTAMP), "command_id: it is not a UUID"),
        (value(command_id=f"{{{ID}}}", event_timestamp=TIMESTAMP), "command_id: it is not a UUID"),
        (value(command_id=ID), "event_timestamp is missing"),
        (value(command_id=ID, event_timestamp=None), "event_timestamp is missing"),
        (value(command_id=ID, event_timestamp="2009-02-30T19:03:12Z"), "event_timestamp: there is no day"),
        # In the form that we write, too.
        (messages.encode(Command(ID, "2009-02-30T19:03:12Z")), "event_timestamp: there is no day"),
        (value(command_id=ID, event_timestamp="2009-09-28T19:03:12Z\0"), "event_timestamp: it is not"),
        (value(command_id=ID, event_timestamp="\ud800"), "event_timestamp: it is not"),
    ],
)
def test_malformed(written: bytes | None, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        messages.decode(written)


@pytest.mark.parametrize(
    "field", ["9" * 5_000, "1e" + "9" * 5_000, "[" * 3_000 + "]" * 3_000, '{"a":' * 3_000 + "0" + "}" * 3_000]
)
def test_fields_that_are_not_known_may_hold_whatever_json_allows(field: str) -> None:
    assert (
        messages.decode(
            f'{{"x":{field},{value(command_id=ID, event_timestamp=TIMESTAMP).decode()[1:]}'.encode()
        )
        == COMMAND
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(written: bytes) -> None:
    with pytest.raises(MalformedError):
        messages.decode(written)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner), max_leaves=5
)


@given(st.dictionaries(st.sampled_from(["command_id", "event_timestamp", "other"]), json_values))
def test_any_json_without_an_instant_is_malformed(content: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        messages.decode(json.dumps(content).encode())
