"""Which way a worker is asked: directly, or through the scheduler."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Coroutine
from typing import Any

import pytest

from joblib_distributed.driver import reach
from joblib_distributed.driver.reach import INDIRECT_FOR, Reach

DEADLINE = 10
ADDRESS = "tcp://there:1"
DIRECTLY = "directly"
BY_PROXY = "through the scheduler"


class FakeWorker:
    """A worker's own connection, on which it answers when the test lets it."""

    def __init__(self) -> None:
        self.probes = 0
        self.answers = asyncio.Event()
        self.error: OSError | None = None

    async def identity(self) -> None:
        self.probes += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error

    async def look(self, **_: object) -> str:
        return DIRECTLY


class FakeScheduler:
    async def proxy(self, msg: dict[str, Any], worker: str) -> str:
        assert (msg, worker) == ({"op": "look", "at": 1}, ADDRESS)
        return BY_PROXY


class FakeClient:
    def __init__(self) -> None:
        self.worker = FakeWorker()
        self.scheduler = FakeScheduler()

    def rpc(self, address: str) -> FakeWorker:
        assert address == ADDRESS
        return self.worker


class FakeTime:
    """The module `time`, as far as it is used; stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(reach, "time", clock)
    # What a test does not let answer never does, and nobody waits for it by chance.
    monkeypatch.setattr(reach, "DIRECT_TIMEOUT", math.inf)
    monkeypatch.setattr(reach, "DIRECT_GRACE", 0.0)
    return clock


def run(test: Coroutine[Any, Any, None]) -> None:
    async def within_deadline() -> None:
        await asyncio.wait_for(test, DEADLINE)

    asyncio.run(within_deadline())


async def asked(workers: Reach) -> object:
    return await workers.ask(ADDRESS, "look", at=1)


async def probed(workers: Reach) -> None:
    """Return when the probe that is under way has ended."""
    (probe,) = workers._probes
    await probe
    assert not await asyncio.sleep(0)  # its callbacks run, too
    assert not workers._probes


@pytest.mark.usefixtures("clock")
def test_a_worker_that_answers_within_the_grace_is_asked_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reach, "DIRECT_GRACE", math.inf)

    async def test() -> None:
        client = FakeClient()
        client.worker.answers.set()
        assert await asked(Reach(client)) == DIRECTLY

    run(test())


def test_until_it_has_answered_the_scheduler_is_asked(clock: FakeTime) -> None:
    async def test() -> None:
        client = FakeClient()
        workers = Reach(client)
        for _ in range(3):  # one probe, whose grace is over, serves all
            assert await asked(workers) == BY_PROXY
        assert client.worker.probes == 1
        client.worker.answers.set()
        await probed(workers)
        clock.now += 1e6  # once is for ever
        assert await asked(workers) == DIRECTLY
        assert client.worker.probes == 1

    run(test())


def test_one_that_cannot_be_reached_is_not_probed_for_a_while(clock: FakeTime) -> None:
    async def test() -> None:
        client = FakeClient()
        workers = Reach(client)
        client.worker.error = OSError("no route to host")
        assert await asked(workers) == BY_PROXY
        client.worker.answers.set()
        await probed(workers)
        clock.now += INDIRECT_FOR
        assert await asked(workers) == BY_PROXY
        assert client.worker.probes == 1
        clock.now += 0.1
        client.worker.error = None
        client.worker.answers.clear()
        assert await asked(workers) == BY_PROXY
        assert client.worker.probes == 2
        client.worker.answers.set()
        await probed(workers)
        assert await asked(workers) == DIRECTLY

    run(test())


def test_an_error_that_nobody_waits_for_any_more_is_not_logged(clock: FakeTime) -> None:
    async def test() -> None:
        client = FakeClient()
        asked, failing = asyncio.Event(), asyncio.Event()
        logged: list[Any] = []

        async def fail(msg: object, worker: str) -> str:
            asked.set()
            await failing.wait()
            raise OSError("gone")

        client.scheduler.proxy = fail  # type: ignore[method-assign]
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: logged.append(context)
        )
        asking = asyncio.create_task(Reach(client).ask(ADDRESS, "look", at=1))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        failing.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del asking
        gc.collect()
        assert logged == []

    run(test())


def test_not_more_workers_are_remembered_than_clusters_have(
    clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "REMEMBERED", 3)

    async def test() -> None:
        client = FakeClient()
        client.worker.answers.set()
        monkeypatch.setattr(client, "rpc", lambda address: client.worker)
        workers = Reach(client)
        for number in range(10):
            await workers._reaches(f"tcp://there:{number}")
            await asyncio.gather(*workers._probes)
        assert list(workers._is_direct) == [f"tcp://there:{n}" for n in (7, 8, 9)]

    run(test())
