"""Runs a batch: the worker's side of an attempt.

`run_attempt` is called by the engine in a worker thread, through the bytes that
`driver.cluster` sends. It never raises, and what it returns is bytes wherever it comes,
whatever the user's code does: everything that can go wrong in a task is an outcome.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib

from joblib_distributed.data.batch import BatchPayload, CallContext
from joblib_distributed.data.buffers import unpack_apart, unseal
from joblib_distributed.data.carried import carried
from joblib_distributed.data.outcome import (
    Kind,
    Outcome,
    Stage,
    not_run,
    pack_failure,
    pack_plain,
    pack_report,
)
from joblib_distributed.data.tasks import References, is_plain
from joblib_distributed.data.variables import holding
from joblib_distributed.worker.buffers import (
    BufferMissingError,
    current_worker,
    discard_results,
    find_buffers,
    is_paused,
    pack_result,
    report_missing,
)
from joblib_distributed.worker.clean import remember_context
from joblib_distributed.worker.collecting import collecting
from joblib_distributed.worker.importing import NotNow, importable
from joblib_distributed.worker.initializing import InitializerError, initialize
from joblib_distributed.worker.interrupt import Interrupted, interruptible, is_unwanted
from joblib_distributed.worker.printing import printing
from joblib_distributed.worker.recall import Agenda, note_ended, note_running

#: Seconds between two looks at the time and at what is unwanted. Far below what anybody
#: waits for; a look takes as long as a task that does nothing. A guess.
LOOK_INTERVAL = 0.001


def run_attempt(*parts: object) -> object:
    """Return what `run_batch` does, so that it comes to the driver soon."""
    return carried(run_batch(*parts))


def run_batch(*parts: object) -> bytes:
    """Run the tasks of a batch one by one.

    Parameters
    ----------
    *parts
        The fields of a `BatchPayload`.

    Returns
    -------
    bytes
        A packed `Report`, with the outcomes of all tasks of the batch.
    """
    remember_context()
    batch = BatchPayload(*parts)  # type: ignore[arg-type]
    worker = _worker_name()
    outcomes: list[Outcome] = []
    bench = _Bench(batch, worker)

    def run() -> None:
        _run_tasks(bench, outcomes)

    # Out here, where nothing is interrupted.
    note_running(batch.attempt, bench.recall)
    try:
        with (
            collecting(batch.filters) as collector,
            printing(batch.output, batch.call, batch.attempt, bench.where) as rest,
        ):
            _import_for(
                bench, outcomes, lambda: interruptible(batch.call, run, batch.attempt)
            )
    finally:
        note_ended(batch.attempt, bench.recall)
    if batch.sharing is not None and bench.is_unwanted:
        # The driver has removed what was there when its call ended; this came later.
        discard_results(outcomes, batch.sharing)
    left = bench.left(outcomes)
    outcomes += [not_run(left)] * (left > 0)
    return pack_report(worker, outcomes, collector.found, rest())


def _import_for(
    bench: _Bench, outcomes: list[Outcome], run: Callable[[], object]
) -> None:
    """Run the tasks where they can import the user's own modules."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(importable(bench.modules, bench.load_modules))
        except NotNow:
            return  # all of it is given back
        except BufferMissingError:
            outcomes.append(bench.missing())
            return
        except Exception as error:  # what is in the store may have been damaged
            _fail_all(bench, error, Stage.UNPACK, outcomes)
            return
        run()


def _worker_name() -> str:
    worker = current_worker()
    address = "(no worker)" if worker is None else worker.address
    return f"{address} (pid {os.getpid()})"


def _run_tasks(bench: _Bench, outcomes: list[Outcome]) -> None:
    try:
        with _surroundings(pickle.loads(bench.context)), holding(bench.variables):
            initialize(bench.initializer)
            while not bench.is_over():
                row = bench.agenda.begin_row()
                if row is None:
                    return
                index, function, arguments, plain = row
                if plain:
                    done = _run_plain(bench, function, arguments, outcomes)
                else:
                    outcomes.append(_run_task(bench, index, function, arguments))
                    done = outcomes[-1].kind is Kind.VALUE
                if not done:
                    return  # the driver is to hear of it now, not after the rest
    except Interrupted:
        raise
    except InitializerError as failed:
        _fail_all(bench, failed.error, Stage.INITIALIZE, outcomes)
    except BaseException as error:  # the context is ours, but needs joblib and the like
        _fail_all(bench, error, Stage.UNPACK, outcomes)


def _fail_all(
    bench: _Bench, error: BaseException, stage: Stage, outcomes: list[Outcome]
) -> None:
    failed = Outcome(Kind.ERROR, 0.0, pack_failure(error, stage, bench.worker))
    outcomes.extend([failed] * bench.left(outcomes))


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

    def __init__(self, batch: BatchPayload, worker: str) -> None:
        self._batch = batch
        self.worker = worker
        self.context = batch.context
        self.initializer = batch.initializer
        self.variables = batch.variables
        self.modules = batch.modules
        self.sharing = batch.sharing
        self.agenda = Agenda(batch.tasks)
        # Once it is over it stays so: tasks that follow others which were not begun would
        # be taken for those.
        self._is_over = False
        self._end = math.inf
        self._next_look = -math.inf
        self._loaded: dict[bytes, Callable[..., object]] = {}
        self._scattered: dict[int, object] = {}
        self._found: dict[str, memoryview] = {}

    def is_over(self, now: float | None = None) -> bool:
        """Whether no further task is to be begun.

        The first time this is asked, before any task, the time of the box begins.
        """
        if now is None:
            now = time.perf_counter()
        if now >= self._next_look and not self._is_over:
            if self._end == math.inf:
                self._end = now + self._batch.box
            self._is_over = (
                now > self._end
                or self.is_unwanted
                or (self._next_look > -math.inf and is_paused())
            )
            self._next_look = now + LOOK_INTERVAL
        return self._is_over

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody wants the rest of the call, or of this attempt."""
        return is_unwanted(self._batch.call) or is_unwanted(self._batch.attempt)

    def recall(self) -> tuple[int, float] | None:
        """Answer to `worker.recall.recall`, in another thread than the tasks'."""
        now = time.perf_counter()
        # Whoever has time left looks by itself, if it can; so does who has no box.
        if now > self._end:
            self.agenda.recall()
        kept = self.agenda.kept
        # A task that began later than this would have looked before it did.
        return (kept, max(0.0, now - self._next_look)) if kept else None

    def where(self) -> int:
        """Return the index of the task that is running."""
        return self.agenda.current

    def left(self, outcomes: Sequence[Outcome]) -> int:
        """Return the number of tasks that have no outcome."""
        return self.agenda.size - sum(outcome.size for outcome in outcomes)

    def function(self, key: bytes) -> Callable[..., object]:
        if key not in self._loaded:
            self._loaded[key] = self._unpack(key, self._batch.functions[key])
        return self._loaded[key]

    def arguments(self, index: int, packed: bytes) -> tuple[Any, Any]:
        args, kwargs = self._unpack(index, packed)
        return args, kwargs

    def scattered(self, position: int) -> object:
        if position not in self._scattered:
            self._scattered[position] = self._unpack_apart(
                *self._batch.scattered[position]
            )
        return self._scattered[position]

    def load_modules(self) -> bytes | memoryview:
        """Return the user's own modules, packed."""
        if self.sharing is None:
            return self.modules.content
        readable = self.sharing._replace(mmap_mode="r")
        return find_buffers([self.modules.name], readable, self._batch.buffers)[0]

    def missing(self) -> Outcome:
        """Say what this host has not got of all that the batch needs."""
        assert self.sharing is not None, "only who shares misses buffers"
        references = [
            *self._batch.references.values(),
            *(references for _, references, _ in self._batch.scattered.values()),
        ]
        needed = {name for reference in references for name in reference.names}
        needed.add(self.modules.name)
        needed.discard("")
        return report_missing(needed - set(self._batch.buffers), self.sharing)

    def _unpack(self, key: int | bytes, packed: bytes) -> Any:
        references = self._batch.references.get(key)
        if references is None:
            return pickle.loads(packed)
        return self._unpack_apart(packed, references)

    def _find(self, names: Sequence[str]) -> list[memoryview]:
        """Return buffers; those that nobody may write to are looked for once a batch."""
        sharing, sent = self.sharing, self._batch.buffers
        assert sharing is not None, "only who shares refers to buffers"
        if sharing.mmap_mode != "r":
            return find_buffers(names, sharing, sent)
        lacking = [name for name in names if name not in self._found]
        if lacking:
            self._found.update(
                zip(lacking, find_buffers(lacking, sharing, sent), strict=True)
            )
        # Those that are not large are the task's own, as any that came with it.
        return [
            view if view.nbytes >= sharing.least else memoryview(bytearray(view))
            for view in map(self._found.__getitem__, names)
        ]

    def _unpack_apart(
        self, packed: bytes, references: References, seal: bytes = b""
    ) -> Any:
        buffers: Sequence[memoryview] = ()
        if references.names:
            buffers = self._find(references.names)
        if seal:
            stored, *buffers = buffers
            packed = unseal(stored, seal)
        scattered = self.scattered if references.scattered else None
        return unpack_apart(
            packed, buffers, references.strings, scattered, self._batch.inputs
        )


def _run_task(bench: _Bench, index: int, function: bytes, arguments: bytes) -> Outcome:
    start = time.perf_counter()
    stage = Stage.UNPACK
    try:
        call = bench.function(function)
        args, kwargs = bench.arguments(index, arguments)
        stage = Stage.RUN
        value = call(*args, **kwargs)
        stage = Stage.PACK_RESULT
        outcome = pack_result(value, bench.sharing)
    except Interrupted:
        raise
    except BaseException as error:  # SystemExit too: it must not end the worker
        outcome = _without_value(bench, error, stage)
    return outcome._replace(duration=time.perf_counter() - start)


def _run_plain(
    bench: _Bench, function: bytes, arguments: bytes, outcomes: list[Outcome]
) -> bool:
    """Run neighbours whose arguments are plain, until one fails or the time is over.

    Returns
    -------
    bool
        Whether all of them gave a value.
    """
    done = 0
    values: list[object] = []
    seconds = 0.0
    last: Outcome | None = None
    start = time.perf_counter()
    stage = Stage.UNPACK
    try:
        calls = pickle.loads(arguments)
        args, begin_next = bench.agenda.begin_calls(calls)
        call = bench.function(function)
        stage = Stage.RUN
        while True:
            value = call(*args)
            done += 1
            now = time.perf_counter()
            if not is_plain(value):
                stage = Stage.PACK_RESULT
                last = pack_result(value, bench.sharing)
                stage = Stage.RUN
                if values:
                    outcomes.append(pack_plain(values, seconds))
                    values, seconds = [], 0.0
                now = time.perf_counter()
                outcomes.append(last._replace(duration=now - start))
            else:
                values.append(value)
                seconds += now - start
            start = now
            if bench.is_over(now):
                break
            try:
                args = begin_next()
            except IndexError:
                break
        last = None
        complete = done == len(calls)
    except Interrupted:
        raise
    except BaseException as error:  # as above
        last, complete = _without_value(bench, error, stage), False
    if values:
        outcomes.append(pack_plain(values, seconds))
    if last is not None:
        outcomes.append(last._replace(duration=time.perf_counter() - start))
    return complete


def _without_value(bench: _Bench, error: BaseException, stage: Stage) -> Outcome:
    if isinstance(error, BufferMissingError):
        return bench.missing()
    return Outcome(Kind.ERROR, 0.0, pack_failure(error, stage, bench.worker))
