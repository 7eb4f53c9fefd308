"""Calls with random data, some of whose workers are killed: what becomes of the store.

Each backend runs the same calls in a process and a mount namespace of its own, with its
own ``/dev/shm`` (which takes Linux and root), small enough for evictions to be frequent.
Every result is checked. Prints how many calls were right, have raised, or hung; the bytes
in ``/dev/shm`` after a call at most, and at the end; of ours also its cap; then what is
left once the process has ended. Exits with 1 if a call of ours was not right.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import psutil
from distributed import Client
from joblib import Parallel, delayed

import joblib_distributed
from joblib_distributed.data.host import host_store

#: Megabytes of the ``/dev/shm``; the cap is an eighth of it.
SHM = 1600

SHARED = Path("/dev/shm")

#: Seconds after which a call counts as hung.
HUNG_AFTER = 20.0

#: Calls in a row that may hang before a backend is given up.
HANGS_ALLOWED = 3


class Backend(NamedTuple):
    """What is run: with two workers."""

    #: Returns the parameters of `joblib.parallel_config`.
    start: Callable[[], dict[str, Any]]
    #: Returns the process ids of the workers.
    pids: Callable[[], list[int]]
    #: Is called after a call that hung.
    restart: Callable[[], None]


def _start_ours() -> dict[str, Any]:
    return {"backend": "dask.distributed", "n_workers": 2}


def _pids_of_ours() -> list[int]:
    return _pids_of(joblib_distributed.get_client(n_workers=2))


def _start_bundled() -> dict[str, Any]:
    Client(n_workers=2, threads_per_worker=1, dashboard_address=None)
    return {"backend": "dask"}


def _pids_of_bundled() -> list[int]:
    return _pids_of(Client.current())


def _restart_bundled() -> None:
    Client.current().shutdown()
    _start_bundled()


def _pids_of(client: Client) -> list[int]:
    return list(client.run(os.getpid, on_error="ignore").values())


def _pids_of_loky() -> list[int]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it was killed just before
            if any("popen_loky" in argument for argument in child.cmdline()):
                found.append(child.pid)
    return found


BACKENDS = {
    "ours": Backend(_start_ours, _pids_of_ours, lambda: None),
    "loky": Backend(
        lambda: {"backend": "loky", "n_jobs": 2}, _pids_of_loky, lambda: None
    ),
    "bundled": Backend(_start_bundled, _pids_of_bundled, _restart_bundled),
}


def check(array: Any, seconds: float) -> tuple[float, Any]:
    time.sleep(seconds)
    return float(array.sum()), array + 1


def in_shm() -> int:
    """Return the bytes in ``/dev/shm``, but for semaphores."""
    size = 0
    for path in SHARED.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and not path.name.startswith("sem."):
                size += path.stat().st_size
    return size


def one_call(rng: random.Random, backend: Backend, parameters: dict[str, Any]) -> str:
    """Run a call, in one of ten with a worker killed in the middle; return its end."""
    sizes = [rng.randrange(1, 2_500_000) for _ in range(rng.randrange(1, 7))]
    seed = rng.randrange(2**32)
    numbers = np.random.default_rng(seed)
    # Whole numbers, whose sums are the same wherever in memory they lie.
    arrays = [numbers.integers(0, 100, size).astype(float) for size in sizes]
    killing = rng.random() < 0.1
    killer = threading.Timer(0.05, kill_one, [backend, rng.randrange(2)])
    if killing:
        killer.start()
    calls = [delayed(check)(a, 0.05 if killing else 0) for a in arrays * 2]
    ends = ["hung"]
    # Whoever hangs is left alone.
    caller = threading.Thread(
        target=lambda: ends.insert(0, end_of(calls, parameters)), daemon=True
    )
    caller.start()
    caller.join(HUNG_AFTER)
    end = ends[0]
    killer.cancel()
    if killing:
        killer.join()
    return end


def end_of(calls: list[Any], parameters: dict[str, Any]) -> str:
    """Run a call; return how it ended."""
    try:
        with joblib.parallel_config(**parameters):
            results = Parallel()(calls)
    except Exception as error:  # of any kind: it is counted
        return f"raised {type(error).__name__}"
    arrays = [arguments[0] for _, arguments, _ in calls]
    # Not strictly: this is not to fail, which would look like a call that hangs.
    right = len(results) == len(arrays) and all(
        total == float(array.sum()) and np.array_equal(more, array + 1)
        for array, (total, more) in zip(arrays, results, strict=False)
    )
    return "right" if right else "wrong"


def kill_one(backend: Backend, number: int) -> None:
    pids = backend.pids()
    if pids:
        os.kill(pids[number % len(pids)], signal.SIGKILL)


def run(name: str, calls: int, seed: int) -> bool:
    """Run all calls of a backend, print what came of them, and say if all were right."""
    rng = random.Random(seed)
    backend = BACKENDS[name]
    parameters = backend.start()
    ends: collections.Counter[str] = collections.Counter()
    most = hangs = 0
    while ends.total() < calls and hangs < HANGS_ALLOWED:
        end = one_call(rng, backend, parameters)
        ends[end] += 1
        hangs = hangs + 1 if end == "hung" else 0
        if hangs:
            backend.restart()
        most = max(most, in_shm())
    told = ", ".join(f"{number} {end}" for end, number in ends.most_common())
    given_up = " (given up)" if ends.total() < calls else ""
    print(f"{name}: {ends.total()} calls{given_up}: {told}")
    cap = ""
    if name == "ours":
        host_store().trim()
        bytes_of_cap = host_store().stores[0].cap
        is_under = in_shm() <= bytes_of_cap
        cap = f", cap {bytes_of_cap / 1e6:.1f}; under its cap: {is_under}"
    now = in_shm() / 1e6
    print(f"in /dev/shm after a call: {most / 1e6:.1f} MB at most, {now:.1f} now{cap}")
    return ends["right"] == calls


def main() -> int:
    """Start each backend in a namespace of its own, and look at what it leaves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--inside", help="what the namespace does", choices=BACKENDS)
    given = parser.parse_args()
    if given.inside:
        return 0 if run(given.inside, given.calls, given.seed) else 1
    codes = {name: start(name, given) for name in given.backends}
    return codes.get("ours", 0)


def start(name: str, given: argparse.Namespace) -> int:
    """Run a backend in a namespace of its own; return its exit code."""
    mount = f"mount --make-rprivate / && mount -t tmpfs -o size={SHM}m tmpfs /dev/shm"
    inside = f'"$0" "$1" --inside {name} --calls {given.calls} --seed {given.seed}'
    # Semaphores are multiprocessing's, whose tracker removes those of killed processes.
    look = "ls -A /dev/shm | grep -v ^sem | tr '\\n' ' '"
    command = (
        f"{mount} && {inside}; code=$?; "
        f"echo left on the host: $({look}) nothing else; exit $code"
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, sys.executable, __file__],
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
