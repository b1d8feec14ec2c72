import time
from typing import Any

import pytest

from timestamp_service.consumer.state import State, lag
from timestamp_service.runtime import metrics


def partition(number: int, low: int, high: int, committed: int, stored: int, desired: bool = True) -> Any:
    """A partition in librdkafka's statistics."""
    return {
        "partition": number,
        "desired": desired,
        "lo_offset": low,
        "hi_offset": high,
        "committed_offset": committed,
        "stored_offset": stored,
    }


@pytest.mark.parametrize(
    ("statistics_of_partition", "expected"),
    [
        (partition(0, 0, 10, -1001, -1001), 10),
        (partition(0, 4, 10, -1001, -1001), 6),
        (partition(0, -1001, 10, 7, -1001), 3),
        (partition(0, 0, 10, 7, 9), 1),
        (partition(0, 0, 10, 10, 10), 0),
        # Nothing is known yet.
        (partition(0, -1001, -1001, -1001, -1001), 0),
        # Not ours.
        (partition(0, 0, 10, 7, 9, desired=False), 0),
        (partition(-1, -1001, -1001, -1001, -1001), 0),
    ],
)
def test_lag(statistics_of_partition: Any, expected: int) -> None:
    assert lag(statistics_of_partition) == expected


def statistics(*partitions: Any, up: bool = True) -> Any:
    return {
        "brokers": {"a": {"nodeid": 1, "state": "UP" if up else "DOWN"}},
        "topics": {"t": {"partitions": {str(one["partition"]): one for one in partitions}}},
    }


def lag_of(state: State) -> tuple[int, float | None]:
    return state.lag_messages, state.lag_since


def test_nothing_to_write_is_progress() -> None:
    state = State(progress_at=0.0)
    state.update(statistics(partition(0, 0, 10, 4, -1001), partition(1, 0, 10, 5, -1001)), "t")
    assert state.brokers_up
    assert state.lag_messages == 11
    assert state.lag_since is not None
    assert time.monotonic() - state.lag_since < 1
    assert state.progress_at == 0.0
    state.update(statistics(partition(0, 0, 10, 4, 10), partition(1, 0, 10, 5, 10)), "t")
    assert lag_of(state) == (0, None)
    assert state.progress_at > 0.0


def test_no_brokers_are_no_progress() -> None:
    state = State(progress_at=0.0)
    state.update(statistics(up=False), "t")
    assert not state.brokers_up
    assert state.progress_at == 0.0


@pytest.mark.parametrize(("progress_seconds_ago", "lag"), [(0, 0), (30, 30), (300, 120)])
def test_under_load_the_lag_is_no_older_than_the_last_batch(progress_seconds_ago: float, lag: float) -> None:
    now = time.monotonic()
    # There was always something to write for two minutes.
    state = State(lag_messages=50, lag_since=now - 120, progress_at=now - progress_seconds_ago)
    state.measure()
    assert metrics.LAG_SECONDS._value.get() == pytest.approx(lag, abs=5)
