"""Random calls from three threads; every result checked, nothing left behind.

Runs against a real ``dask scheduler`` and two ``dask worker`` processes. Prints, every
half minute and at the end, the memory of the driver and of the scheduler, and at the
end the threads, file descriptors and dask keys that are more than at the start. Exits
with 1 if a result was wrong, a call hung, or something is left.

Memory is printed as the system sees it and as what is in use, which is what must not
grow: the C library keeps freed memory, for each of its arenas. Two records of dask's own
are kept out of it: the log of the last 1000 messages of each connection, of up to 1 MB
each (here of the last 10), and the scheduler's record of spans, which it keeps for ever
(a few hundred bytes for each task submitted; cleared before the last look).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import multiprocessing
import os
import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import joblib
import numpy as np
import psutil
from distributed import Client
from joblib import Parallel, delayed

import joblib_distributed

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.processes import CommandLineCluster
from support.tasks import fail_at, run_for
from support.waiting import wait_until

#: Seconds a call may take before it counts as hung.
CALL_TIMEOUT = 120

#: Growth of memory that counts as none, in MB, between the end of the first fifth and
#: the end. A guess.
FLAT_MB = 20

#: Messages that dask keeps of each connection.
LOG_LENGTH = 10


# ------------------------------------------------------------------------------ the tasks
def double(x: int) -> int:
    return 2 * x


def total(array: Any) -> float:
    return float(array.sum())


def zeros(n: int) -> Any:
    return np.zeros(n)


def inner_sum(n: int) -> int:
    return sum(Parallel(n_jobs=2)(delayed(double)(i) for i in range(n)))


# ------------------------------------------------------------------------------ the calls
def plain(rng: random.Random) -> None:
    n = rng.choice([0, 1, 2, 7, 50, 400, 1000])
    parallel = Parallel(
        n_jobs=rng.choice([2, 3, -1, -2]),
        return_as=rng.choice(["list", "generator"]),
        batch_size=rng.choice(["auto", "auto", 1, 5]),
        pre_dispatch=rng.choice(["2*n_jobs", "all", 3]),
    )
    found = list(parallel(delayed(double)(i) for i in range(n)))
    assert found == [2 * i for i in range(n)], found[:10]


def unordered(rng: random.Random) -> None:
    n = rng.choice([1, 20, 200])
    found = Parallel(n_jobs=2, return_as="generator_unordered")(
        delayed(double)(i) for i in range(n)
    )
    assert sorted(found) == [2 * i for i in range(n)]


def arrays(rng: random.Random) -> None:
    n = rng.choice([1000, 100_000, 1_000_000])
    found = Parallel(n_jobs=2)(delayed(total)(np.full(n, i)) for i in range(4))
    assert found == [float(n * i) for i in range(4)]
    sizes = [array.size for array in Parallel(n_jobs=2)(delayed(zeros)(n) for _ in "ab")]
    assert sizes == [n, n]


def error(rng: random.Random) -> None:
    n = rng.choice([5, 60])
    bad = rng.randrange(n)
    try:
        Parallel(n_jobs=2)(delayed(fail_at)(i, bad) for i in range(n))
    except LookupError as raised:
        assert str(raised) == f"on purpose at {bad}"
    else:
        raise AssertionError("the error was lost")


def timeout(rng: random.Random) -> None:
    try:
        Parallel(n_jobs=2, timeout=0.2)(
            delayed(run_for)(rng.choice([2, 9])) for _ in "abcd"
        )
    except multiprocessing.TimeoutError:
        return
    raise AssertionError("the timeout was not raised")


def nested(rng: random.Random) -> None:
    n = rng.choice([2, 6])
    found = Parallel(n_jobs=rng.choice([2, -1]))(delayed(inner_sum)(i) for i in range(n))
    assert found == [i * (i - 1) for i in range(n)]


def dropped(rng: random.Random) -> None:
    results = Parallel(n_jobs=2, return_as="generator")(
        delayed(double)(i) for i in range(100)
    )
    for _ in range(rng.randrange(5)):
        next(results)
    results.close()


CALLS: list[Callable[[random.Random], None]] = [
    plain, plain, unordered, arrays, error, timeout, nested, dropped,
]  # fmt: skip


# ------------------------------------------------------------------------------- the soak
class Soak:
    """Three threads of random calls, and what came of them."""

    def __init__(self, address: str, seconds: float, seed: int) -> None:
        self.address = address
        self.end = time.monotonic() + seconds
        self.seed = seed
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.started_at: dict[int, tuple[float, str]] = {}

    def run_thread(self, number: int) -> None:
        rng = random.Random(f"{self.seed}-{number}")
        with joblib.parallel_config(
            backend="dask.distributed", scheduler_host=self.address
        ):
            while time.monotonic() < self.end and not self.failures:
                call = rng.choice(CALLS)
                self.started_at[number] = time.monotonic(), call.__name__
                try:
                    call(rng)
                except Exception as failure:
                    self.failures.append(f"{call.__name__}: {failure!r}")
                self.done[call.__name__] += 1
        self.started_at.pop(number, None)

    def hung(self) -> list[str]:
        now = time.monotonic()
        return [
            name for at, name in list(self.started_at.values()) if now - at > CALL_TIMEOUT
        ]


def memory_in_use() -> tuple[float, float]:
    """Return the memory of this process that is in use, and its resident set, in MB.

    In use is what the GNU C library has handed out, and Python's own small blocks, at
    64 bytes each (a guess). Elsewhere the resident set stands for both.
    """
    gc.collect()
    resident = psutil.Process().memory_info().rss / 1e6
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return resident, resident

    class Info(ctypes.Structure):  # in here, so that this function can be sent
        _fields_ = tuple((f"field{i}", ctypes.c_size_t) for i in range(10))

    mallinfo.restype = Info
    info = mallinfo()
    # hblkhd, in mappings of their own, and uordblks, in arenas.
    handed_out = info.field4 + info.field7
    return (handed_out + sys.getallocatedblocks() * 64) / 1e6, resident


class Memory:
    """Memory of the driver and of the scheduler in MB: in use, and resident."""

    def __init__(self, client: Client) -> None:
        self.driver, self.driver_rss = memory_in_use()
        self.scheduler, self.scheduler_rss = client.run_on_scheduler(memory_in_use)

    def __str__(self) -> str:
        return (
            f"driver {self.driver:.0f} MB in use ({self.driver_rss:.0f} resident), "
            f"scheduler {self.scheduler:.0f} ({self.scheduler_rss:.0f})"
        )


def forget_spans(dask_scheduler: Any) -> int:
    """Drop what the scheduler has recorded of spans; return their number."""
    spans = dask_scheduler.extensions["spans"]
    number = len(spans.spans)
    for record in (
        spans.spans,
        spans.root_spans,
        spans.spans_search_by_name,
        spans.spans_search_by_tag,
    ):
        record.clear()
    return number


class Footprint:
    """Threads and descriptors of this process, with no client open."""

    def __init__(self) -> None:
        gc.collect()
        self.names = sorted(thread.name for thread in threading.enumerate())
        self.threads = len(self.names)
        self.descriptors = psutil.Process().num_fds()

    def __repr__(self) -> str:
        return f"{self.threads} threads {self.names}, {self.descriptors} descriptors"

    def within(self, other: Footprint) -> bool:
        return self.threads <= other.threads and self.descriptors <= other.descriptors


def keys_left(client: Client) -> list[str]:
    """Return the keys that the scheduler still has a moment after the last call."""
    left: list[str] = []

    def none_left() -> bool:
        left[:] = client.run_on_scheduler(_keys)
        return not left

    with contextlib.suppress(AssertionError):
        wait_until(none_left, 15, lambda: "keys are left")
    return left


def _keys(dask_scheduler: Any) -> list[str]:
    return list(dask_scheduler.tasks)


def warm_up(address: str) -> None:
    """Make everything that is made once: clients, pools of threads, imports."""
    with joblib.parallel_config(backend="dask.distributed", scheduler_host=address):
        rng = random.Random(0)
        for call in CALLS * 2:
            call(rng)
        # Above 10 MB dask reads messages in a thread that it then keeps.
        Parallel(n_jobs=2)(delayed(total)(np.full(2_000_000, i)) for i in range(4))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*tasks.*")  # joblib's, of `dropped`
    name = "distributed.admin.low-level-log-length"
    dask.config.set({name: LOG_LENGTH})
    os.environ["DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH"] = str(LOG_LENGTH)
    with CommandLineCluster(n_workers=2, nthreads=2) as cluster:
        warm_up(cluster.address)
        joblib_distributed.shutdown()
        before = settle(Footprint())
        soak = Soak(cluster.address, given.seconds, given.seed)
        threads = [
            threading.Thread(target=soak.run_thread, args=(i,), daemon=True)
            for i in range(3)
        ]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        client = joblib_distributed.get_client(scheduler_host=cluster.address)
        first, last = watch(soak, threads, client, start, given.seconds)
        keys = keys_left(client)
        print(f"before the spans are dropped: {last}")
        print(f"dask's record of spans: {client.run_on_scheduler(forget_spans)} spans")
        last = Memory(client)
        joblib_distributed.shutdown()
        after = settle(before)
    return report(soak, before, after, keys, first, last)


def watch(
    soak: Soak,
    threads: list[threading.Thread],
    client: Client,
    start: float,
    seconds: float,
) -> tuple[Memory, Memory]:
    """Print the memory now and then; return it after a fifth and at the end."""
    interval = min(30.0, seconds / 5)
    first: Memory | None = None
    for thread in threads:
        while thread.is_alive() and not soak.hung() and not soak.failures:
            thread.join(interval)
            now = Memory(client)
            passed = time.monotonic() - start
            if first is None and passed >= seconds / 5:
                first = now
            print(f"{passed:6.0f} s: {sum(soak.done.values())} calls, {now}", flush=True)
    last = Memory(client)
    return first or last, last


def settle(before: Footprint) -> Footprint:
    """Give threads that are ending a moment; return what is there then."""
    after = Footprint()

    def settled() -> bool:
        nonlocal after
        after = Footprint()
        return after.within(before)

    with contextlib.suppress(AssertionError):
        wait_until(settled, 15, lambda: "not settled")
    return after


def report(
    soak: Soak,
    before: Footprint,
    after: Footprint,
    keys: list[str],
    first: Memory,
    last: Memory,
) -> int:
    print(f"calls: {sum(soak.done.values())} {dict(soak.done)}")
    print(f"wrong or failed: {soak.failures or 'none'}; hung: {soak.hung() or 'none'}")
    print(f"start: {before}; end: {after}; dask keys left: {len(keys)}")
    print(f"memory after a fifth: {first}")
    print(f"memory at the end: {last}")
    growth = max(last.driver - first.driver, last.scheduler - first.scheduler)
    flat = growth < FLAT_MB
    good = not (soak.failures or soak.hung() or keys) and after.within(before) and flat
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
