"""Runs a batch: the worker's side of an attempt.

`run_batch` is called by the engine in a worker thread, through the bytes that
`driver.cluster` sends. It never raises and always returns bytes, whatever the user's
code does: everything that can go wrong in a task is an outcome.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Iterator

import joblib
from distributed import get_worker

from joblib_distributed.data.outcome import (
    NOT_RUN,
    Kind,
    Outcome,
    Stage,
    pack_failure,
    pack_report,
)
from joblib_distributed.data.payload import BatchPayload, CallContext, pack
from joblib_distributed.worker.interrupt import Interrupted, interruptible, is_unwanted


def run_batch(*parts: object) -> bytes:
    """Run the tasks of a batch one by one.

    Parameters
    ----------
    *parts
        The fields of a `BatchPayload`.

    Returns
    -------
    bytes
        A packed `Report`, with an outcome for each task of the batch.
    """
    batch = BatchPayload(*parts)  # type: ignore[arg-type]
    worker = _worker_name()
    outcomes: list[Outcome] = []

    def run() -> None:
        _run_tasks(batch, worker, outcomes)

    interruptible(batch.call, run)
    missing = len(batch.tasks) - len(outcomes)
    return pack_report(worker, outcomes + [NOT_RUN] * missing)


def _worker_name() -> str:
    try:
        address = get_worker().address
    except ValueError:  # not called by the engine
        address = "(no worker)"
    return f"{address} (pid {os.getpid()})"


def _run_tasks(batch: BatchPayload, worker: str, outcomes: list[Outcome]) -> None:
    functions = _Functions(batch.functions)
    try:
        surroundings = _surroundings(pickle.loads(batch.context))
        with surroundings:
            for _, function, arguments in batch.tasks:
                if is_unwanted(batch.call):
                    return
                outcome = _run_task(functions, function, arguments, worker)
                outcomes.append(outcome)
                if outcome.kind is Kind.ERROR:
                    return  # the driver is to hear of it now, not after the rest
    except Interrupted:
        raise
    except BaseException as error:  # the context is ours, but needs joblib and the like
        failed = Outcome(Kind.ERROR, 0.0, pack_failure(error, Stage.UNPACK, worker))
        outcomes.extend([failed] * (len(batch.tasks) - len(outcomes)))


@contextlib.contextmanager
def _surroundings(context: CallContext) -> Iterator[None]:
    """Make nested calls come back to us, and limit the threads of libraries."""
    with contextlib.ExitStack() as stack:
        if context.inner_max_num_threads is not None:
            from threadpoolctl import threadpool_limits  # costs 20 ms, rarely needed

            stack.enter_context(threadpool_limits(context.inner_max_num_threads))
        stack.enter_context(
            joblib.parallel_config(
                backend=context.nested_backend, n_jobs=context.nested_n_jobs
            )
        )
        yield


class _Functions:
    """The functions of one batch, unpickled when first needed.

    Not shared between batches: a function may carry state, and two threads of a worker
    must not share it.
    """

    def __init__(self, packed: dict[bytes, bytes]) -> None:
        self._packed = packed
        self._loaded: dict[bytes, object] = {}

    def load(self, key: bytes) -> object:
        if key not in self._loaded:
            self._loaded[key] = pickle.loads(self._packed[key])
        return self._loaded[key]


def _run_task(
    functions: _Functions, function: bytes, arguments: bytes, worker: str
) -> Outcome:
    start = time.perf_counter()
    stage = Stage.UNPACK
    try:
        call = functions.load(function)
        args, kwargs = pickle.loads(arguments)
        stage = Stage.RUN
        value = call(*args, **kwargs)  # type: ignore[operator]
        stage = Stage.PACK_RESULT
        kind, packed = Kind.VALUE, pack(value)
    except Interrupted:
        raise
    except BaseException as error:  # SystemExit too: it must not end the worker
        kind, packed = Kind.ERROR, pack_failure(error, stage, worker)
    return Outcome(kind, time.perf_counter() - start, packed)
