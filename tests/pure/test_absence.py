"""When the user is told that there is no worker, and what."""

from __future__ import annotations

import math

import pytest

from joblib_distributed.driver.absence import TELL_AFTER, Absence, tell


def test_it_is_told_once_each_time() -> None:
    absence = Absence()
    times = [0.0, TELL_AFTER / 2, TELL_AFTER, TELL_AFTER + 1, TELL_AFTER + 100]
    assert [absence.is_to_be_told(0, now) for now in times] == [
        False, False, True, False, False,
    ]  # fmt: skip
    assert not absence.is_to_be_told(4, 200.0)
    assert [absence.is_to_be_told(0, 300.0 + now) for now in times] == [
        False, False, True, False, False,
    ]  # fmt: skip


def test_a_worker_that_comes_back_soon_is_not_missed() -> None:
    absence = Absence()
    told = [
        absence.is_to_be_told(threads, now)
        for now in (0.0, 10.0, 20.0)
        for threads in (0, 1)
    ]
    assert told == [False] * 6


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (
            10,
            "joblib_distributed: the scheduler at tcp://host:1 has no worker. Waiting "
            "for one for up to 10 seconds (wait_for_workers_timeout=10); tasks go on "
            "when it is there.\n",
        ),
        (
            math.inf,
            "joblib_distributed: the scheduler at tcp://host:1 has no worker. Waiting "
            "for one (wait_for_workers_timeout=inf); tasks go on when it is there.\n",
        ),
    ],
)
def test_what_is_told(
    seconds: float, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell("tcp://host:1", seconds)
    assert capsys.readouterr().err == expected
