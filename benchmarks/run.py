"""Compare joblib's backends: ``python benchmarks/run.py``.

Each workload runs on each backend in a fresh process with the same number of workers,
several rounds of all of them in turn, so that what slows the machine for a while slows
all. Printed are medians, and ratios to a peer with the least and the greatest of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
from joblib import Parallel, delayed

from workloads import WORKLOADS, nap

BACKENDS = ("sequential", "threading", "loky", "bundled", "ray", "ours")

#: What ours is compared to, where it takes part.
PEER = "loky"


#: Those that run on a dask cluster of any kind.
ON_DASK = ("bundled", "ours")


@contextlib.contextmanager
def on(backend: str, workers: int, threads: int | None = None) -> Iterator[None]:
    """Make a backend joblib's choice, with its workers started."""
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"n_jobs": workers}
        name = backend
        if threads is not None or backend == "bundled":
            from distributed import Client

            size = (workers, 1) if threads is None else (1, threads)
            client = stack.enter_context(
                Client(n_workers=size[0], threads_per_worker=size[1], memory_limit=0)
            )
            name, options = "dask", {"n_jobs": -1}
        if backend == "ours":
            import joblib_distributed  # noqa: F401

            name = "dask.distributed"
            options = {"n_workers": workers, "n_jobs": -1}  # that is as many
            if threads is not None:
                options = {"client": client, "n_jobs": -1}
        elif backend == "ray":
            import ray
            from ray.util.joblib import register_ray

            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
            stack.callback(ray.shutdown)
            register_ray()
        stack.enter_context(joblib.parallel_config(backend=name, **options))
        yield


def arguments_of(name: str, tiny: bool, seed: int) -> tuple[Any, ...]:
    """Return what a workload is run with in one round."""
    workload = WORKLOADS[name]
    size = workload.tiny if tiny else workload.arguments
    return (*size, seed) if workload.is_random else size


def measure(backend: str, name: str, workers: int, tiny: bool, seed: int) -> float:
    """Return the seconds of a workload, after one that warms up."""
    workload = WORKLOADS[name]
    arguments = arguments_of(name, tiny, seed)
    with on(backend, workers, workload.threads):
        if not workload.is_cold:
            Parallel()(delayed(nap)(0.01) for _ in range(8 * workers))
            workload.run(*arguments_of(name, True, seed))
        start = time.perf_counter()
        workload.run(*arguments)
        taken = time.perf_counter() - start
    # Some need time to prepare what is not to be measured.
    return float(getattr(workload.run, "seconds", taken))


def run_process(
    backend: str, name: str, given: argparse.Namespace, seed: int
) -> float | None:
    """Return the seconds of a workload in a fresh process; None if it failed."""
    command = [sys.executable, __file__, "--one", backend, name]
    command += ["--workers", str(given.workers), *["--tiny"] * given.tiny]
    command += ["--seed", str(seed)]
    start = time.perf_counter()
    try:
        ran = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=given.timeout,
        )
    except (subprocess.SubprocessError, OSError) as error:
        text = getattr(error, "stderr", None) or str(error)
        print(f"{name} on {backend} failed: {str(text)[-500:]}", file=sys.stderr)
        return None
    if WORKLOADS[name].is_cold:
        return time.perf_counter() - start
    return float(json.loads(ran.stdout.splitlines()[-1]))


def summary(name: str, seconds: dict[str, list[float]], workers: int, tiny: bool) -> str:
    """Return a line for a workload: medians, and ours against the peer and the ideal."""
    middle = {b: statistics.median(found) for b, found in seconds.items() if found}
    shown = [f"{backend} {value:.3f}" for backend, value in middle.items()]
    workload = WORKLOADS[name]
    if "ours" in middle and middle.get(PEER):
        ratios = [
            ours / peer
            for ours, peer in zip(seconds["ours"], seconds[PEER], strict=False)
        ]
        shown.append(
            f"ours / {PEER} {middle['ours'] / middle[PEER]:.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if "ours" in middle and workload.ideal is not None:
        threads = workload.threads or workers
        against = [
            taken / workload.ideal(*arguments_of(name, tiny, seed), threads)
            for seed, taken in enumerate(seconds["ours"])
        ]
        shown.append(f"ours / ideal {statistics.median(against):.3f}")
    return f"{name}: {', '.join(shown)}"


def main() -> int:
    """Run what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS))
    parser.add_argument(
        "--backends", nargs="+", default=["loky", "bundled", "ours"], choices=BACKENDS
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--json", type=Path, help="where to write all seconds")
    parser.add_argument("--tiny", action="store_true", help="in next to no time")
    parser.add_argument("--seed", type=int, default=0, help="of one of the processes")
    parser.add_argument("--one", nargs=2, help="what one of the processes does")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one, given.workers, given.tiny, given.seed)))
        return 0
    chosen = [w for w in WORKLOADS if any(part in w for part in given.workloads)]
    if not chosen:
        parser.error(f"no workload is named like {given.workloads}: see workloads.py")
    everything: dict[str, dict[str, list[float]]] = {}
    for name in chosen:
        backends = [
            b for b in given.backends if b in ON_DASK or not WORKLOADS[name].threads
        ]
        seconds: dict[str, list[float]] = {backend: [] for backend in backends}
        for seed in range(given.rounds):
            for backend in backends:
                taken = run_process(backend, name, given, seed)
                if taken is not None:
                    seconds[backend].append(taken)
        everything[name] = seconds
        print(summary(name, seconds, given.workers, given.tiny), flush=True)
    if given.json:
        given.json.write_text(json.dumps(everything, indent=1))
    return 0 if all(found for s in everything.values() for found in s.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
