"""Leaves the worker's thread pool while a nested call waits.

Without this, the tasks of a nested call could find every thread taken by tasks that
wait for them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from distributed import get_worker, rejoin, secede

from joblib_distributed.worker.clean import outside
from joblib_distributed.worker.interrupt import shielded


class _ThisThread(threading.local):
    #: Calls that this thread waits for; the first to wait leaves the pool for all.
    waiting = 0
    #: Whether we took it out of the pool, and so have to bring it back.
    left = False


_this_thread = _ThisThread()


@contextlib.contextmanager
def seceded() -> Iterator[None]:
    """Wait inside this block without keeping one of the worker's threads.

    Outside of a dask task, and in one that has seceded already, it does nothing.
    """
    if _this_thread.waiting == 0 and not _this_thread.left:
        _this_thread.left = _leave_pool()
    _this_thread.waiting += 1
    thread = threading.get_ident()
    failed = False
    try:
        yield
    except BaseException:
        # Rejoining waits for another task to end, which may wait for this one: and that
        # is probably about to end, and its thread with it. If it goes on, its next call
        # brings it back.
        failed = True
        raise
    finally:
        # A generator can be closed by another thread than the one that made it.
        if threading.get_ident() == thread:
            _this_thread.waiting -= 1
            if _this_thread.waiting == 0 and _this_thread.left and not failed:
                _this_thread.left = False
                # Interrupted half-way, the pool would count on a thread that ends.
                with shielded():
                    rejoin()


def _leave_pool() -> bool:
    try:
        get_worker()
        with shielded():
            outside(secede)
    except ValueError:  # not in a task
        return False
    except (AttributeError, KeyError):  # not a thread of the pool, or no longer one
        return False
    return True
