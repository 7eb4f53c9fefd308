"""What is measured: each workload makes whole calls and returns its seconds.

Each runs in a process of its own, on workers that have been started and have imported
what they need, unless it says otherwise. ``tiny`` is for the tests of these benchmarks.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from joblib import Parallel, delayed


def nothing(number: int) -> int:
    return number


def spin(seconds: float) -> float:
    """Keep a core busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def touch(array: Any) -> float:
    """Take next to no time, so that what counts is how the array comes here."""
    return float(array[::10_000].sum())


def filled(number: int, size: int) -> Any:
    return np.full(size, number, dtype=float)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A workload, with its size."""

    #: Runs it once; given its arguments returns what it gave, which is checked.
    run: Callable[..., object]
    arguments: tuple[Any, ...]
    tiny: tuple[Any, ...]
    #: Seconds that it would take if nothing but the tasks took time, given the arguments
    #: and how many tasks run at a time; None if unknown.
    ideal: Callable[..., float] | None = None
    #: Threads of the one worker process it runs on, with backends on dask; by default it
    #: has worker processes of one thread, as many as are asked for, with any backend.
    threads: int | None = None
    #: Whether a whole program is timed, from its start to its exit.
    is_cold: bool = False
    #: Whether it is given the number of the round, too, as a seed.
    is_random: bool = False


def no_ops(tasks: int) -> None:
    found = Parallel()(delayed(nothing)(i) for i in range(tasks))
    assert found == list(range(tasks))


def short_spins(tasks: int, seconds: float) -> None:
    assert len(Parallel()(delayed(spin)(seconds) for _ in range(tasks))) == tasks


def naps(tasks: int, seconds: float) -> None:
    assert len(Parallel()(delayed(nap)(seconds) for _ in range(tasks))) == tasks


def many_calls(calls: int, tasks: int) -> None:
    for _ in range(calls):
        no_ops(tasks)


def lognormal(tasks: int, mean: float) -> list[float]:
    """Return durations with a sigma of 1.5, the same each time."""
    rng = np.random.default_rng(0)
    durations = rng.lognormal(0.0, 1.5, tasks)
    return [float(d) for d in durations * mean / durations.mean()]


def skewed(tasks: int, mean: float) -> None:
    found = Parallel()(delayed(spin)(s) for s in lognormal(tasks, mean))
    assert found == lognormal(tasks, mean)


def one_is_long(tasks: int, seconds: float, long: float, seed: int) -> list[float]:
    """Return durations of which one, at a random place, is another."""
    place = random.Random(seed).randrange(tasks)
    return [long if i == place else seconds for i in range(tasks)]


def hidden(tasks: int, seconds: float, long: float, seed: int) -> None:
    durations = one_is_long(tasks, seconds, long, seed)
    assert Parallel()(delayed(nap)(s) for s in durations) == durations


def in_order(durations: list[float], jobs: int) -> float:
    """Return the makespan if each thread takes the next task when it is free.

    Who does not know beforehand which of them is long cannot do better.
    """
    free = [0.0] * jobs
    for seconds in durations:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def first_result(tasks: int) -> None:
    results = Parallel(return_as="generator")(delayed(nothing)(i) for i in range(tasks))
    assert next(results) == 0
    results.close()


ARRAYS: dict[int, Any] = {}


def array_of(megabytes: int) -> Any:
    if megabytes not in ARRAYS:
        ARRAYS[megabytes] = (np.arange(megabytes * 125_000) % 997).astype(float)
    return ARRAYS[megabytes]


def same_array(tasks: int, megabytes: int) -> None:
    array = array_of(megabytes)
    found = Parallel()(delayed(touch)(array) for _ in range(tasks))
    assert found == [touch(array)] * tasks


def arrays_in(tasks: int, megabytes: int) -> None:
    size = megabytes * 125_000
    arrays = [np.random.default_rng().random(size) for _ in range(tasks)]
    start = time.perf_counter()
    found = Parallel()(delayed(touch)(array) for array in arrays)
    arrays_in.seconds = time.perf_counter() - start  # type: ignore[attr-defined]
    assert len(found) == tasks


def arrays_out(tasks: int, megabytes: int) -> None:
    size = megabytes * 125_000
    found = Parallel()(delayed(filled)(i, size) for i in range(tasks))
    assert [array[-1] for array in found] == list(range(tasks))


def search(candidates: int, folds: int) -> None:
    from scipy.stats import loguniform
    from sklearn.datasets import load_digits
    from sklearn.model_selection import RandomizedSearchCV
    from sklearn.svm import SVC

    X, y = load_digits(return_X_y=True)
    space = {
        "C": loguniform(1e-3, 1e4), "gamma": loguniform(1e-5, 1e0),
        "tol": loguniform(1e-4, 1e-1), "class_weight": [None, "balanced"],
    }  # fmt: skip
    RandomizedSearchCV(
        SVC(max_iter=2000), space, n_iter=candidates, cv=folds, random_state=0, n_jobs=-1
    ).fit(X, y)


def digits(candidates: int) -> None:
    """Search as a short script does, whose process ends then."""
    search(candidates, 3)


def forest(trees: int, rows: int) -> None:
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    X, y = make_classification(rows, 40, n_informative=10, random_state=0)
    RandomForestClassifier(trees, random_state=0, n_jobs=-1).fit(X, y)


def nested(trees: int) -> None:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    X, y = load_digits(return_X_y=True)
    GridSearchCV(
        RandomForestClassifier(trees, random_state=0, n_jobs=-1),
        {"max_depth": [4, 8, None], "max_features": [4, 8]}, cv=3, n_jobs=-1,
    ).fit(X, y)  # fmt: skip


WORKLOADS = {
    "20,000 no-ops": Workload(no_ops, (20_000,), (50,)),
    "20,000 spins of 100 us": Workload(
        short_spins, (20_000, 1e-4), (50, 1e-4), lambda n, s, jobs: n * s / jobs
    ),
    "400 naps of 5 ms": Workload(
        naps, (400, 0.005), (10, 0.005), lambda n, s, jobs: n * s / jobs
    ),
    "400 spins of 5 ms": Workload(
        short_spins, (400, 0.005), (10, 0.005), lambda n, s, jobs: n * s / jobs
    ),
    "100 calls of 4 no-ops": Workload(many_calls, (100, 4), (3, 4)),
    "500 lognormal spins of 20 ms": Workload(
        skewed, (500, 0.02), (10, 0.002), lambda n, s, jobs: n * s / jobs
    ),
    "2 s hidden among 2,000 of 1 ms": Workload(
        hidden, (2000, 0.001, 2.0), (20, 0.001, 0.1),
        lambda *given: in_order(one_is_long(*given[:-1]), given[-1]), is_random=True,
    ),
    "first of 1,000 results": Workload(first_result, (1000,), (50,)),
    "64 tasks with one array": Workload(same_array, (64, 256), (8, 2)),
    "32 arrays of 8 MB in": Workload(arrays_in, (32, 8), (4, 2)),
    "32 arrays of 8 MB out": Workload(arrays_out, (32, 8), (4, 2)),
    "randomized search": Workload(search, (50, 3), (2, 2)),
    "forest of 100 trees": Workload(forest, (100, 20_000), (4, 500)),
    "nested grid search": Workload(nested, (20,), (2,)),
    "cold search": Workload(digits, (10,), (2,), is_cold=True),
    "5,120 naps on 256 threads": Workload(
        naps, (5120, 0.5), (32, 0.01), lambda n, s, jobs: n * s / jobs, threads=256
    ),
}  # fmt: skip
