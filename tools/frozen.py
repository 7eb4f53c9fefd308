"""How much later does a call end if a worker is frozen that has the last of its tasks.

On a real ``dask scheduler`` and two ``dask worker`` processes. First the call runs
undisturbed, three times. Then the worker that runs the last task is stopped by SIGSTOP
while it does, and never goes on. The call is to end within 1.2 times its undisturbed
time and one speculation delay, which is the option ``frozen_after``.

Prints, for each round, the seconds that the call took and those it may take. Exits with 1
if one took more, or if a result is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
from distributed import Client
from joblib import Parallel, delayed

import joblib_distributed

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.certificate import Certificate, protocol
from support.processes import CommandLineCluster
from support.waiting import wait_until

#: Runs whose median is the undisturbed time.
UNDISTURBED = 3

DEADLINE = 60

#: A link whose target is the process that was frozen: it is made with its content.
FROZEN = "frozen"


def nap(folder: str, number: int, last: int, seconds: float) -> int:
    """Take so long; if there is a folder, the last task once freezes its worker."""
    time.sleep(seconds / 2)
    if folder and number == last:
        with contextlib.suppress(FileExistsError):
            Path(folder, FROZEN).symlink_to(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(seconds / 2)
    return 2 * number


def call(folder: str, tasks: int, seconds: float) -> float:
    """Run the call; return the seconds that it took."""
    start = time.monotonic()
    numbers = range(tasks)
    found = Parallel()(delayed(nap)(folder, i, tasks - 1, seconds) for i in numbers)
    took = time.monotonic() - start
    if found != [2 * i for i in numbers]:
        raise AssertionError(f"wrong results: {found}")
    return took


def frozen(client: Client, tasks: int, seconds: float) -> float:
    """Run the call, and freeze the worker that has the last task; return the seconds."""
    addresses = {pid: address for address, pid in client.run(os.getpid).items()}
    with tempfile.TemporaryDirectory(prefix="joblib-distributed-frozen-") as folder:
        try:
            took = call(folder, tasks, seconds)
        finally:
            pid = int(os.readlink(Path(folder, FROZEN)))
            os.kill(pid, signal.SIGKILL)  # its nanny starts another
    gone = addresses[pid]
    wait_until(
        lambda: (
            len(members := client.nthreads()) == len(addresses) and gone not in members
        ),
        DEADLINE,
        lambda: "the worker was not started again",
    )
    return took


def undisturbed(tasks: int, seconds: float, runs: int = UNDISTURBED) -> list[float]:
    """Run the call once for all that is made once, then more often; return the times."""
    call("", tasks, seconds)
    return [call("", tasks, seconds) for _ in range(runs)]


def measure(client: Client, given: argparse.Namespace) -> bool:
    """Print the times; return whether all were as they are to be."""
    usual = statistics.median(undisturbed(given.tasks, given.seconds))
    bound = given.slowdown * usual + given.frozen_after
    print(f"undisturbed: {usual:.2f} s, the median of {UNDISTURBED}; "
          f"the delay: {given.frozen_after:g} s; "
          f"so it may take {bound:.2f} s", flush=True)  # fmt: skip
    good = True
    for _ in range(given.rounds):
        # A worker that was started again has not imported yet what tasks need.
        undisturbed(given.tasks, given.seconds, 0)
        took = frozen(client, given.tasks, given.seconds)
        good = good and took <= bound
        print(f"with a worker frozen that has the last task: {took:.2f} s, which is "
              f"{'good' if took <= bound else 'TOO LONG'}", flush=True)  # fmt: skip
    return good


@contextlib.contextmanager
def on_cluster(workers: int, threads: int, tls: bool, **options: Any) -> Iterator[Client]:
    """Have joblib run on real commands of dask's; give our client of them.

    Parameters
    ----------
    workers, threads : int
        Number of ``dask worker`` commands, and of the threads of each.
    tls : bool
        Whether they speak TLS.
    **options
        Of the backend.
    """
    with tempfile.TemporaryDirectory(prefix="joblib-distributed-tls-") as folder:
        if tls:
            Certificate(Path(folder)).use()
        with CommandLineCluster(workers, threads, f"--protocol={protocol()}") as cluster:
            options["scheduler_host"] = cluster.address
            client = joblib_distributed.get_client(scheduler_host=cluster.address)
            try:
                with joblib.parallel_config(backend="dask.distributed", **options):
                    print(f"{workers} workers of {threads} threads at "
                          f"{protocol()}://", flush=True)  # fmt: skip
                    yield client
            finally:
                client.close()
                joblib_distributed.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each task")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of each worker")
    parser.add_argument("--frozen-after", type=float, default=10, help="the delay")
    parser.add_argument(
        "--slowdown", type=float, default=1.2,
        help="times the undisturbed time that the call may take, beside the delay",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="with a frozen worker")
    parser.add_argument("--tls", action="store_true", help="over TLS, both ways")
    given = parser.parse_args()
    options = {"frozen_after": given.frozen_after}
    with on_cluster(given.workers, given.threads, given.tls, **options) as client:
        good = measure(client, given)
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
