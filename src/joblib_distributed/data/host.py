"""The stores of this host, as one process uses them.

A buffer lies in the first store that has room for it: `temp_folder` if there is one, else
memory (``/dev/shm``), else the local disk. Where there is no store at all, or no room in
any, it lies in the private memory of each process.
"""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import secrets
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence

from joblib_distributed.data.buffers import name_of
from joblib_distributed.data.outcome import Outcome
from joblib_distributed.data.store import HAS_LOCKS, Buffer, Store
from joblib_distributed.data.tasks import Sharing
from joblib_distributed.data.watching import names
from joblib_distributed.data.writing import NoRoomError


class HostStore:
    """Thread-safe.

    Parameters
    ----------
    parents : sequence of str
        Folders in which to look for stores, the best first.
    """

    def __init__(self, parents: Sequence[str]) -> None:
        self.stores: list[Store] = []
        refused: list[str] = []
        for parent in parents:
            try:
                store = Store(parent)
            except OSError as error:
                refused.append(f"{parent}: {error}")
                continue
            if any(store.identity == other.identity for other in self.stores):
                store.close()  # two names of one folder
            else:
                self.stores.append(store)
        if refused and HAS_LOCKS:
            _warn_refused("; ".join(refused), self.stores)
        #: Which other processes see the same copies; empty if none do.
        self.identity = self.stores[0].identity if self.stores else ""
        #: What no store had room for, while tasks refer to it.
        self._private: weakref.WeakValueDictionary[str, Buffer] = (
            weakref.WeakValueDictionary()
        )
        #: Name under which results for this process are written.
        self.owner = secrets.token_hex(8)
        self._owning: list[int] = []
        self._lock = threading.Lock()

    def put(self, content: memoryview) -> tuple[Buffer, bool]:
        """Return the buffer with this content, stored if need be, and if it was here."""
        written: list[Buffer] = []

        def name_it(view: memoryview) -> str:
            if not self._may_have(view):
                with contextlib.suppress(NoRoomError, IndexError):
                    written.append(self.stores[0].put_new(view))
                    return written[0].name
            return name_of(view)

        name = names().name_of(content, name_it)
        if written:
            return written[0], False
        found = self._private.get(name) or self.get(name)
        if found is not None:
            return found, True
        for store in self.stores:
            with contextlib.suppress(NoRoomError):
                return store.put(name, content), False
        _warn_no_room(content.nbytes)
        kept = self._private[name] = Buffer(name, memoryview(bytes(content)), None)
        return kept, False

    def _may_have(self, content: memoryview) -> bool:
        return bool(self._private) or any(
            store.samples.may_have(content) for store in self.stores
        )

    def get(self, name: str) -> Buffer | None:
        """Return a buffer if this host has it."""
        for store in self.stores:
            found = store.get(name)
            if found is not None:
                return found
        return None

    def get_private(self, name: str) -> memoryview | None:
        """Return a copy of a buffer that may be written to, made page by page."""
        for store in self.stores:
            found = store.get_private(name)
            if found is not None:
                return found
        return None

    def want_results(self) -> None:
        """Have results for `owner` kept until this process ends."""
        with self._lock:
            if not self._owning:
                self._owning = [store.own(self.owner) for store in self.stores]

    def put_result(self, owner: str, content: memoryview) -> str:
        """Write a piece of a result for another process of this host.

        Raises
        ------
        NoRoomError
            If there is no room.
        """
        for store in self.stores[:1]:  # the others may not be those of that process
            return store.put_result(owner, content)
        raise NoRoomError(f"no store has room for {content.nbytes} bytes")

    def take_result(self, name: str) -> memoryview | None:
        """Return what `put_result` wrote, as private, writable memory."""
        for store in self.stores:
            found = store.take(name)
            if found is not None:
                return found
        return None

    def drop_results(self, owner: str) -> None:
        """Remove results that nobody has taken."""
        for store in self.stores:
            store.drop_results(owner)

    def trim(self) -> None:
        """Evict what is above the caps and not in use."""
        for store in self.stores:
            store.trim()

    def close(self) -> None:
        """Leave the stores; the last process out removes them."""
        for descriptor in self._owning:
            os.close(descriptor)
        self._owning = []
        for store in self.stores:
            store.close()


def take_results(
    outcomes: Sequence[Outcome], sharing: Sharing | None
) -> list[Outcome] | None:
    """Fetch the large buffers of values; None if one is not there any more."""
    if sharing is None:
        return list(outcomes)
    store = host_store(sharing.temp_folder)
    taken = []
    for outcome in outcomes:
        if outcome.buffers:
            views = [store.take_result(str(name)) for name in outcome.buffers]
            found = [view for view in views if view is not None]
            if len(found) < len(views):
                return None
            outcome = outcome._replace(buffers=found)
        taken.append(outcome)
    return taken


_lock = threading.Lock()
_open: dict[tuple[int, str], HostStore] = {}
#: What has been said: each reason is said once.
_warned: set[str] = set()


def host_store(temp_folder: str | None = None) -> HostStore:
    """Return the stores that this process uses, opening them if need be.

    Parameters
    ----------
    temp_folder : str, optional
        joblib's. Default: what ``JOBLIB_TEMP_FOLDER`` names, if anything.
    """
    key = os.getpid(), temp_folder or ""
    with _lock:
        store = _open.get(key)
        if store is None:
            store = _open[key] = HostStore(list(_parents(temp_folder)))
            # Also heard at the exit of a process of multiprocessing's, as atexit is not.
            multiprocessing.util.Finalize(None, store.close, exitpriority=0)
        return store


def _parents(temp_folder: str | None) -> Iterator[str]:
    for option, folder in (
        ("temp_folder", temp_folder),
        ("JOBLIB_TEMP_FOLDER", os.environ.get("JOBLIB_TEMP_FOLDER")),
    ):
        if folder and _has_made(option, os.path.expanduser(folder)):
            yield os.path.expanduser(folder)
            return
    if os.path.isdir("/dev/shm"):
        yield "/dev/shm"
    yield tempfile.gettempdir()


def _has_made(option: str, folder: str) -> bool:
    """Create a folder that the user named, as joblib does, if it does not exist."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        warnings.warn(
            f"{option}={folder!r} does not exist and cannot be created: {error}. Large "
            "data is kept in /dev/shm, or in the folder for temporary files, instead. "
            "Name a local folder that exists, or that you may create.",
            stacklevel=2,
        )
        return False
    return True


def _warn_refused(reasons: str, others: Sequence[Store]) -> None:
    what = "Large data may be copied into every worker process: a folder was not used"
    if others:
        what = f"Large data lies in {others[0].folder}: another folder was not used"
    _warn_once(
        reasons,
        f"{what} ({reasons}). Mend that, or name a local folder of your own in "
        "temp_folder= or JOBLIB_TEMP_FOLDER.",
    )


def _warn_no_room(nbytes: int) -> None:
    _warn_once(
        "no room",
        "Large data may be copied into every worker process: no store has room for "
        f"{nbytes} bytes. Free some of /dev/shm, or name a local folder of your own with "
        "room in temp_folder= or JOBLIB_TEMP_FOLDER.",
    )


def _warn_once(reason: str, text: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(text, stacklevel=3)
