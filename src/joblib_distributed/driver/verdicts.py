"""What is said of a task that failed for a reason of ours.

Pure: makes errors of what the ledger of a call knows.
"""

from __future__ import annotations

from joblib_distributed.data.tasks import Tasks
from joblib_distributed.driver.entries import FAILURES_ALLOWED, LOSSES_ALLOWED, Entry
from joblib_distributed.driver.events import AttemptFailed, Looked
from joblib_distributed.errors import (
    InputFailedError,
    JoblibDistributedError,
    NoWorkersError,
    TaskError,
    TaskLostError,
    WorkerDiedError,
)


def worker_died(task: Tasks, deaths: int, detail: str, allowed: int) -> TaskError:
    """Return the error for a task that alone kills its worker, time and again."""
    died = "1 worker died" if deaths == 1 else f"{deaths} workers died in turn"
    return WorkerDiedError.of(
        task.index,
        task.name,
        f"killed the worker processes that ran it, also when it ran alone: {died}, "
        f"{detail} That is more than deaths_allowed={allowed}. "
        "The likely causes are a crash in native code, os._exit, or more memory than "
        "the worker may use. Run this task by itself to see, or give workers more "
        "memory.",
    )


def never_ran(entry: Entry, event: AttemptFailed) -> TaskError | None:
    """Return the error for a task whose attempt ended without an outcome of its own.

    None if it may be tried again.
    """
    task = entry.tasks
    if event.never_began and entry.failures <= FAILURES_ALLOWED:
        return None
    if event.of_input is not None:
        error = InputFailedError.of(
            task.index,
            task.name,
            f"takes a dask future or collection that has no value: {event.detail} Its "
            "own computation failed, which is shown above: see there.",
        )
        error.__cause__ = event.of_input
        return error
    return TaskLostError.of(
        task.index,
        task.name,
        f"could not be started, or gave nothing that could be had: {event.detail} If a "
        "module is missing on the workers, install joblib-distributed and joblib there.",
    )


def lost(entry: Entry) -> TaskError | None:
    """Return the error for a task that the engine forgot too often; None before."""
    if entry.losses <= LOSSES_ALLOWED:
        return None
    return TaskLostError.of(
        entry.tasks.index,
        entry.tasks.name,
        f"was lost by the cluster {entry.losses} times. Either somebody else cancels "
        "it, or its workers or the scheduler are restarted all the time: look at the "
        "scheduler's log.",
    )


def no_worker(entry: Entry, look: Looked, timeout: float) -> JoblibDistributedError:
    """Return the error for a task that no worker could take."""
    task = entry.tasks
    if look.threads and look.constrained:
        reason = (
            f"the cluster has {look.threads} threads, but none that the options "
            "workers= and resources= allow. Correct them, or start such a worker"
        )
    elif look.threads:
        reason = (
            f"the cluster has {look.threads} threads, but takes no tasks: its workers "
            "are probably paused, which dask does when their memory is nearly full. "
            "Give them more memory, or the call smaller tasks"
        )
    else:
        reason = "the cluster has no worker. Start workers, or raise that option"
    return NoWorkersError(
        f"Task {task.index} ({task.name}) found no worker for "
        f"{timeout:g} seconds (wait_for_workers_timeout={timeout:g}): {reason}."
    )
