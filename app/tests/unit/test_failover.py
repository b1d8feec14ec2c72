"""For how long an acknowledgement is waited for, by a clock of the test's own."""

import pytest

from timestamp_service.command.failover import Failover


class Clock:
    """Shows the time that the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failover(clock: Clock) -> Failover:
    """What a process knows of a whole cluster."""
    made = Failover(clock, 5, 15)
    made.replicated = True
    return made


def test_a_failover_may_take_its_time(failover: Failover, clock: Clock) -> None:
    failover.sent()
    clock.now += 14.9
    failover.sent()
    assert failover.seconds() == 15
    assert not failover.over()


def test_before_anything_is_known_of_a_cluster_nobody_waits_for_it(clock: Clock) -> None:
    made = Failover(clock, 5, 15)
    made.sent()
    assert made.seconds() == 5
    # The cluster has grown.
    made.replicated = True
    assert made.seconds() == 15


def test_without_a_connection_nobody_waits(failover: Failover) -> None:
    failover.sent()
    failover.connected = False
    assert failover.seconds() == 5
    failover.connected = True
    assert failover.seconds() == 15


def test_an_outage_that_is_longer_than_a_failover_is_none(failover: Failover, clock: Clock) -> None:
    failover.sent()
    clock.now += 15
    assert failover.seconds() == 5
    assert failover.over()
    # All have been given up meanwhile, and more are tried, hours later too.
    clock.now += 3600
    failover.sent()
    assert failover.seconds() == 5


def test_an_acknowledgement_ends_an_outage(failover: Failover, clock: Clock) -> None:
    failover.sent()
    clock.now += 60
    failover.acknowledged(0)
    assert not failover.over()
    # Nothing was sent for long, and then another failover begins.
    clock.now += 3600
    failover.sent()
    clock.now += 14
    assert failover.seconds() == 15


def test_what_is_left_of_several_has_begun_to_wait_again(failover: Failover, clock: Clock) -> None:
    failover.sent()
    failover.sent()
    clock.now += 10
    failover.acknowledged(1)
    clock.now += 10
    assert failover.seconds() == 15
    clock.now += 5
    assert failover.seconds() == 5


def test_a_question_may_stay_unanswered_during_a_failover(failover: Failover, clock: Clock) -> None:
    assert failover.unanswered()
    clock.now += 14.9
    assert failover.unanswered()
    clock.now += 0.1
    assert not failover.unanswered()
    failover.answered()
    assert failover.unanswered()


@pytest.mark.parametrize("missing", ["replicated", "connected"])
def test_nobody_else_answers_where_no_failover_is_possible(failover: Failover, missing: str) -> None:
    setattr(failover, missing, False)
    assert not failover.unanswered()
