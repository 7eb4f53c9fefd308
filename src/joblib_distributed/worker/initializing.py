"""Calls a user's initializer once in each worker process, before the first task."""

from __future__ import annotations

import hashlib
import pickle
import threading

from joblib_distributed.worker.importing import generation


class InitializerError(Exception):
    """Carries what an initializer raised to where outcomes are made; never sent."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class _Once:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_done = False


_guard = threading.Lock()
#: By content: the same initializer with other arguments is another one.
_known: dict[tuple[int, bytes], _Once] = {}


def initialize(packed: bytes) -> None:
    """Call an initializer, unless that was done; other threads wait meanwhile.

    Parameters
    ----------
    packed : bytes
        Pickle of the function and its arguments; empty if there is none.

    Raises
    ------
    InitializerError
        If it raises, or cannot be unpickled. It is called again by the next batch.
    """
    if not packed:
        return
    # What it has set in a module of the user's is gone with that.
    key = generation(), hashlib.blake2b(packed, digest_size=16).digest()
    with _guard:
        once = _known.setdefault(key, _Once())
    with once.lock:
        if once.is_done:
            return
        try:
            function, arguments = pickle.loads(packed)
            function(*arguments)
        except Exception as error:
            raise InitializerError(error) from error
        once.is_done = True
