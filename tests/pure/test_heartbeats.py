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
    """Counted from when its last heartbeat was."""
    beats = Heartbeats()
    watch(beats, range(5, 21), {TWO: 10})
    assert silent(beats, 20) == set()
    assert silent(beats, 20.1) == {TWO}
    assert not beats.knows_silent(TIMEOUT)
    watch(beats, [21], {TWO: 10})
    assert silent(beats, 21) == {TWO}
    assert beats.knows_silent(TIMEOUT)
    assert not beats.knows_silent(12)


def test_a_worker_that_was_silent_before_it_was_looked_at() -> None:
    """It is known from the others how long it has been; several beats are waited for."""
    beats = Heartbeats()
    watch(beats, range(50, 54), {TWO: 3})
    assert silent(beats, 53) == set()
    assert silent(beats, 53.1) == {TWO}
    # Not as long as that one:
    beats = Heartbeats()
    watch(beats, range(50, 59), {TWO: 48})
    assert silent(beats, 58) == set()
    assert silent(beats, 58.1) == {TWO}


def test_the_others_were_heard_of_some_time_before_it_was_looked() -> None:
    """So what is known is when its last heartbeat was at the latest: best is earliest."""
    beats = Heartbeats()
    beats.note({ONE: AHEAD + 9.6, TWO: AHEAD + 4}, 10)
    assert beats.next_silent(10, TIMEOUT) == pytest.approx(14.4)
    beats.note({ONE: AHEAD + 10.9, TWO: AHEAD + 4}, 11)
    assert beats.next_silent(11, TIMEOUT) == pytest.approx(14.1)
    beats.note({ONE: AHEAD + 11.5, TWO: AHEAD + 4}, 12)
    assert beats.next_silent(12, TIMEOUT) == pytest.approx(14.1)
    assert silent(beats, 14) == set()
    assert silent(beats, 14.2) == {TWO}


def test_the_next_to_be_silent() -> None:
    beats = Heartbeats()
    assert beats.next_silent(0, TIMEOUT) == math.inf
    watch(beats, range(21), {TWO: 10, ONE: 15})
    assert beats.next_silent(20, TIMEOUT) == 20
    assert beats.next_silent(20.1, TIMEOUT) == 25
    assert beats.next_silent(25.1, TIMEOUT) == 30
    assert beats.next_silent(30.1, TIMEOUT) == math.inf
    assert beats.next_silent(20.1, math.inf) == math.inf


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
    # One that comes back is watched anew, whatever the scheduler says of it.
    watch(beats, range(13, 17), {TWO: 0})
    assert silent(beats, 16) == set()
    watch(beats, [17], {TWO: 0})
    assert silent(beats, 17) == {TWO}


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


def test_a_clock_that_is_set_ahead_makes_nobody_silent() -> None:
    """Some workers have reported since, the others do so before long."""
    beats = Heartbeats()
    watch(beats, range(5))
    beats.note({ONE: AHEAD + 1000, TWO: AHEAD + 4, THREE: AHEAD + 4}, 5)
    assert silent(beats, 5) == silent(beats, 6.9) == set()
    beats.note(dict.fromkeys((ONE, TWO, THREE), AHEAD + 1001), 6)
    assert silent(beats, 9) == set()


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [(1, 1), (49, 1), (50, 2), (199, 2), (200, 2), (400, 3), (1000, 6), (10_000, 51)],
)
def test_the_interval_of_so_many_workers(workers: int, seconds: float) -> None:
    assert interval(workers) == seconds
