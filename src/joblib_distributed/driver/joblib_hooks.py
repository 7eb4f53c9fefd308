"""The only module that touches names of joblib that it does not document.

Each hook is guarded, has a test that says which release broke it, and is listed in
``docs/architecture.md``.
"""

from __future__ import annotations

import itertools
import operator
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib.parallel

#: The ``status`` of a callback of joblib's that has not been called, and of one that is
#: to raise.
_PENDING = getattr(joblib.parallel, "TASK_PENDING", "Pending")
_ERROR = getattr(joblib.parallel, "TASK_ERROR", "Error")

#: Seconds that the user's thread waits at most before it looks around: a timeout may be
#: over, or somebody want to interrupt it. A guess; joblib itself looks every 0.01 s.
LONGEST_PAUSE = 0.05

#: What joblib calls a callback with; called exactly once for each batch.
Callback = Callable[[Any], object]


def tasks_of(batch: Any) -> Sequence[Any]:
    """Return the items of a joblib batch, each as the iterable gave it.

    Rests on ``BatchedCalls.items`` (joblib 1.5 to 1.6).
    """
    return list(batch.items)


class _PackedItems(itertools.chain):  # type: ignore[type-arg]
    """Reads an iterable, packing each item before the next is read.

    A `chain`, because a method of Python's would take longer than a small task.
    """


def _noting_end(note: Callable[[], object]) -> Iterator[Any]:
    """Take note that this is read, which yields nothing."""
    note()
    yield from ()


def _length_of(items: Any) -> int:
    """Return how many tasks an iterable says that it has; negative if it does not say."""
    try:
        return operator.length_hint(items, -1)
    except Exception:  # of the user's, whom joblib does not ask
        return -1


def pack_when_read(
    parallel: Any,
    pack: Callable[[Any], Any],
    note_slice: Callable[[float], object],
    note_length: Callable[[int], object],
) -> None:
    """Have a `Parallel` pack each task as its iterable yields it.

    joblib reads several tasks ahead before it dispatches the first. An iterable that
    uses one buffer for all of its tasks has then overwritten it, and all of them would
    see its last content.

    The last tasks, which joblib parts into many small batches, are dispatched at once
    rather than one batch whenever another is done.

    Rests on ``Parallel.dispatch_one_batch(iterator)`` being what reads the iterable,
    on ``_original_iterator``, and on ``_ready_batches`` being a queue of what was read
    and is not dispatched (joblib 1.5 to 1.6).

    Parameters
    ----------
    parallel : joblib.Parallel
    pack : callable
        Takes an item; what it returns takes its place.
    note_slice : callable
        Told how many seconds joblib took to read some tasks and hand them over.
    note_length : callable
        Told how many tasks are left to be read, negative if unknown; 0 at the end.
    """
    dispatch_one_batch = type(parallel).dispatch_one_batch
    ended = threading.Event()

    def note_end() -> None:
        ended.set()
        note_length(0)

    def dispatch_packed(items: Any) -> Any:
        if not isinstance(items, _PackedItems):
            if items is parallel._original_iterator:
                note_length(_length_of(items))
                packed = _PackedItems(map(pack, items), _noting_end(note_end))
                # joblib compares the two to find out that it reads the last tasks.
                parallel._original_iterator = packed
            else:
                packed = _PackedItems(map(pack, items))
            items = packed
        start = time.perf_counter()
        try:
            dispatched = dispatch_one_batch(parallel, items)
        finally:
            note_slice(time.perf_counter() - start)
        while ended.is_set() and dispatched and not parallel._ready_batches.empty():
            dispatched = dispatch_one_batch(parallel, items)
        return dispatched

    parallel.dispatch_one_batch = dispatch_packed


def forget_leftovers(parallel: Any) -> None:
    """Drop what a call that ended early has left in its `Parallel`.

    joblib keeps batches that were read and not dispatched for the next call, which would
    then return results of the other one's tasks before its own; and trackers of batches,
    which the next call would wait for.

    Rests on ``Parallel._ready_batches``, ``_jobs`` and ``_jobs_set`` (joblib 1.5 to 1.6).
    """
    parallel._ready_batches = queue.Queue()
    for name in ("_jobs", "_jobs_set"):
        left = getattr(parallel, name, None)
        if left is not None:
            left.clear()


def grows_with_n_jobs(parallel: Any) -> bool:
    """Whether a `Parallel` reads its iterable further ahead the more jobs it has.

    Not if the user said how far, as a number. Rests on ``Parallel.pre_dispatch``.
    """
    return "n_jobs" in str(getattr(parallel, "pre_dispatch", ""))


def sizes_batches(parallel: Any) -> bool:
    """Whether a `Parallel` leaves it to the backend how many tasks are in a batch.

    Rests on ``Parallel.batch_size``.
    """
    return bool(getattr(parallel, "batch_size", "auto") == "auto")


def returns_list(parallel: Any) -> bool:
    """Whether a `Parallel` returns nothing before all is done.

    Rests on ``Parallel.return_generator`` (joblib 1.5 to 1.6).
    """
    return not getattr(parallel, "return_generator", True)


def returns_in_order(parallel: Any) -> bool:
    """Whether a `Parallel` returns results in the order of their tasks.

    Rests on ``Parallel.return_ordered`` (joblib 1.5 to 1.6).
    """
    return bool(getattr(parallel, "return_ordered", True))


def wait_for_results(
    parallel: Any,
    arrived: threading.Event,
    withheld: list[Exception],
    look: Callable[[], object],
) -> None:
    """Have a `Parallel` go on as soon as results have arrived.

    joblib looks for them every 10 ms, which is longer than a short call takes.

    Rests on ``Parallel._wait_retrieval()`` being asked before each of these pauses, on
    ``_jobs``, ``return_ordered`` and ``_aborting``, and on the ``status`` of callbacks
    (joblib 1.5 to 1.6); without them, joblib pauses. For errors withheld, as
    `carry_back`, and on ``status`` and ``_result`` of callbacks being what they raise.

    Parameters
    ----------
    parallel : joblib.Parallel
    arrived : threading.Event
        Set after each of joblib's callbacks.
    withheld : list of Exception
        To be raised after all results; may grow until the last is here.
    look : callable
        Called in the user's thread now and then, and when results have arrived.
    """
    has_more = getattr(type(parallel), "_wait_retrieval", None)
    if has_more is None:
        return

    def wait() -> bool:
        while True:
            # 1. Forget what has arrived, 2. look for it, 3. wait: what arrives in
            # between ends the wait.
            arrived.clear()
            look()
            goes_on = bool(has_more(parallel))
            while not goes_on and withheld:
                _raise_at_last(parallel, withheld.pop(0))
            if not goes_on or not _would_pause(parallel):
                return goes_on
            if not arrived.wait(LONGEST_PAUSE) and parallel.timeout is not None:
                return True  # joblib pauses, and looks whether the time is over

    parallel._wait_retrieval = wait


def _raise_at_last(parallel: Any, error: Exception) -> None:
    """Have joblib raise an error when it has returned all results that are here."""
    try:
        tracker = joblib.parallel.BatchCompletionCallBack(0, 1, parallel)
        tracker.status, tracker._result = _ERROR, error
        parallel._jobs.append(tracker)
    except (AttributeError, TypeError):
        raise error from None  # too early, but not lost


def _would_pause(parallel: Any) -> bool:
    jobs = getattr(parallel, "_jobs", None)
    if jobs is None or getattr(parallel, "_aborting", True):
        return False
    is_ordered = getattr(parallel, "return_ordered", True)
    return not jobs or (is_ordered and getattr(jobs[0], "status", "") == _PENDING)


def undo(parallel: Any) -> None:
    """Undo `pack_when_read` and `wait_for_results`."""
    vars(parallel).pop("dispatch_one_batch", None)
    vars(parallel).pop("_wait_retrieval", None)


def carry_back(parallel: Any, callback: Any, outcome: object) -> bool:
    """Make joblib raise in the user's thread what was raised in ours.

    joblib carries back an `Exception` of the user's iterable by registering a batch
    that has failed. It forgets to for other exceptions, a `KeyboardInterrupt` say: they
    end the callback and joblib waits for ever. This registers such a batch.

    Rests on ``BatchCompletionCallBack(timestamp, size, parallel)``, the class of the
    callback, and ``Parallel._register_new_job`` and ``_aborting`` (joblib 1.5 to 1.6).

    Parameters
    ----------
    parallel : joblib.Parallel
    callback : callable
        Any callback that joblib gave for this call.
    outcome : object
        What ``retrieve_result_callback`` will raise from.

    Returns
    -------
    bool
        Whether joblib took it.
    """
    try:
        if parallel._aborting:
            return True  # nobody waits; a tracker would be left to the next call
        tracker = type(callback)(0, 1, parallel)
        parallel._register_new_job(tracker)
        tracker(outcome)
    except (AttributeError, TypeError):
        return False
    return True


def dispatch_more(parallel: Any, batches: int, wanted: Callable[[], bool]) -> int:
    """Have joblib keep more batches in flight than it chose at the start of the call.

    Each batch dispatched here is followed by another when it completes, as joblib's own
    are. Rests on ``Parallel._lock``, ``_original_iterator`` and ``_aborting`` (joblib
    1.5 to 1.6); without them, nothing more is dispatched.

    Parameters
    ----------
    parallel : joblib.Parallel
    batches : int
        How many.
    wanted : callable
        Says whether they still are.

    Returns
    -------
    int
        The number of batches dispatched.
    """
    lock = getattr(parallel, "_lock", None)
    if lock is None:
        return 0
    for done in range(batches):
        with lock:
            # Of a call that is over, the `Parallel` may have begun another one.
            has_ended = getattr(parallel, "_aborting", True)
            has_read = getattr(parallel, "_original_iterator", None) is None
            if has_ended or has_read or not wanted():
                return done
            parallel.dispatch_next()
    return batches
