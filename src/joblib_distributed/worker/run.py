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
from collections.abc import Iterator, Sequence
from typing import Any

import joblib

from joblib_distributed.data.buffers import unpack_apart
from joblib_distributed.data.outcome import (
    NOT_RUN,
    Kind,
    Outcome,
    Stage,
    pack_failure,
    pack_report,
)
from joblib_distributed.data.payload import BatchPayload, CallContext, References
from joblib_distributed.worker.buffers import (
    BufferMissingError,
    current_worker,
    discard_results,
    find_buffers,
    pack_result,
    report_missing,
)
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
    if batch.sharing is not None and is_unwanted(batch.call):
        # The driver has removed what was there when its call ended; this came later.
        discard_results(outcomes, batch.sharing)
    missing = len(batch.tasks) - len(outcomes)
    return pack_report(worker, outcomes + [NOT_RUN] * missing)


def _worker_name() -> str:
    worker = current_worker()
    address = "(no worker)" if worker is None else worker.address
    return f"{address} (pid {os.getpid()})"


def _run_tasks(batch: BatchPayload, worker: str, outcomes: list[Outcome]) -> None:
    bench = _Bench(batch)
    try:
        surroundings = _surroundings(pickle.loads(batch.context))
        with surroundings:
            for index, function, arguments in batch.tasks:
                if is_unwanted(batch.call):
                    return
                outcome = _run_task(bench, index, function, arguments, worker)
                outcomes.append(outcome)
                if outcome.kind is not Kind.VALUE:
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


class _Bench:
    """What the tasks of one batch are made of, unpickled when first needed.

    Functions are not shared between batches: one may carry state, and two threads of a
    worker must not share it.
    """

    def __init__(self, batch: BatchPayload) -> None:
        self._batch = batch
        self.sharing = batch.sharing
        self._loaded: dict[bytes, object] = {}
        self._scattered: dict[int, object] = {}

    def function(self, key: bytes) -> object:
        if key not in self._loaded:
            self._loaded[key] = self._unpack(key, self._batch.functions[key])
        return self._loaded[key]

    def arguments(self, index: int, packed: bytes) -> tuple[Any, Any]:
        args, kwargs = self._unpack(index, packed)
        return args, kwargs

    def scattered(self, position: int) -> object:
        if position not in self._scattered:
            packed, references = self._batch.scattered[position]
            self._scattered[position] = self._unpack_apart(packed, references)
        return self._scattered[position]

    def missing(self) -> Outcome:
        """Say what this host has not got of all that the batch needs."""
        assert self.sharing is not None, "only who shares misses buffers"
        references = [
            *self._batch.references.values(),
            *(references for _, references in self._batch.scattered.values()),
        ]
        needed = {name for reference in references for name in reference.names}
        return report_missing(needed - set(self._batch.buffers), self.sharing)

    def _unpack(self, key: int | bytes, packed: bytes) -> Any:
        references = self._batch.references.get(key)
        if references is None:
            return pickle.loads(packed)
        return self._unpack_apart(packed, references)

    def _unpack_apart(self, packed: bytes | memoryview, references: References) -> Any:
        buffers: Sequence[memoryview] = ()
        if references.names:
            assert self.sharing is not None, "only who shares refers to buffers"
            buffers = find_buffers(references.names, self.sharing, self._batch.buffers)
        if not packed:
            packed, *buffers = buffers
        scattered = self.scattered if references.scattered else None
        return unpack_apart(
            packed, buffers, references.strings, scattered, self._batch.inputs
        )


def _run_task(
    bench: _Bench, index: int, function: bytes, arguments: bytes, worker: str
) -> Outcome:
    start = time.perf_counter()
    stage = Stage.UNPACK
    try:
        call = bench.function(function)
        args, kwargs = bench.arguments(index, arguments)
        stage = Stage.RUN
        value = call(*args, **kwargs)  # type: ignore[operator]
        stage = Stage.PACK_RESULT
        outcome = pack_result(value, bench.sharing)
    except Interrupted:
        raise
    except BufferMissingError:
        outcome = bench.missing()
    except BaseException as error:  # SystemExit too: it must not end the worker
        outcome = Outcome(Kind.ERROR, 0.0, pack_failure(error, stage, worker))
    return outcome._replace(duration=time.perf_counter() - start)
