"""One copy of each large buffer per host: files that every process of it maps.

A store is a folder of a user on a host. A file in it is a buffer, named after its
content, complete from the moment it has its name, and never changed.

Races, and what settles them
----------------------------
- *Publish*: a buffer is written under a name of its own and then renamed. Two writers of
  the same content rename one after the other; both files are right.
- *Evict against open*: who opens a file takes a shared lock on it and then looks whether
  it still has a name. Who evicts takes the exclusive lock first, and so gets no file
  that is mapped anywhere: a mapping keeps the lock of the descriptor it was made from,
  also when that is closed, and loses it with its process.
- *Sweep against write*: a file being written is locked exclusively by its writer; what
  can be locked was left by a process that has died.
- *Last one out against first one in*: every process holds a shared lock on the file
  `HOST` while it has the store open. Who can lock it exclusively is alone and removes
  everything; who opens it meanwhile finds it without a name, and makes a new one. So
  does who enters and finds that it was made before this boot.

Does not cover: other hosts, to which buffers travel; see `driver.supplier`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import weakref
from pathlib import Path

from joblib_distributed.data.buffers import size_of
from joblib_distributed.data.folders import (
    StoreError,
    check_file_system,
    memory_limit,
)
from joblib_distributed.data.mapping import map_file
from joblib_distributed.data.presence import HOST, Presence
from joblib_distributed.data.samples import Samples
from joblib_distributed.data.writing import NO_ROOM, PART, Part

try:
    import fcntl
except ImportError:  # Windows: there are no stores, every process has its own copies
    fcntl = None  # type: ignore[assignment]

#: Whether this system can have stores at all.
HAS_LOCKS = fcntl is not None

#: Ending of the file that a process locks while it wants results.
OWNER = ".owner"

#: Beginning, after the owner's name, of results, which are for one process alone.
RESULT = ".result."

#: What the cap is of the file system's size, or of the memory that this process may use.
#: A guess: it is memory that nothing else can have until this process ends.
CAP_SHARE = 0.125

#: Of what is left below the cap, this part may be written before it is counted again:
#: others write, too. A guess. Counted each time, a buffer of 1 MB beside 800 others takes
#: 1.2 ms to put rather than 0.6, measured.
ROOM_SHARE = 16


class Store:
    """A folder of buffers, open in this process.

    Thread-safe.

    Parameters
    ----------
    parent : path
        Existing folder in which the store's own is made, or found.
    cap : int, optional
        Bytes that files not in use may take together with the others.

    Raises
    ------
    StoreError
        If there can be no store: not our own folder, a link, a network file system.
    """

    def __init__(self, parent: str | os.PathLike[str], cap: int | None = None) -> None:
        if not HAS_LOCKS:
            raise StoreError("this system has no file locks (fcntl)")
        self.folder = Path(parent) / f"joblib-distributed-{os.getuid()}"
        check_file_system(Path(parent))
        self._presence = Presence(self.folder)
        #: See `Presence`.
        self.identity = self._presence.identity
        size = os.statvfs(self.folder)
        most = min(size.f_blocks * size.f_frsize, memory_limit())
        self.cap = int(CAP_SHARE * most) if cap is None else cap
        # Bytes that may be written before it is counted again what is here.
        self._room = 0
        self.samples = Samples(self.folder)
        self._mapped: weakref.WeakValueDictionary[str, Buffer] = (
            weakref.WeakValueDictionary()
        )
        self.sweep()

    def close(self) -> None:
        """Leave; the last one out removes the store."""
        self._presence.leave()

    # ------------------------------------------------------------------------- buffers
    def get(self, name: str) -> Buffer | None:
        """Return a buffer, mapped read-only, or None if it is not here."""
        known = self._mapped.get(name)
        if known is not None:
            with contextlib.suppress(OSError):  # it was removed
                os.utime(self.folder / name)  # or what is mapped long is evicted first
            return known
        descriptor = self._open_if_possible(name)
        if descriptor is None:
            return None
        try:
            return self._map(name, descriptor)
        finally:
            os.close(descriptor)

    def get_private(self, name: str) -> memoryview | None:
        """Return a buffer as memory of this process, copied where it is written to."""
        descriptor = self._open_if_possible(name)
        if descriptor is None:
            return None
        try:
            return map_file(descriptor, size_of(name), private=True)
        finally:
            os.close(descriptor)

    def _open_if_possible(self, name: str) -> int | None:
        """Do as `_open`; without a descriptor for a buffer it is as good as not here."""
        try:
            return self._open(name)
        except OSError as error:
            if error.errno in NO_ROOM:
                return None
            raise

    def _open(self, name: str) -> int | None:
        """Open a file of the store and share its lock; None if there is none."""
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return None
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError:
            os.close(descriptor)
            raise
        found = os.fstat(descriptor)
        if (
            found.st_nlink == 0
            or found.st_uid != os.getuid()
            or found.st_size != size_of(name)
        ):
            os.close(descriptor)
            return None
        os.utime(descriptor)  # it was used now
        return descriptor

    def _map(self, name: str, descriptor: int, view: memoryview | None = None) -> Buffer:
        if view is None:
            view = map_file(descriptor, size_of(name))
        buffer = Buffer(name, view, self)
        self._mapped[name] = buffer
        return buffer

    def put(self, name: str, content: memoryview) -> Buffer:
        """Return the buffer with this content, writing it if it is not here.

        Its name is that of what was written, should the content change meanwhile.

        Raises
        ------
        NoRoomError
            If it does not fit.
        """
        while True:
            # Another thread may have changed the array since its name was found.
            found = self.get(name) or self._write(content)
            if found is not None:
                return found

    def put_new(self, content: memoryview) -> Buffer:
        """Write a buffer that is not here; return it, with the name of what was written.

        Raises
        ------
        NoRoomError
            If it does not fit.
        """
        while True:
            written = self._write(content)
            if written is not None:
                return written

    def _write(self, content: memoryview) -> Buffer | None:
        writing = Part(self, f"new-{content.nbytes}")
        try:
            writing.name = writing.copy(content)
            return writing.publish()
        finally:
            writing.close()

    def take(self, name: str) -> memoryview | None:
        """Return a file's content as private, writable memory, and remove the file."""
        descriptor = self._open(name)
        if descriptor is None:
            return None
        try:
            view = _map_or_read(descriptor, size_of(name))
            os.unlink(self.folder / name)
        finally:
            os.close(descriptor)
        return view

    def own(self, owner: str) -> int:
        """Make results of this owner last until the descriptor returned is closed."""
        path = self.folder / (owner + OWNER)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # swept before it was locked

    def put_result(self, owner: str, content: memoryview) -> str:
        """Write a piece of a result for its owner to `take`; return its name.

        What follows a ``-`` in `owner` is the owner's own business.
        """
        name = f"{owner}{RESULT}{secrets.token_hex(8)}-{content.nbytes}"
        writing = Part(self, name)
        try:
            writing.write(content)
            writing.release()
        finally:
            writing.close()
        return name

    def drop_results(self, owner: str) -> None:
        """Remove the results of this owner that were not taken."""
        for name in self._listed():
            if name.startswith(owner + RESULT):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.folder / name)

    # ------------------------------------------------------------------------- room
    def files(self) -> list[tuple[float, int, str]]:
        """Return time of last use, bytes and name of each buffer, oldest first."""
        found = []
        for name in filter(_is_buffer, self._listed()):
            with contextlib.suppress(FileNotFoundError):
                info = os.stat(self.folder / name, follow_symlinks=False)
                found.append((info.st_mtime, info.st_size, name))
        return sorted(found)

    def _listed(self) -> list[str]:
        """Return the names in the folder; none if it is gone, or cannot be read now."""
        try:
            return os.listdir(self.folder)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return []

    def trim(self, coming: int = 0) -> None:
        """Evict what is not in use, oldest first, until the cap is kept.

        Parameters
        ----------
        coming : int
            Bytes that are to be written next.
        """
        # Before each buffer is written. Below the cap there may be room for many.
        if 0 < coming <= self._room:
            self._room -= coming
            return
        # The names tell the sizes sooner than the files.
        ends = (name.rpartition("-")[2] for name in filter(_is_buffer, self._listed()))
        excess = sum(int(end) for end in ends if end.isdigit()) + coming - self.cap
        self._room = max(0, -excess) // ROOM_SHARE
        for _, size, name in self.files() if excess > 0 else ():
            if excess <= 0:
                return
            if self._evict(name):
                excess -= size

    def evict_for(self, nbytes: int) -> bool:
        """Evict what is not in use until so many bytes are gone; False if nothing is."""
        evicted = False
        for _, size, name in self.files():
            if self._evict(name):
                evicted = True
                nbytes -= size
                if nbytes <= 0:
                    break
        return evicted

    def _evict(self, name: str) -> bool:
        """Remove a file that nobody has locked; tell whether there was one."""
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                os.unlink(self.folder / name)
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            os.close(descriptor)
        return True

    def sweep(self) -> None:
        """Remove what processes that have died were writing, or had asked for."""
        names = os.listdir(self.folder)
        for name in names:
            if name.endswith((PART, OWNER)):
                self._evict(name)
        owners = {name.removesuffix(OWNER) for name in os.listdir(self.folder)}
        for name in names:
            if RESULT in name and name.partition("-")[0].partition(".")[0] not in owners:
                self._evict(name)


def _is_buffer(name: str) -> bool:
    return not (name == HOST or name.endswith((PART, OWNER)) or RESULT in name)


#: Bytes of a result that is mapped rather than read: a process has 65,530 mappings at
#: most, and needs them for other things, too. joblib's ``max_nbytes``.
LEAST_MAPPED = 2**20


def _map_or_read(descriptor: int, nbytes: int) -> memoryview:
    """Return a file as private memory; read if it is small, or no more can be mapped."""
    try:
        if nbytes < LEAST_MAPPED:
            raise OSError("too small to be mapped")
        return map_file(descriptor, nbytes, private=True)
    except OSError:
        content = bytearray(nbytes)
        with open(descriptor, "rb", closefd=False) as file:
            file.readinto(content)
        return memoryview(content)


class Buffer:
    """A buffer of a store, in use as long as `view` or anything made of it is."""

    def __init__(self, name: str, view: memoryview, store: object) -> None:
        self.name = name
        self.view = view
        #: None if no store had room: the memory is this process's.
        self.store = store
