"""When the user is told that there is no worker, and what."""

from __future__ import annotations

import math
from typing import Any

import distributed
import pytest

from joblib_distributed.driver import absence
from joblib_distributed.driver.absence import TELL_AFTER, Absence, tell, wait
from joblib_distributed.errors import NoWorkersError


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


# ---------------------------------------------------------------------- before the call
class Cluster:
    """Cancels tasks, then has a worker, or none; time passes when it is waited for.

    Each task is given by the seconds after which it ends, and how.
    """

    def __init__(self, *tasks: tuple[float, BaseException | None], threads: Any) -> None:
        self.now = 1000.0
        self._tasks = list(tasks)
        self._threads = iter(threads)
        self.sent = self.released = 0

    def monotonic(self) -> float:
        return self.now

    def probe(self) -> Cluster:
        assert self.released == self.sent
        self.sent += 1
        self._after, self._error = self._tasks.pop(0)
        self._after += self.now
        return self

    def result(self, timeout: float | None) -> None:
        end = math.inf if timeout is None else self.now + timeout
        self.now = min(end, self._after)
        if self._after > end:
            raise distributed.TimeoutError
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        self.released += 1

    def threads(self) -> int:
        return int(next(self._threads))


def wait_for(
    cluster: Cluster, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[int | None, int]:
    """Return the threads found, and how often the user was told."""
    told: list[str] = []
    monkeypatch.setattr(absence, "time", cluster)
    monkeypatch.setattr(absence, "tell", lambda address, _: told.append(address))
    try:
        found = wait(cluster.probe, cluster.threads, seconds, "tcp://host:1")
    except NoWorkersError:
        return None, len(told)
    finally:
        assert cluster.released == cluster.sent
    return found, len(told)


LOST = distributed.CancelledError("lost dependencies")


@pytest.mark.parametrize("seconds", [10, math.inf])
@pytest.mark.parametrize(
    ("tasks", "threads", "expected"),
    [
        ([(TELL_AFTER / 2, None)], [4], (4, 0)),
        ([(TELL_AFTER + 2, None)], [4], (4, 1)),
        ([(0, LOST), (0, None)], [0, 4], (4, 0)),
        ([(0, LOST)], [4], (4, 0)),
        ([(3, LOST), (3, LOST), (3, None)], [0, 0, 4], (4, 1)),
        ([(3, None), (3, None)], [0, 4], (4, 1)),
    ],
    ids=["soon", "told", "lost", "back", "lost again", "gone again"],
)
def test_a_worker_is_waited_for_whatever_becomes_of_the_task_that_does(
    seconds: float,
    tasks: list[Any],
    threads: list[int],
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(*tasks, threads=threads)
    assert wait_for(cluster, seconds, monkeypatch) == expected
    assert cluster.sent == len(tasks)


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("seconds", [0.5, 10.0])
def test_the_time_to_wait_is_that_of_all_tasks_together(
    seconds: float, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [*[(seconds / 4, LOST)] * lost, (math.inf, None)]
    cluster = Cluster(*tasks, threads=[0] * lost)
    assert wait_for(cluster, seconds, monkeypatch) == (None, seconds > TELL_AFTER)
    assert cluster.now == pytest.approx(1000 + seconds)
