"""Random calls with exact expected results: see ``tools/chaos.py``.

Each takes a random stream of its own, makes one call, or one of each kind of return, and
returns how many results were delivered. What a call draws does not depend on what becomes
of it, so that the same stream makes the same calls again.
"""

from __future__ import annotations

import functools
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import joblib
import numpy as np
from joblib import Parallel, delayed

from support.tasks import fail_at, run_for

#: Seconds that a task takes. Together they are long enough for a call to be hit.
NAPS = (0.0, 0.0, 0.002, 0.02, 0.1)

#: Elements of an array that is worth sharing: 4 MB.
LARGE = 500_000

#: Different large arrays: few, so that a buffer is also one that a host has, or had.
ARRAYS = 6


class WrongResultError(AssertionError):
    """A result that is not the task's, or one that arrived twice."""


class LostResultError(AssertionError):
    """A result that has not arrived, though its call has ended."""


# ------------------------------------------------------------------------------ the tasks
def double(x: int, nap: float = 0.0) -> int:
    if nap:
        time.sleep(nap)
    return 2 * x


def at(array: Any, index: int, nap: float = 0.0) -> int:
    if nap:
        time.sleep(nap)
    return int(array[index]) + array.size


def counted_from(start: int, size: int) -> Any:
    return np.arange(start, start + size)


def inner(number: int, count: int, given: Any, nap: float) -> list[int]:
    """Run a nested call."""
    numbers = range(number * 100, number * 100 + count)
    if given is None:
        return list(Parallel(n_jobs=2)(delayed(double)(i, nap) for i in numbers))
    return list(Parallel(n_jobs=2)(delayed(at)(given, i, nap) for i in numbers))


# ------------------------------------------------------------------------------- checking
@functools.lru_cache(maxsize=ARRAYS)
def large_array(number: int) -> Any:
    """Return one of the arrays: it is the same object each time."""
    return np.arange(number, number + LARGE)


def check(found: Iterable[Any], expected: list[Any]) -> int:
    """Compare what was delivered, in order; return its number."""
    arrived = list(found)
    if len(arrived) < len(expected):
        raise LostResultError(
            f"{len(arrived)} of {len(expected)} results: {arrived!r:.300}"
        )
    if len(arrived) > len(expected):
        raise WrongResultError(f"{len(arrived)} results, not {len(expected)}")
    for number, (one, other) in enumerate(zip(arrived, expected, strict=True)):
        if not _same(one, other):
            raise WrongResultError(f"result {number}: {one!r:.200}, not {other!r:.200}")
    return len(arrived)


def check_unordered(found: Iterable[int], expected: list[int]) -> int:
    """Compare what was delivered, in any order; return its number."""
    arrived = Counter(found)
    wanted = Counter(expected)
    if arrived - wanted:
        raise WrongResultError(f"not expected: {dict(arrived - wanted)!r:.300}")
    if wanted - arrived:
        raise LostResultError(f"not delivered: {dict(wanted - arrived)!r:.300}")
    return len(expected)


def _same(one: Any, other: Any) -> bool:
    if isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and bool(np.array_equal(one, other))
    return bool(one == other)


# ------------------------------------------------------------------------------ the calls
def plain(rng: random.Random) -> int:
    n, nap = rng.choice([1, 2, 7, 50, 400]), rng.choice(NAPS)
    n = min(n, 50) if nap >= 0.02 else n
    parallel = Parallel(
        n_jobs=rng.choice([2, 3, -1, -2]),
        batch_size=rng.choice(["auto", "auto", 1, 5]),
        pre_dispatch=rng.choice(["2*n_jobs", "all", 3]),
    )
    found = parallel(delayed(double)(i, nap) for i in range(n))
    return check(found, [2 * i for i in range(n)])


def generator(rng: random.Random) -> int:
    n, nap = rng.choice([1, 20, 200]), rng.choice(NAPS[:4])
    found = Parallel(n_jobs=rng.choice([2, -1]), return_as="generator")(
        delayed(double)(i, nap) for i in range(n)
    )
    return check(found, [2 * i for i in range(n)])


def unordered(rng: random.Random) -> int:
    n, nap = rng.choice([1, 20, 200]), rng.choice(NAPS[:4])
    found = Parallel(n_jobs=rng.choice([2, -1]), return_as="generator_unordered")(
        delayed(double)(i, nap) for i in range(n)
    )
    return check_unordered(found, [2 * i for i in range(n)])


def shared(rng: random.Random) -> int:
    """Give the same large array to all tasks."""
    array, n, nap = (
        large_array(rng.randrange(ARRAYS)),
        rng.choice([4, 30]),
        rng.choice(NAPS),
    )
    found = Parallel(n_jobs=-1)(delayed(at)(array, i, nap) for i in range(n))
    return check(found, [int(array[i]) + LARGE for i in range(n)])


def own(rng: random.Random) -> int:
    """Give each task a large array of its own."""
    n, start = rng.choice([2, 8]), rng.randrange(1000)
    size = rng.choice([1000, 150_000, LARGE])
    found = Parallel(n_jobs=2)(
        delayed(at)(np.arange(start + i, start + i + size), 7) for i in range(n)
    )
    return check(found, [start + i + 7 + size for i in range(n)])


def scattered(rng: random.Random) -> int:
    array, n, nap = (
        large_array(rng.randrange(ARRAYS)),
        rng.choice([4, 30]),
        rng.choice(NAPS),
    )
    with joblib.parallel_config(backend="dask.distributed", scatter=[array], **_OPTIONS):
        found = Parallel(n_jobs=-1)(delayed(at)(array, i, nap) for i in range(n))
    return check(found, [int(array[i]) + LARGE for i in range(n)])


def results(rng: random.Random) -> int:
    """Have each task return a large array."""
    n, size = rng.choice([2, 8]), rng.choice([1000, 150_000, LARGE])
    found = Parallel(n_jobs=-1)(delayed(counted_from)(i, size) for i in range(n))
    return check(found, [np.arange(i, i + size) for i in range(n)])


def nested(rng: random.Random) -> int:
    outer, count, nap = rng.choice([2, 4]), rng.choice([2, 8]), rng.choice(NAPS[:4])
    is_large, number = rng.random() < 0.4, rng.randrange(ARRAYS)
    given = large_array(number) if is_large else None
    found = Parallel(n_jobs=rng.choice([2, -1]))(
        delayed(inner)(i, count, given, nap) for i in range(outer)
    )
    numbers = [range(i * 100, i * 100 + count) for i in range(outer)]
    if given is None:
        return count * check(found, [[2 * i for i in some] for some in numbers])
    expected = [[int(given[i]) + LARGE for i in some] for some in numbers]
    return count * check(found, expected)


def error(rng: random.Random) -> int:
    n = rng.choice([5, 60])
    bad = rng.randrange(n)
    try:
        Parallel(n_jobs=2)(delayed(fail_at)(i, bad) for i in range(n))
    except LookupError as raised:
        if str(raised) != f"on purpose at {bad}":
            raise WrongResultError(f"the error of another task: {raised}") from raised
        return 1
    raise LostResultError("the error of the task was lost")


def timeout(rng: random.Random) -> int:
    seconds = rng.choice([2, 9])
    try:
        Parallel(n_jobs=2, timeout=0.2)(delayed(run_for)(seconds) for _ in "abcd")
    except multiprocessing.TimeoutError:
        return 0
    raise LostResultError("the timeout was not raised")


def dropped(rng: random.Random) -> int:
    taken, nap = rng.randrange(5), rng.choice(NAPS[:4])
    found = Parallel(n_jobs=2, return_as="generator")(
        delayed(double)(i, nap) for i in range(100)
    )
    arrived = [next(found) for _ in range(taken)]
    found.close()
    return check(arrived, [2 * i for i in range(taken)])


CALLS: list[Callable[[random.Random], int]] = [
    plain, plain, generator, unordered, shared, own, scattered, results, nested, nested,
    error, timeout, dropped,
]  # fmt: skip

#: Options of all calls.
_OPTIONS: dict[str, Any] = {}


def set_options(**options: Any) -> None:
    """Set the options that `scattered` has in addition to its own."""
    _OPTIONS.update(options)
