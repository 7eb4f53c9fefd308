"""The simulated cluster that benchmarks run the driver's decisions on."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
try:
    from simulation import Outcomes, Setting, Simulation, list_schedule
finally:
    del sys.path[0]

SMALL = Setting(threads=8, tasks=2000, mean=0.01)


def run(**changes: Any) -> Outcomes:
    """Run a small simulation, but for the time that this machine takes."""
    found = Simulation(dataclasses.replace(SMALL, **changes)).run()
    return dataclasses.replace(found, cpu=0.0)


def test_a_seed_gives_the_same_run_and_another_seed_another() -> None:
    first = run(joins=3, deaths=3)
    assert run(joins=3, deaths=3) == first
    assert run(joins=3, deaths=3, seed=1) != first


@pytest.mark.parametrize(
    ("durations", "threads", "makespan"),
    [([1, 1, 1, 1], 2, 2), ([3, 1, 1, 1], 2, 3), ([1, 1, 1, 3], 2, 4), ([5], 3, 5)],
)
def test_each_thread_takes_the_next_task(
    durations: list[float], threads: int, makespan: float
) -> None:
    assert list_schedule(durations, threads) == makespan


@pytest.mark.parametrize("distribution", ["lognormal", "constant", "exponential"])
def test_all_tasks_are_run_once(distribution: str) -> None:
    found = run(distribution=distribution)
    assert found.begun == SMALL.tasks
    assert found.bound <= found.listed * (1 + 1e-9)  # a sum of as many numbers
    assert found.bound <= found.makespan * (1 + 1e-9)
    assert 0 < found.batches < SMALL.tasks


def test_with_nothing_to_pay_for_a_batch_all_is_as_soon_as_it_can_be() -> None:
    """All tasks alike: but for the last of them, which are not shared out evenly."""
    free = run(distribution="constant", scheduler_cost=0, driver_cost=0, latency=0)
    assert free.bound == pytest.approx(SMALL.tasks * SMALL.mean / SMALL.threads)
    assert free.makespan <= free.bound + 4 * SMALL.mean


def test_what_died_is_run_again() -> None:
    assert run(deaths=10).begun > SMALL.tasks


def test_threads_that_join_are_used() -> None:
    long = {"mean": 0.5, "distribution": "constant", "threads": 2, "tasks": 400}
    alone, joined = run(**long), run(**long, joins=6)
    assert joined.makespan < 0.6 * alone.makespan


def test_a_scheduler_that_is_slow_is_asked_for_less_than_it_can_do() -> None:
    slow = run(scheduler_cost=0.02, threads=50, tasks=5000, mean=0.1)
    assert slow.batches * 0.02 < slow.makespan
