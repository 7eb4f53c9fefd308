"""Which workers count as silent, and from when on."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from joblib_distributed.driver.heartbeats import FRESH, MISSED, Heartbeats, interval

ONE, TWO, THREE = "tcp://one:1", "tcp://two:1", "tcp://three:1"

#: The scheduler's clock is ahead of ours by so many seconds.
AHEAD = 1e9

TIMEOUT = 10.0


def watch(
    beats: Heartbeats, seconds: Iterable[int], last: dict[str, float] | None = None
) -> None:
    """Note each second that the workers report, but for those who last did at `last`."""
    last = last or {}
    for now in seconds:
        seen = {a: AHEAD + min(now, last.get(a, math.inf)) for a in (ONE, TWO, THREE)}
        beats.note(seen, now)


def silent(beats: Heartbeats, now: float, timeout: float = TIMEOUT) -> set[str]:
    return set(beats.silent(now, timeout))


def test_nothing_is_known_at_first() -> None:
    beats = Heartbeats()
    assert silent(beats, 0) == silent(beats, 1000) == set()
    assert not beats.knows_silent(TIMEOUT)
    assert beats.others(frozenset()) == []


def test_workers_that_report_are_not_silent() -> None:
    beats = Heartbeats()
    for now in range(100):
        watch(beats, [now])
        assert silent(beats, now) == set()
        assert not beats.knows_silent(TIMEOUT)


def test_a_worker_that_stops_is_silent_after_the_timeout() -> None:
    """Counted from when its last heartbeat was first noted, on our own clock."""
    beats = Heartbeats()
    watch(beats, range(5, 21), {TWO: 10})
    assert silent(beats, 20) == set()
    assert silent(beats, 20.1) == {TWO}
    assert not beats.knows_silent(TIMEOUT)
    watch(beats, [21], {TWO: 10})
    assert silent(beats, 21) == {TWO}
    assert beats.knows_silent(TIMEOUT)
    assert not beats.knows_silent(12)


def test_a_worker_is_given_the_timeout_from_the_first_note_on() -> None:
    """Of when its last heartbeat was before, on our clock, nothing is known."""
    beats = Heartbeats()
    watch(beats, range(50, 61), {TWO: 3})
    assert silent(beats, 60) == set()
    watch(beats, [61], {TWO: 3})
    assert silent(beats, 61) == {TWO}


def test_all_may_be_silent() -> None:
    beats = Heartbeats()
    watch(beats, range(12), {ONE: 0, TWO: 0, THREE: 0})
    assert silent(beats, 11) == {ONE, TWO, THREE}
    assert beats.others(beats.silent(11, TIMEOUT)) == []


@pytest.mark.parametrize("timeout", [0.0, 0.5, 3.0])
def test_a_short_timeout_is_that_of_some_heartbeats(timeout: float) -> None:
    assert MISSED == 3
    beats = Heartbeats()
    beats.note({ONE: AHEAD}, 0)
    beats.note({ONE: AHEAD}, 3)
    # A few report each second, or twice.
    assert silent(beats, 3, timeout) == set()
    assert silent(beats, 3.1, timeout) == {ONE}


def test_workers_report_less_often_the_more_there_are() -> None:
    workers = {f"tcp://{n}:1": AHEAD for n in range(1000)}
    beats = Heartbeats()
    beats.note(workers, 0)
    beats.note(workers, 17)
    # A thousand report every 6 seconds.
    assert silent(beats, 18) == set()
    assert silent(beats, 18.1) == workers.keys()
    assert silent(beats, 19, timeout=20) == set()


def test_what_was_noted_is_soon_not_believed() -> None:
    assert FRESH == 3.0
    beats = Heartbeats()
    watch(beats, range(12), {TWO: 0})
    assert silent(beats, 11 + FRESH) == {TWO}
    assert silent(beats, 11 + FRESH + 0.1) == set()
    # But that there was one is known, so that it is looked again.
    assert beats.knows_silent(TIMEOUT)


def test_a_worker_still_silent_at_a_later_look_is_so_at_once() -> None:
    beats = Heartbeats()
    watch(beats, range(12), {TWO: 0})
    watch(beats, [1000], {TWO: 0})
    assert silent(beats, 1000) == {TWO}


def test_nobody_is_silent_for_not_having_been_looked_at() -> None:
    beats = Heartbeats()
    watch(beats, [0, 1000])
    assert silent(beats, 1000) == silent(beats, 1003) == set()


def test_a_worker_that_thaws_is_silent_no_more() -> None:
    beats = Heartbeats()
    watch(beats, range(12), {TWO: 0})
    assert silent(beats, 11) == {TWO}
    watch(beats, [12])
    assert silent(beats, 12) == set()
    assert not beats.knows_silent(TIMEOUT)
    # When it stops again it has all of the time again.
    watch(beats, range(13, 23), {TWO: 12})
    assert silent(beats, 22) == set()
    watch(beats, [23], {TWO: 12})
    assert silent(beats, 23) == {TWO}


def test_a_worker_that_leaves_is_forgotten() -> None:
    beats = Heartbeats()
    watch(beats, range(12), {TWO: 0})
    beats.note({ONE: AHEAD + 12, THREE: AHEAD + 12}, 12)
    assert silent(beats, 12) == set()
    assert beats.others(frozenset()) == sorted([ONE, THREE])
    assert not beats.knows_silent(TIMEOUT)
    # One that comes back has all of the time, whatever the scheduler says of it.
    watch(beats, range(13, 24), {TWO: 0})
    assert silent(beats, 23) == set()
    watch(beats, [24], {TWO: 0})
    assert silent(beats, 24) == {TWO}


def test_nobody_is_silent_for_an_infinite_timeout() -> None:
    beats = Heartbeats()
    watch(beats, [0, 10**6], {ONE: 0, TWO: 0, THREE: 0})
    assert silent(beats, 10**6, math.inf) == set()
    assert not beats.knows_silent(math.inf)
    assert silent(beats, 10**6, 10**6 - 1) == {ONE, TWO, THREE}


def test_the_others_are_those_that_report() -> None:
    beats = Heartbeats()
    watch(beats, range(12), {TWO: 0})
    assert beats.others(beats.silent(11, TIMEOUT)) == [ONE, THREE]
    assert beats.others(frozenset()) == sorted([ONE, TWO, THREE])
    assert beats.others(frozenset({"tcp://unknown:1"})) == sorted([ONE, TWO, THREE])


def test_what_is_said_to_one_stays_its_own() -> None:
    """The mapping noted may be the caller's to change."""
    seen = {ONE: AHEAD}
    beats = Heartbeats()
    beats.note(seen, 0)
    beats.note(seen, 11)
    assert seen == {ONE: AHEAD}
    seen.clear()
    assert silent(beats, 11) == {ONE}


def test_a_heartbeat_of_before_counts_as_one() -> None:
    """The scheduler's clock may be set back: what differs is a sign of life."""
    beats = Heartbeats()
    beats.note({ONE: AHEAD}, 0)
    beats.note({ONE: AHEAD - 100}, 11)
    assert silent(beats, 11) == set()


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [(1, 1), (49, 1), (50, 2), (199, 2), (200, 2), (400, 3), (1000, 6), (10_000, 51)],
)
def test_the_interval_of_so_many_workers(workers: int, seconds: float) -> None:
    assert interval(workers) == seconds
