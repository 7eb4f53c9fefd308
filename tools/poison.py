"""What becomes of a call one of whose tasks kills its worker, each time it is tried.

A thousand tasks on a real ``dask scheduler`` and two ``dask worker`` processes of four
threads, with ``return_as="generator_unordered"``. First the call runs undisturbed, three
times; then one of its tasks ends its process.

Prints how many results have arrived, the error, and the seconds beside those of the
undisturbed call. Exits with 1 if a result is lost, wrong or arrives twice, or if the
error does not name the task.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from typing import NamedTuple

from joblib import Parallel, delayed

from frozen import UNDISTURBED, on_cluster
from joblib_distributed.errors import JoblibDistributedError, WorkerDiedError


class Ended(NamedTuple):
    """How a call has ended."""

    results: Counter[int]
    error: JoblibDistributedError | None
    seconds: float


def nap(number: int, deadly: int, seconds: float) -> int:
    if number == deadly:
        os._exit(11)
    time.sleep(seconds)
    return 2 * number


def call(tasks: int, deadly: int, seconds: float) -> Ended:
    """Run a call; `deadly` is the number of the task that kills, or of none."""
    results: Counter[int] = Counter()
    error = None
    start = time.monotonic()
    try:
        for result in Parallel(return_as="generator_unordered")(
            delayed(nap)(i, deadly, seconds) for i in range(tasks)
        ):
            results[result] += 1
    except JoblibDistributedError as raised:
        error = raised
    return Ended(results, error, time.monotonic() - start)


def is_right(ended: Ended, tasks: int, deadly: int) -> bool:
    """Whether a call has ended as it is to."""
    expected = Counter(2 * i for i in range(tasks) if i != deadly)
    if ended.results != expected:
        return False
    if not 0 <= deadly < tasks:
        return ended.error is None
    return isinstance(ended.error, WorkerDiedError) and ended.error.index == deadly


def measure(given: argparse.Namespace) -> bool:
    """Print what came of it; return whether all was right."""
    call(given.tasks, -1, given.seconds)  # which makes all that is made once
    runs = [call(given.tasks, -1, given.seconds) for _ in range(UNDISTURBED)]
    good = all(is_right(ended, given.tasks, -1) for ended in runs)
    usual = statistics.median(ended.seconds for ended in runs)
    print(f"undisturbed: {usual:.2f} s, the median of {UNDISTURBED}")
    ended = call(given.tasks, given.deadly, given.seconds)
    print(f"task {given.deadly} of {given.tasks} kills its worker: "
          f"{ended.seconds:.2f} s, {ended.seconds / usual:.2f} x as long")  # fmt: skip
    arrived = sum(ended.results.values())
    print(f"results: {arrived}, of which different: {len(ended.results)}")
    print(f"error: {type(ended.error).__name__}: {ended.error}")
    return good and is_right(ended, given.tasks, given.deadly)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each task")
    parser.add_argument("--deadly", type=int, default=500, help="number of the task")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=4, help="of each worker")
    parser.add_argument("--deaths-allowed", type=int, default=3, help="the option")
    parser.add_argument("--tls", action="store_true", help="over TLS, both ways")
    given = parser.parse_args()
    options = {"deaths_allowed": given.deaths_allowed}
    with on_cluster(given.workers, given.threads, given.tls, **options):
        good = measure(given)
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
