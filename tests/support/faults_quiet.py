"""How cells that run at a time leave the machine to one that is timed."""

from __future__ import annotations

import fcntl
import os


class Quiet:
    """Lets a cell that is timed be alone with the machine while it is.

    Cells of which one must not be disturbed start their clusters under a lock that they
    share, and do what is timed under one of their own.

    Parameters
    ----------
    path : str
        The file that is locked; empty for a cell that needs none of it.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR) if path else -1

    def share(self) -> None:
        """Wait until nothing is timed; nothing will be until `begin` or `end`."""
        self._lock(fcntl.LOCK_SH)

    def begin(self) -> None:
        """Wait until no cell does anything but wait; none will until `end`."""
        self._lock(fcntl.LOCK_UN)
        self._lock(fcntl.LOCK_EX)

    def end(self) -> None:
        self._lock(fcntl.LOCK_UN)

    def _lock(self, how: int) -> None:
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, how)
