"""What happens to hosts while a call with large data runs, and what comes of it.

Each scene is played on a fresh cluster of two hosts with one worker each, and raises
unless every result is right; see ``tests/cluster/test_hosts.py``, which also says what
each host may receive, and ``tools/damage.py``, which has others beside ours.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from joblib_distributed.data.transfer import CHUNK
from support.network import Console, Host, HostCluster
from support.waiting import wait_until

#: Bytes of the data that is shared: 12 chunks, so that what else is said is little.
SIZE = 48 * 2**20

DEADLINE = 60

#: Seconds after which a call counts as hung.
RESULT_WITHIN = 90

_SETUP = f"""
import os, sys, time
import joblib
import numpy as np
from joblib import Parallel, delayed

class Model:
    def __init__(self, array):
        self.array = array
    def total(self, number):
        return total(self.array, number)

def total(value, number):
    time.sleep(0.02)
    return os.uname().nodename, float(np.asarray(value).sum()), number

def total_inside(value, number):
    return total(value[0]["array"], number)

def total_when(value, number, folder):
    open(os.path.join(folder, os.uname().nodename), "w").close()
    if number < 8:
        while not os.path.exists(os.path.join(folder, "go")):
            time.sleep(0.01)
    return total(value, number)

def numbers(seed):
    return np.random.default_rng(seed).integers(0, 100, {SIZE // 8}).astype(float)

def asked(array, calls):
    found = Parallel(n_jobs=-1)(calls)
    hosts, totals, order = zip(*found)
    assert set(totals) == {{float(array.sum())}}, totals
    assert list(order) == list(range(len(found)))
    return sorted(set(hosts))
"""

#: What each backend needs besides, by name.
BACKENDS = {
    "ours": """
import joblib_distributed

def backend():
    return joblib.parallel_config("dask.distributed", scheduler_host=sys.argv[1])

client = joblib_distributed.get_client(scheduler_host=sys.argv[1])
""",
    "bundled": """
from distributed import Client

def backend():
    return joblib.parallel_config("dask")

client = Client(sys.argv[1])
""",
}


def console_of(cluster: HostCluster, workers: int, backend: str = "ours") -> Console:
    """Start the user's process, and wait for so many workers."""
    console = Console(cluster)
    console.run(_SETUP + BACKENDS[backend])
    console.run(f"client.wait_for_workers({workers}, timeout={DEADLINE})")
    return console


def stored(host: Host) -> int:
    """Return the bytes in a host's shared memory, in whole chunks."""
    return host.shared_memory(host.processes[0]) // CHUNK * CHUNK


def start_call(console: Console, folder: Path) -> None:
    """Start a call that cannot end before there is a file ``go``."""
    console.run("array = numbers(0)")
    console.start(
        "with backend(): result = asked(array, "
        f"[delayed(total_when)(array, i, {str(folder)!r}) for i in range(40)])"
    )


def start_everywhere(cluster: HostCluster, console: Console, folder: Path) -> None:
    """Start that call, and wait until all hosts have its data."""
    start_call(console, folder)
    for host in cluster.hosts:
        wait_for_task(host, folder)


def wait_for_task(host: Host, folder: Path) -> None:
    """Wait until a task of that call has begun on a host, which then has the data."""
    wait_until(
        (folder / host.namespace).exists,
        DEADLINE,
        lambda: f"{host.namespace} received {host.traffic()[0]} bytes",
    )


def kill_workers(host: Host) -> None:
    """Kill each process with tasks; nannies start others."""
    (command,) = host.processes
    for process in psutil.Process(command.pid).children(recursive=True):
        if "resource_tracker" not in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)


def join(cluster: HostCluster, console: Console, folder: Path) -> list[Host]:
    """Add a host in the middle, and go on when it takes part; return those left."""
    start_everywhere(cluster, console, folder)
    joined = cluster.add_host()
    wait_for_task(joined, folder)
    (folder / "go").touch()
    assert joined.namespace in console.result(RESULT_WITHIN)
    return [*cluster.hosts, joined]


def kill_holders(cluster: HostCluster, console: Console, folder: Path) -> list[Host]:
    """Kill all that runs on any host; only one that joins is left."""
    start_everywhere(cluster, console, folder)
    for host in cluster.hosts:
        host.kill()
    joined = cluster.add_host()
    (folder / "go").touch()
    assert console.result(RESULT_WITHIN) == [joined.namespace]
    return [joined]


def kill_their_workers(
    cluster: HostCluster, console: Console, folder: Path
) -> list[Host]:
    """Kill the workers of all hosts, whose nannies start others."""
    start_everywhere(cluster, console, folder)
    for host in cluster.hosts:
        kill_workers(host)
    (folder / "go").touch()
    console.result(RESULT_WITHIN)
    return cluster.hosts


def kill_sender(cluster: HostCluster, console: Console, folder: Path) -> list[Host]:
    """Kill all that runs on a host while it sends data to the other."""
    (folder / "go").touch()
    start_call(console, folder)
    first, second = cluster.hosts
    wait_until(
        lambda: any(2**22 < h.traffic()[1] < SIZE for h in (first, second)),
        DEADLINE,
        lambda: "no host has begun to send",
    )
    sender = max(first, second, key=lambda host: host.traffic()[1])
    sender.kill()
    (receiver,) = {first, second} - {sender}
    assert receiver.namespace in console.result(RESULT_WITHIN)
    return [receiver]


#: What is played, by name.
SCENES: dict[str, Callable[[HostCluster, Console, Path], list[Host]]] = {
    "a host joins": join,
    "every host with it dies": kill_holders,
    "every worker with it dies": kill_their_workers,
    "the sending host dies": kill_sender,
}
