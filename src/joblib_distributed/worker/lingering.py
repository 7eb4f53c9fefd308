"""Buffers that stay mapped for a moment after the batch that needed them.

The next batch of a call mostly needs the same ones. Mapping a file takes microseconds;
but then each of its pages is looked up anew, which for 256 MB takes longer than many a
task.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from joblib_distributed.data.host import HostStore
from joblib_distributed.data.store import Buffer

#: Seconds that a buffer stays mapped, at most twice that: long against the time between
#: two batches, short against that for which a store may be too full. A guess.
LINGER = 0.3


class Lingering:
    """Buffers in use, or that were a moment ago, by one worker.

    Thread-safe.

    Parameters
    ----------
    loop : tornado.ioloop.IOLoop
        Of the worker, or anything with its ``add_callback`` and ``call_later``.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._buffers: dict[str, tuple[float, Buffer, HostStore]] = {}
        self._is_waiting = False

    def keep(self, buffer: Buffer, store: HostStore) -> None:
        """Keep a buffer for a moment, or for a moment longer."""
        with self._lock:
            self._buffers[buffer.name] = time.monotonic() + LINGER, buffer, store
            wake, self._is_waiting = not self._is_waiting, True
        if wake:
            self._loop.add_callback(self._loop.call_later, LINGER, self._drop)

    def _drop(self) -> None:
        with self._lock:
            now = time.monotonic()
            late = [name for name, (end, *_) in self._buffers.items() if end <= now]
            dropped = [self._buffers.pop(name) for name in late]
            again = self._is_waiting = bool(self._buffers)
        if again:
            self._loop.call_later(LINGER, self._drop)
        stores = {id(store): store for _, _, store in dropped}
        del dropped  # outside of the lock: it may take a while
        # What was in use could not be evicted before.
        for store in stores.values():
            store.trim()
