"""A file of a store while it is being written.

See Also
--------
joblib_distributed.data.store : the races with those who read, evict and sweep.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from joblib_distributed.data.buffers import Digest, size_of
from joblib_distributed.data.mapping import map_file

if TYPE_CHECKING:
    from joblib_distributed.data.store import Buffer, Store

try:
    import fcntl
except ImportError:  # Windows: there are no stores
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

#: Ending of files that are being written.
PART = ".part"

#: The most that one write call is given: Linux takes up to 2 GiB at once.
WRITE_STEP = 2**30

#: Bytes that are written at a time, and read again for their name while they are in a
#: cache. Smaller pieces let go of the interpreter more often. A guess.
COPY_STEP = 2**24


#: What an error says that evicting may help against.
EVICTABLE = frozenset({errno.ENOSPC, errno.EDQUOT})


#: What an error says when no file can be made, or grow, here and now: besides, the folder
#: is gone; there are no descriptors or locks left; the file system is read-only.
NO_ROOM = EVICTABLE | {
    errno.ENOENT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOLCK,
    errno.ENOMEM,
    errno.EROFS,
}


class NoRoomError(OSError):
    """A buffer does not fit into a store, also after evicting what is not in use."""


class Part:
    """A buffer that is being written.

    Parameters
    ----------
    store : Store
    name : str
        Of the buffer.

    Raises
    ------
    NoRoomError
        If no file can be made in the store.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name
        # The file as it is read, once that is known to work.
        self._view: memoryview | None = None
        self._path = store.folder / f"{name}.{secrets.token_hex(8)}{PART}"
        store.trim(size_of(name))
        # Evicting gives back room for names, too: what a file system calls inodes.
        self.descriptor = self._evicting(0, self._create)

    def _create(self) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            descriptor = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                os.close(descriptor)
                os.unlink(self._path)
                raise
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # swept before it was locked

    def write(self, content: memoryview, start: int = 0) -> None:
        """Write bytes to a place of the file.

        Raises
        ------
        NoRoomError
            If the file system is full of what is in use.
        """
        while content.nbytes:
            piece = content[:WRITE_STEP]
            done = self._evicting(
                content.nbytes,
                functools.partial(os.pwrite, self.descriptor, piece, start),
            )
            start += done
            content = content[done:]

    def copy(self, content: memoryview) -> str:
        """Write the whole content; return the name of what was written.

        The name is that of the file, as the content may change meanwhile.

        Raises
        ------
        NoRoomError
            See `write`.
        """
        digest = Digest()
        written = self._mapped(content.nbytes)
        for start in range(0, content.nbytes, COPY_STEP):
            end = min(start + COPY_STEP, content.nbytes)
            self.write(content[start:end], start)
            if written is None:
                digest.update(memoryview(os.pread(self.descriptor, end - start, start)))
            else:
                digest.update(written[start:end])
        self._view = written
        return digest.name

    def _mapped(self, nbytes: int) -> memoryview | None:
        """Return the file as memory, to be read as far as it is written; None if not."""
        try:
            return map_file(self.descriptor, nbytes) if nbytes else None
        except (OSError, ValueError):  # no more can be, or not before it is written
            return None

    def reserve(self, nbytes: int) -> None:
        """Take the room for so many bytes before any is written.

        Raises
        ------
        NoRoomError
            If the file system is full of what is in use.
        """
        if sys.platform == "linux":  # elsewhere `write` finds out
            allocate = functools.partial(os.posix_fallocate, self.descriptor, 0, nbytes)
            self._evicting(nbytes, allocate)

    def _evicting(self, nbytes: int, act: Callable[[], T]) -> T:
        """Do what takes so much room, evicting for it until it works or nothing is left.

        There may be room that was free before: that less was evicted says nothing.
        """
        while True:
            try:
                return act()
            except OSError as error:
                if error.errno in EVICTABLE and self._store.evict_for(nbytes):
                    continue
                if error.errno not in NO_ROOM:
                    raise
                raise NoRoomError(*error.args) from error

    def publish(self) -> Buffer | None:
        """Give the file its name; None if it was evicted before it could be mapped."""
        os.fchmod(self.descriptor, stat.S_IRUSR)
        os.rename(self._path, self._store.folder / self.name)
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)
        if not os.fstat(self.descriptor).st_nlink:
            return None
        return self._store._map(self.name, self.descriptor, self._view)

    def release(self) -> None:
        """Give the file its name without using it here: others may evict it."""
        os.fchmod(self.descriptor, stat.S_IRUSR)
        os.rename(self._path, self._store.folder / self.name)
        # Or a child that was forked meanwhile would keep it, and who takes the file wait.
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go; what was not published is removed."""
        self._view = None
        if self.descriptor < 0:
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._path), os.fstat(self.descriptor)):
                os.unlink(self._path)
        os.close(self.descriptor)
        self.descriptor = -1
