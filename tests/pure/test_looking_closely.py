"""Looks in short succession while a worker is about to count as silent."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest

from joblib_distributed.driver import looks
from joblib_distributed.driver.looks import Look, look_closely

FROZEN_AFTER = 10.0


class Beats:
    """Says that a worker will be silent in so many seconds; then that none will."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = iter(seconds)

    def next_silent(self, now: float, timeout: float) -> float:
        assert timeout == FROZEN_AFTER
        return now + next(self._seconds, math.inf)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Look | None]:
    """What the looks to come find."""
    found: list[Look | None] = []

    async def look(client: Any, keys: Any, beats: Any, frozen_after: float) -> Any:
        assert (client, keys, frozen_after) == ("client", ["a", "b"], FROZEN_AFTER)
        return found.pop(0)

    monkeypatch.setattr(looks, "look", look)
    return found


def closely(beats: Beats, *keys: str) -> Look | None:
    return asyncio.run(look_closely("client", list(keys), beats, FROZEN_AFTER))  # type: ignore[arg-type]


NOTHING = Look({"a": "processing", "b": "memory"}, 4, frozenset())
FOUND = NOTHING._replace(silent=frozenset("b"))


def test_what_is_silent_is_told_alone(answers: list[Look | None]) -> None:
    """What else was seen has been told by the look before."""
    answers += [NOTHING, NOTHING, FOUND]
    assert closely(Beats(0.02, 0.01, 0.0), "a", "b") == Look(
        {"b": "memory"}, 4, frozenset("b")
    )
    assert answers == []


def test_nothing_is_asked_if_nobody_is_about_to_be_silent(
    answers: list[Look | None],
) -> None:
    assert closely(Beats(), "a", "b") is None
    assert closely(Beats(looks.SOON + 1), "a", "b") is None
    assert closely(Beats(0.0)) is None  # there is nothing that might be held
    assert answers == []


def test_it_ends_when_the_worker_is_heard_of(answers: list[Look | None]) -> None:
    answers += [NOTHING]
    assert closely(Beats(0.0, 9.0), "a", "b") is None
    assert answers == []


def test_it_ends_when_the_scheduler_does_not_answer(answers: list[Look | None]) -> None:
    answers += [None]
    assert closely(Beats(0.0, 0.0), "a", "b") is None
    assert answers == []


def test_it_is_looked_when_it_is_time(
    answers: list[Look | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before, as the time may turn out to be earlier."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    answers += [NOTHING, FOUND]
    assert closely(Beats(0.9, 0.1), "a", "b") is not None
    assert waits == [looks.CLOSE_INTERVAL, pytest.approx(0.101)]
