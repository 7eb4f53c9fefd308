"""How far tasks are read ahead, and how long the first of them wait for others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from joblib_distributed.driver import ahead
from joblib_distributed.driver.ahead import ReadAhead


class Reader:
    """A `ReadAhead` whose other thread is done by hand."""

    def __init__(self, batches: int, lacking: int) -> None:
        self.left = batches
        self.lacking = lacking
        self.jobs: list[Callable[[], object]] = []
        self.is_idle = True
        self.woken = 0
        self.ahead = ReadAhead(
            self.hand_over,
            self.jobs.append,
            lambda: self.is_idle,
            lambda: self.lacking > 0,
            self.wake,
        )
        self.ahead.reads = True

    def hand_over(self, batches: int) -> int:
        done = min(batches, self.left)
        self.left -= done
        self.lacking -= done
        return done

    def wake(self) -> None:
        self.woken += 1

    def run(self) -> int:
        """Do what is scheduled, and what that schedules; return how much that was."""
        done = 0
        while self.jobs:
            self.jobs.pop(0)()
            done += 1
        return done


def test_what_is_lacking_is_read() -> None:
    reader = Reader(batches=100, lacking=3)
    reader.ahead.go_on()
    assert reader.run() == 3
    assert (reader.left, reader.lacking, reader.woken) == (97, 0, 1)
    assert reader.ahead.reads


def test_reading_is_scheduled_once() -> None:
    reader = Reader(batches=100, lacking=3)
    reader.ahead.go_on()
    reader.ahead.go_on()
    assert len(reader.jobs) == 1


def test_nothing_is_read_during_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(ahead.time, "monotonic", lambda: now)
    reader = Reader(batches=100, lacking=3)
    assert reader.ahead.due == math.inf
    reader.ahead.go_on(pause=True)
    assert (reader.run(), reader.ahead.due) == (0, now + ahead.PAUSE)
    now += 0.9 * ahead.PAUSE
    reader.ahead.go_on()
    assert reader.run() == 0
    now += 0.2 * ahead.PAUSE
    reader.ahead.go_on()
    assert (reader.run(), reader.ahead.due, reader.left) == (3, math.inf, 97)


def test_what_has_been_read_to_its_end_is_not_read_again() -> None:
    reader = Reader(batches=2, lacking=10)
    reader.ahead.go_on()
    assert reader.run() == 3
    assert (reader.woken, reader.ahead.reads) == (1, False)
    reader.ahead.go_on()
    assert reader.jobs == []


def test_deliveries_go_first() -> None:
    reader = Reader(batches=100, lacking=3)
    reader.is_idle = False
    reader.ahead.go_on()
    assert (reader.run(), reader.left) == (1, 100)
    reader.is_idle = True
    reader.ahead.go_on()
    assert (reader.run(), reader.left) == (3, 97)


@pytest.mark.parametrize(("reads", "lacking"), [(False, 3), (True, 0)])
def test_nothing_is_read_without_need(reads: bool, lacking: int) -> None:
    reader = Reader(batches=100, lacking=lacking)
    reader.ahead.reads = reads
    reader.ahead.go_on()
    assert reader.jobs == []


def test_threads_that_join_get_two_batches_each() -> None:
    reader = Reader(batches=100, lacking=0)
    reader.ahead.planned_for = 2
    for threads in (2, 5, 5, 4):
        reader.ahead.follow(threads)
    assert (reader.run(), reader.left) == (1, 94)


def test_threads_are_not_followed_unless_planned_for() -> None:
    reader = Reader(batches=100, lacking=0)
    reader.ahead.follow(5)
    assert reader.jobs == []


# --------------------------------------------------------------------- the first tasks
def test_the_first_tasks_wait_for_those_that_are_read_and_no_longer() -> None:
    reader = Reader(batches=100, lacking=2)
    before = time.monotonic()
    until = reader.ahead.hold()
    assert before + ahead.HOLD <= until <= time.monotonic() + ahead.HOLD
    assert reader.ahead.hold() == until  # nor does it begin anew
    reader.ahead.go_on()
    reader.run()
    assert reader.ahead.hold() == 0


def test_the_first_tasks_do_not_wait_for_nothing() -> None:
    assert Reader(batches=100, lacking=0).ahead.hold() == 0
    ended = Reader(batches=0, lacking=10)
    ended.ahead.go_on()
    ended.run()
    assert (ended.ahead.hold(), ended.woken) == (0, 1)
