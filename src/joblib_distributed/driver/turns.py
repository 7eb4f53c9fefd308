"""Turns at running a suspect: one at a time of all calls of this process on a cluster.

A task is blamed for the death of a worker only if it ran alone. The ledger of a call
sees to that within the call; turns see to it between the calls of this process.

They do not see to it that nothing else runs: ordinary attempts of another call may share
a worker with threads to spare with a suspect, and one of these may be what kills it. To
hold them back would have a call with one bad task stop all others for as long as its
suspects run. So a suspect may be blamed for what tasks of another call did, if these kill
each worker on which it is tried: four, one after the other, as dask's
``allowed-failures`` has it. Nor are calls of other processes known.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable


class Turns:
    """Who may, and who waits to; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[tuple[Hashable, Callable[[], object]]] = deque()

    def ask(self, who: Hashable, begin: Callable[[], object]) -> None:
        """Have `begin` called when it is the turn of `who`: at once if nobody's.

        Parameters
        ----------
        who : hashable
            Different for each ask.
        begin : callable
            Called in this thread or in that of whoever gives back; must not block.
        """
        with self._lock:
            self._queue.append((who, begin))
            first = len(self._queue) == 1
        if first:
            begin()

    def give_back(self, who: Hashable) -> None:
        """End a turn, or stop waiting for it; nothing if there is none."""
        following: Callable[[], object] | None = None
        with self._lock:
            had_turn = bool(self._queue) and self._queue[0][0] == who
            self._queue = deque(entry for entry in self._queue if entry[0] != who)
            if had_turn and self._queue:
                following = self._queue[0][1]
        if following is not None:
            following()
