"""The age of a record by when the end of its partition passed it."""

from timestamp_service.command.ends import Ends


def seen(*samples: tuple[float, int]) -> Ends:
    ends = Ends()
    for now, end in samples:
        ends.add(now, end)
    return ends


def test_a_record_is_there_since_the_end_was_first_seen_behind_it() -> None:
    ends = seen((100, 4), (105, 4), (110, 6), (115, 6), (120, 9))
    assert ends.last == 9
    assert [ends.seconds(130, offset) for offset in (0, 3, 4, 5, 6, 8)] == [30, 30, 20, 20, 10, 10]
    # Where nothing came there is nothing to remember.
    assert len(ends._ends) == 3


def test_a_record_that_is_not_there_has_no_age() -> None:
    assert Ends().last == 0
    assert Ends().seconds(100, 0) == 0
    assert seen((100, 4)).seconds(130, 4) == 0


def test_an_end_that_goes_back_is_of_another_log() -> None:
    ends = seen((100, 4), (110, 6), (120, 5))
    assert ends.last == 5
    assert ends.seconds(130, 0) == 10
    ends.add(125, 6)
    assert ends.seconds(130, 5) == 5


def test_what_was_read_is_forgotten_and_the_rest_stays() -> None:
    ends = seen((100, 4), (110, 6), (120, 9))
    ends.forget(5)
    assert [ends.seconds(130, offset) for offset in (5, 6)] == [20, 10]
    # A group that begins anew: it is at least so old.
    assert ends.seconds(130, 0) == 20
    ends.forget(9)
    assert ends.last == 9
    ends.add(125, 9)
    ends.add(126, 10)
    assert ends.seconds(130, 9) == 4
    empty = Ends()
    empty.forget(5)
    assert empty.last == 0


def test_a_day_of_samples_is_few_and_tells_an_age_to_a_tenth() -> None:
    ends = Ends()
    every, count = 5.0, 24 * 720
    # Each time one record has come, just before.
    for number in range(count):
        ends.add(number * every, number + 1)
    assert len(ends._ends) == len(ends._times) <= 128
    now = (count - 1) * every
    assert ends.seconds(now, 0) == now
    assert ends.last == count
    for offset in range(0, count, 97):
        age = now - offset * every
        assert 0.9 * age - every <= ends.seconds(now, offset) <= age
