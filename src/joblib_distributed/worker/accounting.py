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
import mmap
import os
import pickle
import threading
import weakref
from typing import Any

from distributed import Worker

#: Seconds that a task waits for its worker's nanny to have taken note. A guess: it does
#: little else than answer.
NANNY_TIMEOUT = 5.0

_lock = threading.Lock()
_accounted: weakref.WeakSet[Worker] = weakref.WeakSet()


def account_for_mappings(worker: Worker) -> None:
    """Have a worker with a limit on its memory, and its nanny, not count mapped files.

    Called in a task's thread, before it maps any.
    """
    with _lock:  # nobody maps before the nanny is told
        if worker not in _accounted:
            _account(worker)
            _accounted.add(worker)


def _account(worker: Worker) -> None:
    limit = getattr(getattr(worker, "memory_manager", None), "memory_limit", None)
    monitor: Any = getattr(worker, "monitor", None)
    if not limit or not os.path.exists("/proc/self/statm"):
        return
    if hasattr(monitor, "get_process_memory"):
        monitor.get_process_memory = own_memory
    if getattr(worker, "nanny", None) is None:
        return
    told = asyncio.run_coroutine_threadsafe(_tell_nanny(worker), worker.loop.asyncio_loop)
    concurrent.futures.wait([told], NANNY_TIMEOUT)


async def _tell_nanny(worker: Worker) -> None:
    async with worker.rpc(worker.nanny) as nanny:
        await nanny.run(function=pickle.dumps(account_in_nanny))


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
