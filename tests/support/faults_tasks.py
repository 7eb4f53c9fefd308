"""What runs on the workers while a fault is fired: see `support.faults_cell`.

All of it is told what to do by files in one folder, and tells by files how far it is:

- ``reading``: an iterable was asked for its first task; it yields when ``begin`` is there
- ``running-NUMBER-PID``: a task runs; it returns when ``go`` is there, later ones of a
  call when ``on`` is
- ``tried-...``: a task that raises did so; what harms does it when ``fire`` is there
- ``held-...``: a client was told that a result is there; while there is a file ``hold``
  it fetches it when ``fetch`` is there
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import psutil
from distributed import Client, Future, get_worker
from joblib import Parallel, delayed

from support.tasks import mark, wait_for_file

#: Seconds that a task waits for a file: longer than any cell may take.
PATIENCE = 300

#: Tasks of a call that return on ``go``: two for each of the four threads, which is what
#: joblib has in flight.
FIRST = 8

#: Bytes that a leaking task takes at a time, and seconds in between, so that the nanny
#: sees it before the machine does.
LEAK = 16 * 2**20
LEAK_INTERVAL = 0.05

#: Share of its worker's limit that a task takes that fills it: dask pauses a worker from
#: 0.8 on, and kills it from 0.95 on.
FILLED = 0.86

#: Number of the task of a call that does harm: the first also of its batch, as those
#: before it may not end until it has.
HARMFUL = 0

#: Nested calls of a call.
OUTER = 2

#: Numbers of the tasks of one nested call are this far from those of the next.
APART = 100


def value(number: int, given: Any) -> int:
    """Return what `work` returns."""
    return number * 10 + (0 if given is None else int(given[number]))


def work(folder: str, number: int, given: Any, how: str) -> int:
    mark(folder, f"running-{number}-{os.getpid()}")
    if how and number % APART == HARMFUL:
        wait_for_file(f"{folder}/fire", PATIENCE)
        HARM[how](folder)
    late = number % APART >= FIRST
    wait_for_file(f"{folder}/{'on' if late else 'go'}", PATIENCE)
    return value(number, given)


def double(number: int) -> int:
    return 2 * number


def warm(given: Any) -> int:
    """Do next to nothing with the data of the call to come."""
    return 0 if given is None else int(given[0])


def tasks(folder: str, numbers: Iterable[int], given: Any, how: str) -> Iterator[Any]:
    """Yield the tasks of a call, as soon as they are wanted and may be."""
    mark(folder, "reading")
    wait_for_file(f"{folder}/begin", PATIENCE)
    for number in numbers:
        yield delayed(work)(folder, number, given, how)


def outer(folder: str, number: int, count: int, given: Any, how: str) -> list[int]:
    """Run a nested call."""
    numbers = range(number * APART, number * APART + count)
    return list(Parallel()(tasks(folder, numbers, given, how)))


# ------------------------------------------------------------------------------- harm
def leak(_: str) -> None:
    """Take memory until killed for it."""
    taken = []
    while True:
        taken.append(b"1" * LEAK)
        time.sleep(LEAK_INTERVAL)


def fill(folder: str) -> None:
    """Take so much memory that dask pauses its worker, and hold it until let go."""
    limit = get_worker().memory_manager.memory_limit
    taken = []
    while psutil.Process().memory_info().rss < FILLED * limit:
        taken.append(b"1" * LEAK)
    wait_for_file(f"{folder}/release", PATIENCE)


def segfault(_: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(_: str) -> None:
    os._exit(11)


def fail(folder: str) -> None:
    """Say that it was tried, and raise."""
    mark(folder, f"tried-{uuid.uuid4()}")
    raise LookupError("on purpose")


HARM = {
    "leak": leak, "fill": fill, "SIGSEGV": segfault, "os._exit": leave, "raise": fail,
}  # fmt: skip


def catch_and_go_on(folder: str, number: int, count: int, given: Any) -> list[int]:
    """Catch the error of a nested call; return the results of the next."""
    numbers = range(number * APART, number * APART + count)
    try:
        Parallel()([delayed(fail)(folder), *[delayed(value)(i, given) for i in numbers]])
    except LookupError:
        return list(Parallel()(delayed(value)(i, given) for i in numbers))
    raise AssertionError("the error was lost")


# --------------------------------------------------------------- of a client, or a worker
def fetch_all() -> None:
    """Have small results fetched, too, as those that are too large to be carried."""
    with contextlib.suppress(ImportError):  # the bundled backend needs nothing of ours
        from joblib_distributed.driver import fetching

        fetching.report_in = lambda _: None


def hold_results(folder: str) -> None:
    """Have the clients of this process fetch results when the folder says so."""
    fetch_all()
    gather = Client._gather

    async def gather_late(client: Client, futures: Any, *args: Any, **rest: Any) -> Any:
        if not os.path.exists(f"{folder}/fetch"):
            await _hold([futures] if isinstance(futures, Future) else futures)
        return await gather(client, futures, *args, **rest)

    async def _hold(futures: Any) -> None:
        # Only batches: a backend may ask for a worker by a task of its own.
        batches = all("batch_of" in str(future.key) for future in futures)
        if not batches or not os.path.exists(f"{folder}/hold"):
            return
        while any(future.status == "pending" for future in futures):
            await asyncio.sleep(0.01)
        if all(future.status == "finished" for future in futures):
            mark(folder, f"held-{uuid.uuid4()}")
            while not os.path.exists(f"{folder}/fetch"):
                await asyncio.sleep(0.01)

    Client._gather = gather_late


def busy(dask_worker: Any) -> list[str]:
    """Return the keys that a worker has queued or is running."""
    return [
        str(key)
        for key, task in dask_worker.state.tasks.items()
        if task.state not in ("released", "forgotten", "memory")
    ]
