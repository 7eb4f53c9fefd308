"""Which workers count as being there."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from joblib_distributed.driver import attendance
from joblib_distributed.driver.attendance import Attendance
from joblib_distributed.driver.heartbeats import Heartbeats
from support.clock import FakeTime

DEADLINE = 10
FROZEN, ALIVE, GONE = "tcp://frozen:1", "tcp://alive:1", "tcp://gone:1"
FROZEN_AFTER = 10.0


class FakeScheduler:
    def __init__(self) -> None:
        self.last_seen = {FROZEN: 1.0, ALIVE: 1.0}
        self.asked = 0
        self.error: Exception | None = None

    async def ncores(self, workers: list[str]) -> dict[str, int]:
        return {worker: 1 for worker in workers if worker in self.last_seen}

    async def identity(self) -> dict[str, Any]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        workers = {a: {"last_seen": seen} for a, seen in self.last_seen.items()}
        return {"workers": workers}


class Scene:
    """A cluster, and what a client of it knows."""

    def __init__(self, clock: FakeTime) -> None:
        self.clock = clock
        self.scheduler = FakeScheduler()
        self.attendance = Attendance(self, Heartbeats())

    async def pass_time(self, seconds: float, *reporting: str) -> None:
        """Have workers report, and be looked at, after so many seconds."""
        self.clock.now += seconds
        for worker in reporting:
            self.scheduler.last_seen[worker] += seconds
        await self.is_there(ALIVE)

    async def is_there(self, worker: str, frozen_after: float = FROZEN_AFTER) -> bool:
        return await self.attendance.is_there(worker, frozen_after)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    clock = FakeTime()
    monkeypatch.setattr(attendance, "time", clock)

    def run(act: Callable[[Scene], Awaitable[None]]) -> None:
        async def scene() -> None:
            await act(Scene(clock))

        asyncio.run(asyncio.wait_for(scene(), DEADLINE))

    return run


def test_who_does_not_report_is_not_there(run: Callable[[Any], None]) -> None:
    """Nobody else looks: all tasks of the call wait for what is brought."""

    async def act(scene: Scene) -> None:
        assert await scene.is_there(FROZEN)
        assert not await scene.is_there(GONE)
        for _ in range(10):
            await scene.pass_time(1, ALIVE)
            assert await scene.is_there(FROZEN)
        await scene.pass_time(1, ALIVE)
        assert not await scene.is_there(FROZEN)
        assert await scene.is_there(FROZEN, math.inf)
        assert await scene.is_there(ALIVE)

    run(act)


def test_nobody_is_given_up_if_nobody_reports(run: Callable[[Any], None]) -> None:
    async def act(scene: Scene) -> None:
        for _ in range(20):
            await scene.pass_time(1)
        assert await scene.is_there(FROZEN)

    run(act)


def test_heartbeats_are_looked_at_once_for_all_who_ask(
    run: Callable[[Any], None],
) -> None:
    async def act(scene: Scene) -> None:
        for looks in (1, 1, 2):
            await asyncio.gather(*(scene.is_there(ALIVE) for _ in range(5)))
            assert scene.scheduler.asked == looks
            scene.clock.now += attendance.LOOK_INTERVAL / 2

    run(act)


def test_who_cannot_be_told_of_is_waited_for(run: Callable[[Any], None]) -> None:
    async def act(scene: Scene) -> None:
        scene.scheduler.error = OSError("cut")
        assert await scene.is_there(FROZEN)
        scene.scheduler.error = None
        await scene.is_there(FROZEN)
        assert scene.scheduler.asked == 2

    run(act)


def test_a_client_is_not_kept(run: Callable[[Any], None]) -> None:
    async def act(scene: Scene) -> None:
        kept = Attendance(FakeScheduler(), Heartbeats())
        gc.collect()
        with pytest.raises(OSError, match="the client is gone"):
            await kept.is_there(ALIVE, FROZEN_AFTER)

    run(act)
