"""Memory that is a mapped file is not counted as the worker's own.

The engine measures a process by its resident memory, of which every shared page counts
in full: a worker that maps a file as large as its limit is paused, and killed by its
nanny, although all of it can be dropped at any time, and lies on the host once. Here both
are made to measure resident less shared memory.

Rests on names that distributed does not document; see ``docs/architecture.md``. Without
them, or where the system does not tell shared memory apart, all stays as it was.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import mmap
import os
import pickle
import threading
import weakref
from typing import Any

from distributed import Worker

#: Seconds that a task, or a transfer, waits for its worker's nanny to have taken note. A
#: guess: it does little else than answer.
NANNY_TIMEOUT = 5.0

_lock = threading.Lock()
#: Of each worker: done once its nanny has taken note, or will not.
_accounted: weakref.WeakKeyDictionary[Worker, concurrent.futures.Future[None]] = (
    weakref.WeakKeyDictionary()
)


def account_for_mappings(worker: Worker) -> None:
    """Have a worker with a limit on its memory, and its nanny, not count mapped files.

    Called in a task's thread, before it maps any: nobody maps before the nanny is told.
    """
    concurrent.futures.wait([_account_once(worker)], NANNY_TIMEOUT)


async def account_on_loop(worker: Worker) -> None:
    """Do the same on the worker's event loop, where it must not block."""
    told = _account_once(worker)
    if not told.done():  # shielded, as others wait for it, too
        await asyncio.shield(asyncio.wrap_future(told))


def _account_once(worker: Worker) -> concurrent.futures.Future[None]:
    with _lock:
        told = _accounted.get(worker)
        if told is None:
            told = _accounted[worker] = _account(worker)
        return told


def _account(worker: Worker) -> concurrent.futures.Future[None]:
    told: concurrent.futures.Future[None] = concurrent.futures.Future()
    limit = getattr(getattr(worker, "memory_manager", None), "memory_limit", None)
    monitor: Any = getattr(worker, "monitor", None)
    is_limited = limit and os.path.exists("/proc/self/statm")
    if is_limited and hasattr(monitor, "get_process_memory"):
        monitor.get_process_memory = own_memory
    if is_limited and getattr(worker, "nanny", None) is not None:
        telling = _tell_nanny(worker)
        return asyncio.run_coroutine_threadsafe(telling, worker.loop.asyncio_loop)
    told.set_result(None)
    return told


async def _tell_nanny(worker: Worker) -> None:
    # Whatever it raised there is raised here, too: all then stays as it was.
    with contextlib.suppress(Exception):
        async with worker.rpc(worker.nanny) as nanny:
            said = nanny.run(function=pickle.dumps(account_in_nanny))
            await asyncio.wait_for(said, NANNY_TIMEOUT)


def account_in_nanny(dask_worker: Any) -> None:
    """Have a nanny, also of the next worker that it starts, not count mapped files."""
    callback = dask_worker.periodic_callbacks.get("memory_monitor")
    if callback is None or isinstance(callback.callback, _Monitor):
        return
    callback.callback = _Monitor(dask_worker, callback.callback)


class _Monitor:
    """Asks the engine's own monitor only about a worker whose own memory is too large."""

    def __init__(self, nanny: Any, engines: Any) -> None:
        self._nanny = weakref.ref(nanny)
        self._engines = engines

    def __call__(self) -> None:
        nanny = self._nanny()
        process = getattr(getattr(nanny, "process", None), "process", None)
        pid = getattr(process, "pid", None)
        if pid is not None:
            manager = nanny.memory_manager  # type: ignore[union-attr]
            most = manager.memory_limit * manager.memory_terminate_fraction
            try:
                if own_memory(pid) <= most:
                    return
            except OSError:  # it has ended
                return
        self._engines()


def own_memory(pid: int | None = None) -> int:
    """Return the resident memory of a process, in bytes, less what is shared.

    Raises
    ------
    OSError
        If the system does not tell, or there is no such process.
    """
    with open(f"/proc/{pid or 'self'}/statm", encoding="ascii") as statm:
        _, resident, shared, *_ = map(int, statm.read().split())
    return (resident - shared) * mmap.PAGESIZE
