"""Leaving the worker's thread pool, with the engine's part pretended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from joblib_distributed.driver import seceding
from joblib_distributed.driver.seceding import seceded
from joblib_distributed.worker.interrupt import Interrupted
from support.tasks import in_thread


class Pool:
    """Stands for the engine's thread pool; notes what is asked of it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        #: What the engine raises instead; None where there is a task and a pool.
        self.obstacle: Exception | None = None

    def get_worker(self) -> None:
        if isinstance(self.obstacle, ValueError):
            raise self.obstacle

    def secede(self) -> None:
        if self.obstacle is not None:
            raise self.obstacle
        self.log.append("left")

    def rejoin(self) -> None:
        self.log.append("rejoined")


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    pool = Pool()
    for name in ("get_worker", "secede", "rejoin"):
        monkeypatch.setattr(seceding, name, getattr(pool, name))
    monkeypatch.setattr(seceding, "_this_thread", seceding._ThisThread())
    return pool


def test_thread_leaves_the_pool_while_it_waits(pool: Pool) -> None:
    with seceded():
        pool.log.append("waits")
    assert pool.log == ["left", "waits", "rejoined"]


def test_thread_leaves_again_for_the_next_call(pool: Pool) -> None:
    for _ in range(2):
        with seceded():
            pass
    assert pool.log == ["left", "rejoined"] * 2


def test_call_within_a_call_does_not_leave_twice(pool: Pool) -> None:
    with seceded():
        with seceded():
            pool.log.append("waits")
        pool.log.append("still waits")
    assert pool.log == ["left", "waits", "still waits", "rejoined"]


@pytest.mark.parametrize(
    "error", [ValueError, KeyboardInterrupt, GeneratorExit, Interrupted]
)
def test_thread_rejoins_with_the_call_after_an_error(
    pool: Pool, error: type[BaseException]
) -> None:
    """Until then it is outside: who holds the other threads may wait for this one."""
    with pytest.raises(error), seceded():
        raise error
    assert pool.log == ["left"]
    with seceded():
        pool.log.append("waits")
    assert pool.log == ["left", "waits", "rejoined"]
    with seceded():
        pass
    assert pool.log == ["left", "waits", "rejoined", "left", "rejoined"]


def test_an_error_of_an_inner_call_leaves_it_to_the_outer_one(pool: Pool) -> None:
    with seceded():
        with pytest.raises(LookupError), seceded():
            raise LookupError
        pool.log.append("still waits")
    assert pool.log == ["left", "still waits", "rejoined"]


@pytest.mark.parametrize("obstacle", [ValueError(), AttributeError(), KeyError()])
def test_without_a_pool_nothing_is_done(pool: Pool, obstacle: Exception) -> None:
    """Outside of a task, or in one that has left the pool by itself."""
    pool.obstacle = obstacle
    for _ in range(2):
        with seceded():
            pool.log.append("waits")
    assert pool.log == ["waits"] * 2
    pool.obstacle = None
    with seceded():
        pass
    assert pool.log == ["waits", "waits", "left", "rejoined"]


def test_outside_of_the_engine_it_does_nothing() -> None:
    with seceded():
        pass


def test_threads_leave_each_for_itself(pool: Pool) -> None:
    def other() -> None:
        with seceded():
            pass

    with seceded():
        in_thread(other)()
    assert pool.log == ["left", "left", "rejoined", "rejoined"]


def waiting() -> Iterator[int]:
    with seceded():
        yield 1


def test_generator_closed_by_another_thread_does_not_rejoin_there(pool: Pool) -> None:
    """The garbage collector runs in any thread."""
    generator = waiting()

    def begin() -> None:
        next(generator)

    in_thread(begin)()
    assert pool.log == ["left"]
    generator.close()  # type: ignore[attr-defined]
    assert pool.log == ["left"]
    with seceded():
        pool.log.append("waits")
    assert pool.log == ["left", "left", "waits", "rejoined"]
