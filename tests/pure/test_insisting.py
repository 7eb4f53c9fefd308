"""How long a scheduler is asked that does not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from joblib_distributed.driver import reconnecting
from joblib_distributed.driver.reconnecting import INSIST_FOR, PAUSE, TRIES, insist
from joblib_distributed.errors import ClusterClosedError, SchedulerUnreachableError


class Client:
    scheduler = SimpleNamespace(address="an address")


class Scheduler:
    """Answers in the end, after so many failures that take so long."""

    def __init__(self, failures: int, seconds: float, error: Exception) -> None:
        self.now = 0.0
        self.asked = 0
        self._failures = failures
        self._seconds = seconds
        self._error = error

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def answer(self) -> str:
        self.asked += 1
        self.now += self._seconds
        if self.asked <= self._failures:
            raise self._error
        return "answer"


@pytest.fixture
def scheduler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    scheduler = Scheduler(*request.param)
    clock = SimpleNamespace(monotonic=scheduler.monotonic, sleep=scheduler.sleep)
    monkeypatch.setattr(reconnecting, "time", clock)
    return scheduler


@pytest.mark.parametrize(
    "scheduler",
    [
        (0, 0.0, OSError()),
        (1, 1.0, OSError()),
        # As many connections in stock, all of which are dead.
        (int(INSIST_FOR / PAUSE) - 1, 0.0, OSError("reset")),
        # Silent for long, as often as that counts as one that may come back.
        (TRIES - 1, INSIST_FOR, RuntimeError()),
    ],
    indirect=True,
)
def test_what_fails_is_asked_again(scheduler: Scheduler) -> None:
    assert insist(Client(), scheduler.answer, lambda: False, "an address") == "answer"


@pytest.mark.parametrize(
    ("scheduler", "tries"),
    [
        ((1000, INSIST_FOR, OSError("reset")), TRIES),
        ((1000, 0.0, OSError("reset")), int(INSIST_FOR / PAUSE) + 1),
    ],
    indirect=["scheduler"],
)
def test_one_that_never_answers_is_given_up(scheduler: Scheduler, tries: int) -> None:
    with pytest.raises(SchedulerUnreachableError, match=r"at an address did .*'reset'"):
        insist(Client(), scheduler.answer, lambda: False, "an address")
    assert abs(scheduler.asked - tries) <= 1, "steps of 0.1 s do not add up exactly"


@pytest.mark.parametrize("scheduler", [(1000, 0.0, OSError("gone"))], indirect=True)
def test_a_client_that_is_closed_is_not_asked_again(scheduler: Scheduler) -> None:
    with pytest.raises(ClusterClosedError, match="at an address was closed while"):
        insist(Client(), scheduler.answer, lambda: True, "an address")
    assert scheduler.asked == 1


@pytest.mark.parametrize("scheduler", [(1000, 0.0, KeyError("ours"))], indirect=True)
def test_an_error_of_another_kind_is_raised(scheduler: Scheduler) -> None:
    with pytest.raises(KeyError):
        insist(Client(), scheduler.answer, lambda: False, "an address")
    assert scheduler.asked == 1
