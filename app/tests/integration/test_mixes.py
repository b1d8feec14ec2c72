"""Any mix of messages, in batches of any size: the first of each id is a row, what is bad a dead letter."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.kafka import Kafka
from tests.integration.postgres import Postgres
from tests.integration.processes import until
from tests.integration.service import World

pytestmark = pytest.mark.integration

# Nearly what the topic takes: with the headers of a dead letter it is more.
OVERSIZED = 1_040_000
_examples = count(1)


@dataclass(frozen=True)
class Sent:
    """A message of an example: of one of a few ids (None: malformed), and of some size."""

    number: int | None
    year: int
    size: int = 0
    nonsense: bytes = b""


sizes = st.sampled_from([0] * 19 + [OVERSIZED])
# Few ids: most are there several times, in whatever order their instants are.
valid = st.builds(Sent, st.integers(0, 7), st.integers(1, 9999), sizes)
malformed = st.builds(
    Sent,
    st.none(),
    st.just(0),
    sizes,
    st.sampled_from([b"", b"{}", b"[", b"\xff", b"null", b'{"command_id": "x", "event_timestamp": "y"}']),
)


@pytest.fixture(scope="module", params=[1, 10_000])
def mixed(
    request: pytest.FixtureRequest,
    kafka: Kafka,
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """A world whose consumer takes so many messages at a time."""
    world = World(f"mixed{request.param}", kafka, postgres, tmp_path_factory.mktemp("mixed"))
    world.make_topics()
    world.make_database()
    try:
        world.start_consumer(CONSUMER_BATCH_MAX=str(request.param)).wait_until_ready()
        yield world
    finally:
        world.end()


def message(example: int, sent: Sent) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    if sent.number is None:
        return b"malformed", sent.nonsense + b" " * sent.size + b"!", []
    identifier = str(uuid.UUID(int=example << 64 | sent.number))
    value = {
        "command_id": identifier,
        "event_timestamp": f"{sent.year:04d}-01-01T00:00:00Z",
        "x": " " * sent.size,
    }
    return identifier.encode(), json.dumps(value).encode(), []


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(valid | malformed, min_size=1, max_size=20))
def test_any_mix(mixed: World, mix: list[Sent]) -> None:
    example = next(_examples)
    before = sum(mixed.committed().values())
    mixed.produce([message(example, sent) for sent in mix])

    until("all offsets are committed", lambda: sum(mixed.committed().values()) == before + len(mix))

    first: dict[str, str] = {}
    for sent in mix:
        if sent.number is not None:
            first.setdefault(
                str(uuid.UUID(int=example << 64 | sent.number)), f"{sent.year:04d}-01-01 00:00:00+00"
            )
    own = str(uuid.UUID(int=example << 64))[:18]
    rows = {identifier: row[0] for identifier, row in mixed.rows().items() if identifier.startswith(own)}
    assert rows == first
    # Of all examples so far.
    bad = {
        (found.partition(), found.offset())
        for found in mixed.read_topic(mixed.topic)
        if found.key() == b"malformed"
    }
    letters = [dict(letter.headers()) for letter in mixed.read_topic(mixed.dead_letter_topic)]
    places = [(int(letter["source.partition"]), int(letter["source.offset"])) for letter in letters]
    assert sorted(places) == sorted(bad)
