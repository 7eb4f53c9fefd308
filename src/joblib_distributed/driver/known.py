"""What all calls on one client's cluster know of it together."""

from __future__ import annotations

import collections
import threading
import weakref
from typing import Any

from joblib_distributed.driver.absence import Absence
from joblib_distributed.driver.heartbeats import Heartbeats
from joblib_distributed.driver.printing import Listeners
from joblib_distributed.driver.recalling import Recaller
from joblib_distributed.driver.storeless import Storeless
from joblib_distributed.driver.supplier import Supplier
from joblib_distributed.driver.turns import Turns

#: Functions whose durations are remembered. A guess: more than a program calls.
REMEMBERED = 1000


class Durations:
    """What a task of each function took when it was last called.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: collections.OrderedDict[bytes, float] = collections.OrderedDict()

    def note(self, function: bytes, seconds: float) -> None:
        """Take note of the mean of a call; `function` is a key of its packed function."""
        with self._lock:
            self._seconds[function] = seconds
            self._seconds.move_to_end(function)
            while len(self._seconds) > REMEMBERED:
                self._seconds.popitem(last=False)

    def get(self, function: bytes) -> float | None:
        """Return the seconds of a task, if they are known."""
        with self._lock:
            return self._seconds.get(function)


class Known:
    """What is known of one cluster."""

    def __init__(self) -> None:
        #: Addresses of the workers that passed `Cluster.check_workers`.
        self.checked: set[str] = set()
        self.storeless = Storeless()
        #: Made when a host first lacks a buffer.
        self.supplier: Supplier | None = None
        #: For whom it is the turn to run a suspect.
        self.turns = Turns()
        self.durations = Durations()
        #: Used on the client's event loop, but for reading.
        self.heartbeats = Heartbeats()
        self.absence = Absence()
        self.listeners = Listeners()
        #: Used on the client's event loop.
        self.recaller = Recaller(self.heartbeats)


_lock = threading.Lock()
_known: weakref.WeakKeyDictionary[Any, Known] = weakref.WeakKeyDictionary()


def known_of(client: Any) -> Known:
    """Return what is known of a client's cluster; forgotten with the client."""
    with _lock:
        return _known.setdefault(client, Known())
