"""Calls with random data, some of whose workers are killed: what becomes of the store.

Runs in a mount namespace with a ``/dev/shm`` of its own (which takes Linux and root), so
that evictions are frequent. Every result is checked. Prints the bytes in the store at
most, at the end, and its cap; then what is left once the process has ended.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib import Parallel, delayed

import joblib_distributed
from joblib_distributed.data.host import host_store

#: Megabytes of the ``/dev/shm``; the cap is an eighth of it.
SHM = 1600

FOLDER = Path(f"/dev/shm/joblib-distributed-{os.getuid()}")


def check(array: Any, seconds: float) -> tuple[float, Any]:
    time.sleep(seconds)
    return float(array.sum()), array + 1


def in_store() -> int:
    return sum(path.stat().st_size for path in FOLDER.iterdir())


def one_call(rng: random.Random) -> None:
    """Run a call, in one of ten with a worker killed in the middle; check its results."""
    sizes = [rng.randrange(1, 2_500_000) for _ in range(rng.randrange(1, 7))]
    seed = rng.randrange(2**32)
    arrays = [np.random.default_rng(seed).random(size) for size in sizes]
    killing = rng.random() < 0.1
    client = joblib_distributed.get_client(n_workers=2)
    killer = threading.Timer(0.05, kill_one, [client, rng.randrange(2)])
    if killing:
        killer.start()
    calls = [delayed(check)(a, 0.05 if killing else 0) for a in arrays * 2]
    results = Parallel()(calls)
    killer.cancel()
    if killing:
        killer.join()
    for array, (total, more) in zip(arrays * 2, results, strict=True):
        assert total == float(array.sum())
        assert np.array_equal(more, array + 1)


def kill_one(client: Any, number: int) -> None:
    pids = list(client.run(os.getpid, on_error="ignore").values())
    os.kill(pids[number % len(pids)], signal.SIGKILL)


def run(calls: int, seed: int) -> None:
    rng = random.Random(seed)
    most = 0
    with joblib.parallel_config(backend="dask.distributed", n_workers=2):
        for _ in range(calls):
            one_call(rng)
            most = max(most, in_store())
    host_store().trim()
    (cap,) = {store.cap for store in host_store().stores[:1]}
    left = in_store()
    print(f"{calls} calls, all results right")
    print(f"store: {most / 1e6:.1f} MB at most, {left / 1e6:.1f} MB now, cap {cap / 1e6}")
    print(f"under its cap: {left <= cap}")


def main() -> int:
    """Start the run in a namespace of its own, and look at what it leaves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", action="store_true", help="what the namespace does")
    given = parser.parse_args()
    if given.inside:
        run(given.calls, given.seed)
        return 0
    mount = f"mount --make-rprivate / && mount -t tmpfs -o size={SHM}m tmpfs /dev/shm"
    inside = f'"$0" "$1" --inside --calls {given.calls} --seed {given.seed}'
    # Semaphores are multiprocessing's, whose tracker removes those of killed processes.
    look = "ls -A /dev/shm | grep -v ^sem | tr '\\n' ' '"
    command = f"{mount} && {inside} && echo left on the host: $({look}) nothing else"
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, sys.executable, __file__],
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
