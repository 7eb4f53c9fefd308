"""Large data on one machine: memory and speed, ours beside its peers in the same run.

Each backend runs in a process of its own, with 8 workers for the memory and for data
that is sent again, and 2 for the speed. Memory is the growth of the proportional set size
(PSS) of the process and all its children, at its largest during the call; what is sent
is what the loopback interface says, whoever else uses it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
from joblib import Parallel, delayed

BACKENDS = ("loky", "bundled", "ours")

#: Arrays of the calls with many, and the megabytes of each at the least: more than
#: joblib's default for ``max_nbytes``.
MANY, LEAST = 32, 2


def total(array: Any, seconds: float) -> float:
    time.sleep(seconds)
    return float(array.sum())


def touch(array: Any) -> float:
    """Take next to no time, so that what is measured is how the array comes here.

    Pages that a task reads of a file cost it 10 ms for 256 MB, however they came here.
    """
    return float(array[::1_000_000].sum())


def filled(number: int, size: int) -> Any:
    return np.full(size, number, dtype=float)


def whole_numbers(megabytes: int) -> Any:
    """Return an array whose sum does not depend on how its memory is aligned."""
    return (np.arange(megabytes * 125_000) % 997).astype(float)


def pss() -> float:
    """Return the memory of this process and its children in MB."""
    found = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            found += process.memory_full_info().pss
        except psutil.Error:
            continue
    return found / 1e6


def peak_during(call: Callable[[], object]) -> float:
    """Return the largest PSS, in MB, while `call` runs."""
    ended = threading.Event()
    peaks = [pss()]

    def watch() -> None:
        while not ended.wait(0.05):
            peaks.append(pss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        ended.set()
        watcher.join()
    return max([*peaks, pss()])


def seconds_of(call: Callable[[], object], megabytes: int) -> float:
    """Return the seconds of a call that writes to less memory than that.

    In a virtual machine memory that nobody has used for a while takes ten times as long
    to be written to, whoever does it: so much is used, and given back, before.
    """
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        for _ in range(megabytes):
            file.write(bytes(10**6))
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_memory(megabytes: int) -> dict[str, float]:
    array = whole_numbers(megabytes)
    expected = float(array.sum())

    def call() -> None:
        found = Parallel()(delayed(total)(array, 0.05) for _ in range(64))
        assert found == [expected] * 64

    Parallel()(delayed(total)(np.zeros(10), 0.1) for _ in range(64))
    before = pss()
    growth = peak_during(call) - before
    return {"growth of memory, MB": growth}


def measure_again(megabytes: int) -> dict[str, float]:
    array = whole_numbers(megabytes)
    expected = touch(array)

    def call() -> None:
        found = Parallel()(delayed(touch)(array) for _ in range(64))
        assert found == [expected] * 64

    Parallel()(delayed(total)(np.zeros(10), 0.1) for _ in range(64))
    first = seconds_of(call, 5 * megabytes // 2)
    before = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
    second = seconds_of(call, 5 * megabytes // 2)
    sent = psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before
    return {
        "first call, s": first,
        "second call, s": second,
        "second call / first": second / first,
        "second call, MB sent": sent / 1e6,
    }


def measure_speed(megabytes: int) -> dict[str, float]:
    each = max(megabytes // MANY, LEAST)
    size = each * 125_000
    arrays = [np.random.default_rng(i).random(size) for i in range(MANY)]
    Parallel()(delayed(total)(np.zeros(10), 0.1) for _ in range(16))
    calls: dict[str, Callable[[], object]] = {
        f"{MANY} x {each} MB in, s": lambda: Parallel()(
            delayed(np.sum)(a) for a in arrays
        ),
        f"{MANY} x {each} MB out, s": lambda: Parallel()(
            delayed(filled)(i, size) for i in range(MANY)
        ),
    }
    most = 5 * MANY * each // 2
    return {name: seconds_of(call, most) for name, call in calls.items()}


MEASURES = {
    "memory": (measure_memory, 8),
    "again": (measure_again, 8),
    "speed": (measure_speed, 2),
}


def run_one(backend: str, what: str, megabytes: int) -> dict[str, float]:
    measure, workers = MEASURES[what]
    options: dict[str, Any] = {"n_jobs": workers}
    if backend == "bundled":
        from distributed import Client

        with (
            Client(n_workers=workers, threads_per_worker=1, memory_limit=0),
            joblib.parallel_config(backend="dask", **options),
        ):
            return measure(megabytes)
    if backend == "ours":
        import joblib_distributed  # noqa: F401

        options = {"n_workers": workers, "n_jobs": -1}  # that is as many
    name = "dask.distributed" if backend == "ours" else backend
    with joblib.parallel_config(backend=name, **options):
        return measure(megabytes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", nargs="+", default=list(MEASURES))
    parser.add_argument("--without", nargs="*", default=[], choices=["bundled"])
    parser.add_argument("--one", nargs=2, help="what one of the processes does")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run_one(*given.one, given.megabytes)))
        return 0
    for what in given.what:
        backends = [name for name in BACKENDS if name not in given.without]
        results: dict[str, list[dict[str, float]]] = {name: [] for name in backends}
        for _ in range(given.rounds):  # interleaved
            for backend in backends:
                results[backend].append(run_process(backend, what, given.megabytes))
        print_medians(results)
    return 0


def run_process(backend: str, what: str, megabytes: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", backend, what]
    command += ["--megabytes", str(megabytes)]
    ran = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=600,
    )
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def print_medians(results: dict[str, list[dict[str, float]]]) -> None:
    for name in results["ours"][0]:
        middle = {
            backend: float(np.median([round_[name] for round_ in rounds]))
            for backend, rounds in results.items()
        }
        shown = ", ".join(f"{backend} {value:.3f}" for backend, value in middle.items())
        ratio = middle["ours"] / (middle["loky"] or math.nan)  # which may send nothing
        print(f"{name}: {shown}; ours / loky {ratio:.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
