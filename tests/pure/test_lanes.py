"""When each thread will have done what it was sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblib_distributed.driver.lanes import Lanes, level

MEAN = 0.01


def sent(*sizes: int, threads: int = 2) -> Lanes:
    """Return lanes of batches ``"0"``, ``"1"`` and so on, all sent at 100 seconds."""
    lanes = Lanes()
    for number, size in enumerate(sizes):
        lanes.send(str(number), size, 100.0, MEAN, threads)
    return lanes


def test_threads_that_were_sent_nothing_are_free() -> None:
    assert Lanes().loads(100.0, MEAN, 3) == [0.0, 0.0, 0.0]


def test_each_thread_is_sent_one_batch_before_any_is_sent_another() -> None:
    lanes = sent(5, 7)
    assert lanes.loads(100.0, MEAN, 2) == pytest.approx([0.05, 0.07])
    lanes.send("2", 1, 100.0, MEAN, 2)
    assert lanes.loads(100.0, MEAN, 2) == pytest.approx([0.07, 0.06])


def test_the_next_one_is_where_there_are_fewest_though_that_is_not_where_least_is() -> (
    None
):
    lanes = sent(100, 1, 1)
    assert lanes.loads(100.0, MEAN, 2) == pytest.approx([1.0, 0.02])
    lanes.send("3", 5, 100.0, MEAN, 2)
    assert lanes.loads(100.0, MEAN, 2) == pytest.approx([0.02, 1.05])


def test_what_runs_gets_less_and_never_less_than_nothing() -> None:
    lanes = sent(5, 7)
    assert lanes.loads(100.04, MEAN, 2) == pytest.approx([0.01, 0.03])
    assert lanes.loads(100.06, MEAN, 2) == pytest.approx([0.0, 0.01])


def test_what_waits_does_not_get_less() -> None:
    lanes = sent(5, 7, 3, 4)
    assert lanes.loads(100.5, MEAN, 2) == pytest.approx([0.03, 0.04])


def test_when_one_ends_the_next_one_begins() -> None:
    lanes = sent(5, 7, 3, 4)
    lanes.end("0", 100.2)
    assert lanes.loads(100.2, MEAN, 2) == pytest.approx([0.03, 0.04])
    assert lanes.loads(100.21, MEAN, 2) == pytest.approx([0.02, 0.04])


def test_one_that_ends_before_what_is_ahead_of_it_is_taken_out() -> None:
    lanes = sent(5, 7, 3, 4)
    lanes.end("2", 100.02)
    assert lanes.loads(100.02, MEAN, 2) == pytest.approx([0.03, 0.09])


def test_what_begins_after_nothing_begins_when_it_is_sent() -> None:
    lanes = sent(5)
    lanes.end("0", 100.05)
    lanes.send("1", 5, 107.0, MEAN, 2)
    assert lanes.loads(107.01, MEAN, 2) == pytest.approx([0.0, 0.04])


def test_what_was_never_sent_or_has_ended_is_passed_over() -> None:
    lanes = sent(5)
    lanes.end("never", 101.0)
    lanes.end("0", 101.0)
    lanes.end("0", 102.0)
    assert lanes.loads(102.0, MEAN, 2) == [0.0, 0.0]


def test_threads_may_join() -> None:
    assert sent(5, 7).loads(100.0, MEAN, 3) == pytest.approx([0.0, 0.05, 0.07])


def test_the_mean_may_turn_out_to_be_another() -> None:
    assert sent(5, 7).loads(100.0, 2 * MEAN, 2) == pytest.approx([0.1, 0.14])


def test_all_can_be_forgotten() -> None:
    lanes = sent(5, 7)
    lanes.clear()
    assert lanes.loads(100.0, MEAN, 2) == [0.0, 0.0]
    lanes.end("0", 100.0)


@pytest.mark.parametrize(
    ("loads", "work", "expected"),
    [
        ([0.0, 0.0], 4.0, 2.0),
        ([1.0, 0.0], 4.0, 2.5),
        ([0.0, 9.0], 4.0, 4.0),
        ([9.0, 0.0, 1.0], 3.0, 2.0),
        ([1.0, 1.0], 0.0, 1.0),
        ([3.0, 1.0], 0.0, 1.0),
        ([], 4.0, 4.0),
    ],
)
def test_work_is_shared_out_so_that_all_end_together(
    loads: list[float], work: float, expected: float
) -> None:
    assert level(loads, work) == pytest.approx(expected)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=10),
    st.floats(min_value=0, max_value=1000),
)
def test_what_is_filled_up_to_the_level_is_the_work(
    loads: list[float], work: float
) -> None:
    found = level(loads, work)
    assert sum(max(0.0, found - load) for load in loads) == pytest.approx(work, abs=1e-6)


def test_what_was_taken_back_is_not_to_be_done() -> None:
    lanes = sent(5, 7)
    lanes.keep("1", 2)
    lanes.keep("never", 9)
    assert lanes.loads(100.0, MEAN, 2) == pytest.approx([0.02, 0.05])
