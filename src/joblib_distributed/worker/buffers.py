"""The worker's side of large data: finding buffers, and giving results back.

See Also
--------
joblib_distributed.data.store : where they lie.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence

from distributed import Status, Worker, get_worker

from joblib_distributed.data.buffers import EveryTime, pack, pack_apart
from joblib_distributed.data.host import HostStore, host_store
from joblib_distributed.data.outcome import Kind, Missing, Outcome, pack_missing
from joblib_distributed.data.tasks import Sharing
from joblib_distributed.data.writing import NoRoomError
from joblib_distributed.worker.accounting import account_for_mappings
from joblib_distributed.worker.interrupt import shielded
from joblib_distributed.worker.lingering import Lingering
from joblib_distributed.worker.supplies import serve

#: Results that the driver sees come through the store from `LEAST_AGAIN` bytes on: they
#: are the user's to write to in any case.
_EVERY_TIME = EveryTime()


class BufferMissingError(LookupError):
    """A buffer is not on this host: it is to be brought, and the task sent again."""


def find_buffers(
    names: Sequence[str], sharing: Sharing, sent: Mapping[str, bytes]
) -> list[memoryview]:
    """Return buffers of this host as the user wants to have them.

    Parameters
    ----------
    names : sequence of str
    sharing : Sharing
    sent : mapping
        Buffers that were sent with the batch.

    Returns
    -------
    list
        Read-only views of the one copy of the host for ``mmap_mode="r"``, private
        copies that may be written to for the others.

    Raises
    ------
    BufferMissingError
        If this host has not got one.
    """
    worker = current_worker()
    # Interrupted half-way, a file would stay open and locked.
    with shielded():
        if worker is not None:
            account_for_mappings(worker)
        return [_find_buffer(name, sharing, sent, worker) for name in names]


def _find_buffer(
    name: str, sharing: Sharing, sent: Mapping[str, bytes], worker: Worker | None
) -> memoryview:
    store = host_store(sharing.temp_folder)
    if sharing.mmap_mode != "r":
        private = store.get_private(name)
        if private is not None:
            return private
    else:
        buffer = store.get(name)
        if buffer is not None:
            if worker is not None:
                _lingering_of(worker).keep(buffer, store)
            return buffer.view
    if name not in sent:
        raise BufferMissingError(name)
    view = memoryview(sent[name])
    return view if sharing.mmap_mode == "r" else memoryview(bytearray(view))


_lingering: weakref.WeakKeyDictionary[Worker, Lingering] = weakref.WeakKeyDictionary()


def _lingering_of(worker: Worker) -> Lingering:
    try:
        return _lingering[worker]
    except KeyError:
        return _lingering.setdefault(worker, Lingering(worker.loop))


def current_worker() -> Worker | None:
    """Return the engine's worker in whose task we are, if any."""
    try:
        return get_worker()
    except ValueError:
        return None


def is_paused() -> bool:
    """Whether dask has paused the worker in whose task we are, to save its memory."""
    worker = current_worker()
    return worker is not None and worker.status is Status.paused


def report_missing(
    names: Iterable[str], sharing: Sharing, dask_worker: Worker | None = None
) -> Outcome:
    """Say which of these buffers this host has not got, ready to be given them.

    Outside of tasks the engine fills in `dask_worker`, for its name.
    """
    store = host_store(sharing.temp_folder)
    worker = dask_worker or current_worker()
    if worker is not None:
        serve(worker)
    with shielded():
        missing = tuple(sorted(name for name in names if store.get(name) is None))
    return pack_missing(
        Missing(store.identity, "" if worker is None else worker.address, missing)
    )


def pack_result(value: object, sharing: Sharing | None) -> Outcome:
    """Pack what a task gave; large buffers through the store if the driver sees it."""
    if sharing is None:
        return Outcome(Kind.VALUE, 0.0, pack(value))
    store = host_store(sharing.temp_folder)
    if store.identity == sharing.host:
        apart = pack_apart(value, sharing.least, again=_EVERY_TIME)
        names: list[str] = []
        with shielded():
            try:
                for view in apart.buffers:
                    # One by one: those before one without room are to be removed.
                    names.append(store.put_result(sharing.owner, view))  # noqa: PERF401
            except NoRoomError:
                _discard(store, names)
            else:
                return Outcome(Kind.VALUE, 0.0, apart.packed, names, apart.strings)
    return Outcome(Kind.VALUE, 0.0, pack(value))


def discard_results(outcomes: Iterable[Outcome], sharing: Sharing) -> None:
    """Remove what `pack_result` wrote: nobody will take it."""
    names = [str(name) for outcome in outcomes for name in outcome.buffers]
    if names:
        _discard(host_store(sharing.temp_folder), names)


def _discard(store: HostStore, names: Iterable[str]) -> None:
    for name in names:
        store.take_result(name)
