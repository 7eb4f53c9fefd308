"""The cluster we start when there is none.

A `distributed.LocalCluster` of one process per available core, on loopback only, that
admits nobody else, started on first use, shared by all calls of the process, closed at
its exit. See ``docs/security.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import joblib
from distributed import LocalCluster, Nanny
from distributed.worker import Worker

from joblib_distributed.data.folders import StoreError, check_own
from joblib_distributed.driver.certificate import temporary_security

#: Name under which joblib registers loky's way of starting a process. Unlike
#: multiprocessing's own it does not run the user's script again in each worker, so that
#: a script needs no ``if __name__ == "__main__"``.
START_METHOD = "loky"

#: Seconds that closing may take before the workers are killed. dask itself gives a busy
#: worker 5; the rest is a guess.
CLOSE_TIMEOUT = 10.0

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SETTING = "distributed.worker.multiprocessing-method"

#: Seconds between two looks of the engine whether its event loops are alive. Its own 0.02
#: s cost three servers in this process, and each worker, 1 to 3 % of a core, measured;
#: it warns of what takes more than 3 s.
TICK = 0.5

#: What else the engine does of its own accord, whatever the tasks are, is off: its
#: profile takes an idle worker 1 % of a core, measured. Who wants to read it starts a
#: cluster of his own.
_QUIET = {
    "distributed.admin.tick.interval": f"{TICK} s",
    "distributed.worker.profile.enabled": False,
}


#: How many ends of workers are remembered. A guess: they are asked for at once.
REMEMBERED = 100

#: Seconds in which a nanny hears that its worker has ended, at most: the scheduler often
#: is the first to. A guess.
EXIT_TIMEOUT = 1.0

_exit_codes: OrderedDict[str, int] = OrderedDict()
_exits_awaited: dict[str, list[asyncio.Future[None]]] = {}


async def exit_code_of(address: str) -> int | None:
    """Return how the process of an embedded worker ended: ``-n`` by signal ``n``.

    On the loop of its nanny, just after the worker's connection has ended. None if it is
    not known.
    """
    if address not in _exit_codes:
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        _exits_awaited.setdefault(address, []).append(heard)
        await asyncio.wait({heard}, timeout=EXIT_TIMEOUT)
        _exits_awaited.pop(address, None)
    return _exit_codes.get(address)


def _note_exit(address: str, code: int) -> None:
    _exit_codes[address] = code
    while len(_exit_codes) > REMEMBERED:
        _exit_codes.popitem(last=False)
    for heard in _exits_awaited.pop(address, ()):
        if not heard.done():
            heard.set_result(None)


class _LokyNanny(Nanny):  # type: ignore[misc]
    """A nanny that starts its worker by loky's method, and has it do nothing else."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        workers = {**(keywords.pop("config", None) or {}), **_QUIET}
        with settings(_QUIET):
            super().__init__(*args, config=workers, **keywords)

    #: By which the worker's process is told to stop.
    _stop_queue: Any = None

    async def instantiate(self) -> Any:
        return await _Configured(
            super().instantiate(),
            {_SETTING: START_METHOD},
            self._after_step,
        )

    def _after_step(self) -> None:
        _let_it_be_killed(self)
        queue = getattr(self.process, "child_stop_q", None)
        self._stop_queue = queue or self._stop_queue

    def _on_worker_exit_sync(self, exitcode: int) -> None:
        # dask closes it only when it stops the worker itself. The thread of one of loky's
        # keeps it otherwise, until at the exit of this process they all let go of their
        # semaphores, and those that are too late count as leaked.
        if self._stop_queue is not None:
            self._stop_queue.close()
            self._stop_queue = None
        address = getattr(self.process, "worker_address", None)
        if address:
            _note_exit(address, exitcode)
        super()._on_worker_exit_sync(exitcode)


def _let_it_be_killed(nanny: Nanny) -> None:
    """Give a worker's process the ``kill`` that loky's lacks on POSIX.

    Without it a nanny cannot end a worker that is busy in C code, and closing the
    cluster hangs.
    """
    process = getattr(getattr(nanny.process, "process", None), "_process", None)
    popen = getattr(process, "_popen", None)
    if popen is not None and not hasattr(popen, "kill"):
        popen.kill = functools.partial(_kill, popen.pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, signal.SIGKILL)


_settings_lock = threading.Lock()


@contextlib.contextmanager
def settings(changed: dict[str, Any]) -> Iterator[None]:
    """Change dask's configuration, which is the process's, for a moment.

    Two threads that change and restore it in turn would leave it changed.
    """
    with _settings_lock, dask.config.set(changed):
        yield


class _Configured:
    """Awaits a coroutine with dask's configuration changed, but only while it runs.

    dask's configuration is the process's. Between two steps of the coroutine, which may
    be seconds apart, the user's own settings are in force. `after_step` is called after
    each.
    """

    def __init__(
        self,
        coroutine: Any,
        settings: dict[str, Any],
        after_step: Callable[[], None],
    ) -> None:
        self._coroutine = coroutine
        self._settings = settings
        self._after_step = after_step

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        step, given = steps.send, None
        while True:
            try:
                with settings(self._settings):
                    awaited = step(given)
            except StopIteration as end:
                return end.value
            finally:
                self._after_step()
            try:
                step, given = steps.send, (yield awaited)
            except BaseException as error:
                step, given = steps.throw, error


_lock = threading.Lock()
_clusters: dict[tuple[int, int, int, bool], LocalCluster] = {}


def size(n_workers: int | None, threads_per_worker: int | None) -> tuple[int, int]:
    """Return the number of processes, and of threads in each, that would be started."""
    threads = threads_per_worker or 1
    return n_workers or max(1, joblib.cpu_count() // threads), threads


def start(processes: int, threads: int, tls: bool) -> LocalCluster:
    """Return the running embedded cluster of this kind, starting it if need be."""
    # A forked child must not use its parent's cluster: it has none of its threads.
    key = (os.getpid(), processes, threads, tls)
    with _lock:
        cluster = _clusters.get(key)
        if cluster is None or cluster.status.name != "running":
            cluster = _clusters[key] = _start(processes, threads, tls)
        restore(cluster)
        return cluster


def restore(cluster: LocalCluster) -> None:
    """Start again the workers that an embedded cluster has given up.

    distributed closes a worker's nanny for good if the worker is away at the moment
    ``lost-worker-timeout`` (15 s) after any of its deaths, though it may have come back
    and died again in between.
    """
    if len(cluster.workers) < len(cluster.worker_spec):
        cluster.scale(len(cluster.worker_spec))


def _start(processes: int, threads: int, tls: bool) -> LocalCluster:
    folder = _scratch_folder()
    cluster = LocalCluster(
        n_workers=processes,
        threads_per_worker=threads,
        worker_class=_LokyNanny if _can_start_processes() else Worker,
        host="127.0.0.1",
        protocol="tls://" if tls else "tcp://",
        security=temporary_security() if tls else None,
        local_directory=folder,
        scheduler_kwargs={"local_directory": folder},
        # Nothing but loopback, and no limit: the user's own machine is the limit.
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        preload="joblib_distributed.worker.preload",
    )
    _calm(cluster.scheduler)
    return cluster


def _calm(scheduler: Any) -> None:
    """Have a scheduler that has started look less often whether its loop is alive.

    Rests on ``Server.periodic_callbacks["tick"]`` being tornado's (distributed 2025.9 to
    2026.8). Without it, an idle process takes 1 % of a core more.
    """
    tick: Any = getattr(scheduler, "periodic_callbacks", {}).get("tick")
    if hasattr(tick, "callback_time"):
        tick.callback_time = TICK * 1000


#: Folders that clusters of this process have worked in, by process: each open, and with a
#: shared lock, as long as they may.
_scratch_folders: dict[tuple[int, Path], int] = {}

#: What dask leaves in such a folder when nobody uses it any more.
_LOCKS = ("dask-scratch-space/global.lock", "dask-scratch-space/purge.lock")


def _enter(folder: Path) -> bool:
    """Keep a folder from being removed; False if it just has been."""
    if (os.getpid(), folder) in _scratch_folders:
        return True
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for one that is leaving
    if os.fstat(descriptor).st_nlink == 0:
        os.close(descriptor)
        return False
    _scratch_folders[os.getpid(), folder] = descriptor
    return True


def _leave(folder: Path, descriptor: int) -> None:
    """Let go of a folder; the last one out removes it, unless there is more in it."""
    with contextlib.suppress(OSError):  # somebody else is there, or something
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in _LOCKS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(folder / name)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(folder / "dask-scratch-space")
        os.rmdir(folder)
    os.close(descriptor)


def _scratch_folder() -> str | None:
    """Return where workers keep files; None for dask's own place.

    They import modules from there: it must be a folder that no other user can put
    anything into. dask's own is that of whoever made ``/tmp/dask-scratch-space`` first.
    """
    if fcntl is None:  # Windows, where temporary files are the user's own
        return None
    parent = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    number = 0
    while True:
        # Always the same, so that what dead workers have left is found and removed; or
        # the next one, if another user has been there before.
        folder = Path(parent, f"joblib-distributed-{os.getuid()}-workers-{number}")
        with contextlib.suppress(FileExistsError):
            os.makedirs(folder, 0o700)
        try:
            check_own(folder)
            if _enter(folder):
                return str(folder)
        except FileNotFoundError:  # the last one out has removed it
            continue
        except StoreError:
            number += 1


def _can_start_processes() -> bool:
    import multiprocessing

    # Worker processes of dask and of multiprocessing's pools are daemons, which may not
    # have children; there the embedded cluster is made of threads.
    if multiprocessing.current_process().daemon:
        return False
    try:
        multiprocessing.Lock()  # a semaphore, which Linux keeps in /dev/shm
    except (OSError, ImportError) as error:
        warnings.warn(
            f"No processes can be started here: {error!r}. Tasks run in threads of this "
            "process. Make /dev/shm writable to have a process for each core.",
            stacklevel=2,
        )
        return False
    return True


def close_all() -> None:
    """Close every embedded cluster of this process."""
    with _lock:
        mine = [key for key in _clusters if key[0] == os.getpid()]
        # The last one first: each leaves dask's log level as it has found it.
        clusters = [_clusters.pop(key) for key in reversed(mine)]
    for cluster in clusters:
        _close(cluster)
    for key in [key for key in _scratch_folders if key[0] == os.getpid()]:
        _leave(key[1], _scratch_folders.pop(key))


def _close(cluster: LocalCluster) -> None:
    processes = [nanny.pid for nanny in cluster.workers.values() if hasattr(nanny, "pid")]
    try:
        cluster.close(timeout=CLOSE_TIMEOUT)
    except distributed.TimeoutError:
        for pid in filter(None, processes):
            _kill(pid)
