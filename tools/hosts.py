"""Large data on several hosts: bytes, memory and time, ours beside joblib's dask backend.

Makes the hosts as network namespaces of this machine, which takes root and iproute2. Each
row is a cluster of its own: what the client sends, what the scheduler relays, the most
that a host receives, the growth of the memory of the host that grows most (the
proportional set size of its processes, and what lies in its ``/dev/shm`` unmapped), and
that of the scheduler, each at its largest during the call.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.network import Console, Host, HostCluster, counted, obstacle

SETUP = """
import os, sys, time
import joblib, numpy as np, pandas as pd
from distributed import Client
from joblib import Parallel, delayed

class Model:
    def __init__(self, array):
        self.array = array
    def total(self):
        return total(self.array)

def total(value):
    time.sleep(0.2)
    return float(np.asarray(value).sum())

def total_inside(value):
    return total(value[0]["array"])

def backend():
    if {bundled}:
        return joblib.parallel_config("dask")
    import joblib_distributed
    return joblib.parallel_config("dask.distributed", client=client)

array = (np.arange({megabytes} * 125_000) % 997).astype(float)
frame = pd.DataFrame({{"a": array}})
client = Client(sys.argv[1])
client.wait_for_workers({workers}, timeout=60)
with backend():
    Parallel(n_jobs={workers})(
        delayed(total)(frame[:10]) for _ in range(4 * {workers})
    )
"""

CALL = """
start = time.perf_counter()
with backend():
    found = Parallel(n_jobs=-1)({tasks} for _ in range(64))
assert set(found) == {{float(array.sum())}}, found
result = time.perf_counter() - start
"""

SHAPES = {
    "array": "delayed(total)(array)",
    "frame": "delayed(total)(frame)",
    "nested": "delayed(total_inside)(({'array': array}, 1))",
    "method": "delayed(Model(array).total)()",
}


def memory_of_host(host: Host) -> float:
    """Return the memory of a host's processes, and of its files, in bytes."""
    private = 0.0
    for process in psutil.Process(host.processes[0].pid).children(recursive=True):
        try:
            parts = process.memory_maps()
        except psutil.Error:
            continue
        private += sum(p.pss for p in parts if "/joblib-distributed-" not in p.path)
    return private + host.shared_memory(host.processes[0])


def memory_of_scheduler(cluster: HostCluster) -> float:
    return float(psutil.Process(cluster.scheduler_process.pid).memory_full_info().uss)


def peaks_during(
    call: Callable[[], float], *measures: Callable[[], float]
) -> tuple[float, list[float]]:
    """Return what a call gives, and by how much each measure grew at most meanwhile."""
    before = [measure() for measure in measures]
    most = list(before)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            most[:] = [
                max(m, measure()) for m, measure in zip(most, measures, strict=True)
            ]

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        given = call()
    finally:
        ended.set()
        watcher.join()
    return given, [m - b for m, b in zip(most, before, strict=True)]


def measure(
    bundled: bool, confined: bool, shape: str, megabytes: int, size: tuple[int, int]
) -> list[float]:
    """Return a row of the table: of the first call, then of the second."""
    hosts, workers = size
    with HostCluster(hosts, workers, confined=confined) as cluster:
        console = Console(cluster)
        setup = SETUP.format(
            bundled=bundled, megabytes=megabytes, workers=hosts * workers
        )
        console.run(setup)
        row: list[float] = []
        for _ in range(2):
            measures: list[Callable[[], float]] = [
                lambda host=host: memory_of_host(host) for host in cluster.hosts
            ]
            with counted(cluster.client, cluster.scheduler, *cluster.hosts) as traffic:
                seconds, grown = peaks_during(
                    lambda: console.run(CALL.format(tasks=SHAPES[shape])),
                    *measures,
                    lambda: memory_of_scheduler(cluster),
                )
            sent, relayed = traffic[0][1], traffic[1][1]
            received = max(received for received, _ in traffic[2:])
            figures = [sent, relayed, received, max(grown[:-1]), grown[-1]]
            row += [figure / 1e6 for figure in figures] + [seconds]
        return row


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--bundled", nargs="*", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--size", nargs=2, type=int, default=[3, 4])
    parser.add_argument("--reach", nargs="+", default=["open", "confined"])
    given = parser.parse_args()
    reason = obstacle()
    if reason:
        sys.exit(f"This machine cannot have such hosts: {reason}")
    print(
        "MB: sent by the client, by the scheduler, received by a host at most; growth of "
        "a host's memory at most, of the scheduler's; then seconds of the call"
    )
    rows: list[tuple[bool, bool, str]] = [
        (bundled, confined, shape)
        for confined in (reach == "confined" for reach in given.reach)
        for shape in given.shapes
        for bundled in (False, True)
        if not bundled or (shape in given.bundled)
    ]
    for bundled, confined, shape in rows:
        start = time.perf_counter()
        figures = measure(bundled, confined, shape, given.megabytes, tuple(given.size))
        name = "bundled" if bundled else "ours"
        print(
            f"{name:8}{'confined' if confined else 'open':9}{shape:7}",
            " ".join(f"{figure:7.1f}" for figure in figures[:6]),
            "| again",
            " ".join(f"{figure:7.1f}" for figure in figures[6:]),
            f"({time.perf_counter() - start:.0f} s in all)",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
