"""Who has a store open: entering its folder, and leaving it.

See Also
--------
joblib_distributed.data.store : the races that this settles.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from joblib_distributed.data.folders import StoreError, check_own
from joblib_distributed.data.writing import PART

try:
    import fcntl
except ImportError:  # Windows: there are no stores
    fcntl = None  # type: ignore[assignment]

#: The file whose content is the identity of the host, and whose lock says who is there.
HOST = "host"

#: What is in it: a random token, and the boot of the system in which it was made. Of some
#: file systems an empty file, or one of zeros, is left when the power fails.
_IDENTITY = re.compile(r"[0-9a-f]{32}(@[0-9a-f-]*)?")


def boot_id() -> str:
    """Return what tells this boot of the system from others; empty if nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, UnicodeError):  # not Linux, or hidden from this process
        return ""


class Presence:
    """The place of this process among those that have a store open.

    What was written before the system was started is not trusted: nothing is synced to
    the disk, so that after a power failure a file of the right name and size may be of
    zeros; and the disk may be a copy of another host's. Who finds such a store, and
    nobody in it, empties it.

    Parameters
    ----------
    folder : Path
        Of the store; made if it is not there.

    Raises
    ------
    StoreError
        If the folder is not ours alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / HOST
        self._host = -1
        self._process = os.getpid()
        #: What tells this store from any other: the same for all processes that see
        #: this very folder, whatever their host names and addresses.
        self.identity = self._enter()

    def _enter(self) -> str:
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            # Of either, the last one out may have removed it just now.
            with contextlib.suppress(FileNotFoundError):
                check_own(self._folder)
                identity = self._enter_host()
                if identity is not None:
                    return identity

    def _enter_host(self) -> str | None:
        """Take our place; None if the file was removed before its lock was taken."""
        if not self._path.exists():
            self._make_host()
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            identity = self._lock_host(descriptor)
            if identity is not None:
                self._host = descriptor
            return identity
        finally:
            if self._host != descriptor:
                os.close(descriptor)

    def _lock_host(self, descriptor: int) -> str | None:
        identity = _identity_in(descriptor)
        if identity.partition("@")[2] != boot_id() or not identity:
            self._empty_if_alone(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for one that leaves, or empties it
        if os.fstat(descriptor).st_nlink == 0:
            return None
        if not identity:
            raise StoreError(
                f"{self._path} says nothing: it was changed while a process used the "
                "store. End that process, or remove the folder"
            )
        # Of another boot, say of who cannot read the boot id: but who is there holds a
        # lock, so has entered since this boot, and has looked.
        return identity

    def _empty_if_alone(self, descriptor: int) -> None:
        """Remove everything, unless somebody is there or does it already."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                self._remove_all()

    def _make_host(self) -> None:
        """Make the file, complete from the moment it has its name."""
        made = f"{self._path}.{secrets.token_hex(8)}{PART}"
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # or it would be swept
            os.write(descriptor, f"{secrets.token_hex(16)}@{boot_id()}".encode())
            with contextlib.suppress(FileExistsError):
                os.link(made, self._path)
            # Or a child that was forked meanwhile would keep it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)

    def leave(self) -> None:
        """Leave; the last one out removes the store."""
        # A forked child shares its parent's locks: they are not its to change.
        if self._host < 0 or self._process != os.getpid():
            return
        host, self._host = self._host, -1
        try:
            fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(host)
            return
        try:
            if os.fstat(host).st_nlink:
                self._remove_all()
        finally:
            os.close(host)

    def _remove_all(self) -> None:
        # `HOST` goes last: while it has its name, whoever enters waits for our lock.
        names = [name for name in os.listdir(self._folder) if name != HOST]
        for name in [*names, HOST]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder / name)
        with contextlib.suppress(OSError):  # somebody is entering
            os.rmdir(self._folder)


def _identity_in(descriptor: int) -> str:
    """Return what a host file says; empty if it is none that was written whole."""
    found = os.pread(descriptor, 100, 0).decode("ascii", "replace")
    return found if _IDENTITY.fullmatch(found) else ""
