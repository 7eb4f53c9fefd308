"""What the calls of a process have done, and what is said of it."""

from __future__ import annotations

from joblib_distributed.command.report import report
from joblib_distributed.data.outcome import Kind, Outcome
from joblib_distributed.driver.events import (
    AttemptFailed,
    AttemptKilled,
    AttemptLost,
    Deliver,
    DeliverError,
    GoOn,
)
from joblib_distributed.driver.records import Records, Summary
from joblib_distributed.driver.tally import Tally, Work
from joblib_distributed.driver.traffic import Traffic


def test_calls_at_a_time_count_their_time_once() -> None:
    records = Records()
    assert records.summary == Summary()
    assert records.summary.efficiency is None
    records.note_start(10.0, threads=2)
    records.note_start(11.0, threads=4)
    records.note_end(12.0, Work(tasks=3, seconds=4.0), Traffic(shared=5))
    records.note_end(15.0, Work(tasks=1, seconds=6.0, deaths=1), Traffic(shared=7))
    records.note_start(20.0, threads=1)
    records.note_end(21.0, Work(errors=2, lost=1), Traffic())
    assert records.summary == Summary(
        3, 6.0, 4, Work(4, 10.0, 2, 1, 1), Traffic(shared=12)
    )
    assert records.summary.efficiency == 10 / 24


def test_a_tally_counts_tasks_and_ends() -> None:
    tally = Tally()
    plain = Outcome(Kind.VALUE, 0.5, plain=3)
    tally.note_delivered(Deliver(0, [], [Outcome(Kind.VALUE, 1.0), plain]))
    tally.note_delivered(DeliverError(1, None, OSError()))  # type: ignore[arg-type]
    in_flight = {"a", "b", "c"}
    for event in (
        AttemptKilled("a", "", 2), AttemptLost("b"), AttemptFailed("c", ""),
        AttemptLost("given up"), GoOn(),
    ):  # fmt: skip
        tally.note_heard(event, in_flight)
    assert tally.work == Work(tasks=4, seconds=1.5, errors=1, deaths=2, lost=2)


def test_a_report_says_what_there_is_to_say() -> None:
    assert report(Summary(1, 2.0, 1, Work(1, 1.5))) == (
        "joblib-distributed: 1 call, 1 task in 2.0 s; tasks took 1.5 s on 1 thread, 75% "
        "of the time that was there"
    )
    work = Work(20_000, 100.0, errors=1, deaths=1, lost=3)
    lines = report(Summary(2, 40.0, 4, work, Traffic(shared=10**6))).splitlines()
    assert lines[0].startswith("joblib-distributed: 2 calls, 20,000 tasks in 40.0 s; ")
    assert lines[1:3] == [
        "  1 task failed",
        "  1 time a worker died with tasks, 3 times the cluster lost some: they were run "
        "again",
    ]
    assert lines[3].startswith("  1.0 MB of large data shared ")
