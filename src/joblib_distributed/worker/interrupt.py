"""Stops the tasks of a call that is no longer wanted.

An exception is injected into the threads that run them, and what has not begun is
refused. C code is not interrupted; it ends by itself.

Guarantees
----------
- `Interrupted` is only ever raised inside `interruptible`, never in the engine's code
  around it, and never in a task of another call.
- At most one injection for each run of `interruptible`.

They rest on two things: injection and clearing take effect through CPython's
``PyThreadState_SetAsyncExc`` (elsewhere nothing is injected), and ``list.pop`` is
atomic.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable

#: How many unwanted calls a worker process remembers. Each costs about 200 bytes; a
#: batch of a call forgotten sooner would run for nothing. A guess.
REMEMBERED = 10_000

#: Seconds between two looks at a thread that is importing. A guess: short against the
#: two seconds in which a call must be gone, long against the cost of a look (20 us).
IMPORT_POLL = 0.02


class Interrupted(BaseException):
    """Raised in a task whose call is no longer wanted.

    Not an `Exception`, so that the usual ``except Exception`` of user code does not
    catch it.
    """


class _Run:
    """One run of `interruptible` on one thread."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.thread = threading.get_ident()
        # Holds one token. Whoever pops it decides how the run ends: the runner, that it
        # cannot be interrupted any more, or the interrupter, that it will be.
        self._token = [None]
        self._injected = threading.Event()
        self.ended = threading.Event()

    def _claim(self) -> bool:
        try:
            self._token.pop()
        except IndexError:
            return False
        return True

    def interrupt(self) -> bool:
        """Inject, unless the thread is importing; return whether that is settled."""
        if _is_importing(self.thread):
            return False
        if self._claim():
            _set_async_exception(self.thread, Interrupted)
            self._injected.set()
        return True

    def interrupt_after_import(self) -> None:
        while not self.ended.wait(IMPORT_POLL) and not self.interrupt():
            pass  # no event tells that an import has ended

    def finish(self) -> None:
        """Return once nothing can be injected any more; may raise `Interrupted`.

        1. The interrupter pops the token, and is about to inject.
        2. The runner ends its task and fails to pop it: it waits for the injection.
        3. The interrupter injects and says so. The exception is raised in the runner,
           at the latest when its wait returns; what is left of it is cleared.
        """
        if not self._claim():
            self._injected.wait()
            _set_async_exception(self.thread, None)


_runs: dict[int, _Run] = {}
_unwanted: OrderedDict[str, None] = OrderedDict()


def interruptible(call: str, function: Callable[[], None]) -> bool:
    """Call `function` so that `interrupt_call` can stop it.

    Parameters
    ----------
    call : str
        The call on whose behalf it runs.
    function : callable
        Must let `Interrupted` through.

    Returns
    -------
    bool
        False if it was interrupted, or not even begun.
    """
    run = _Run(call)
    key = id(run)  # not the thread: a task may run another call's task within itself
    try:
        # 1. Registered first, 2. then asked: an interrupt in between is either seen
        # here or finds the run registered.
        _runs[key] = run
        if is_unwanted(call):
            return False
        try:
            function()
        finally:
            run.finish()
    except Interrupted:
        return False
    finally:
        _runs.pop(key, None)
        run.ended.set()
    return True


def is_unwanted(call: str) -> bool:
    """Whether `interrupt_call` has been told of the call."""
    return call in _unwanted


def interrupt_call(call: str) -> int:
    """Stop whatever runs for a call in this process, and refuse what comes later.

    Returns
    -------
    int
        The number of batches that were running.
    """
    _unwanted[call] = None
    while len(_unwanted) > REMEMBERED:
        _unwanted.popitem(last=False)
    runs = [run for run in list(_runs.values()) if run.call == call]
    for run in runs:
        if not run.interrupt():
            threading.Thread(
                target=run.interrupt_after_import,
                name="joblib-distributed-interrupt",
                daemon=True,
            ).start()
    return len(runs)


def _is_importing(thread: int) -> bool:
    """Whether a thread is importing a module.

    An interrupted import of an extension module such as numpy's cannot be repeated: it
    would break every later task of this process.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _set_async_exception(thread: int, exception: type[BaseException] | None) -> None:
    if platform.python_implementation() != "CPython":  # pragma: no cover
        return
    value = None if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), value)
