"""Stops the tasks of a call that is no longer wanted.

An exception is injected into the threads that run them, again and again until they
end, and what has not begun is refused. C code is not interrupted; it ends by itself.

Guarantees
----------
- `Interrupted` is only ever raised inside `interruptible`, never in the engine's code
  around it, and never in a task of another call.
- A task that catches `Interrupted`, or loses it in a destructor, gets another.
- A thread is not interrupted while it imports a module or starts a thread, as far as can
  be seen from outside, nor inside `shielded`.

They rest on CPython's ``PyThreadState_SetAsyncExc`` (elsewhere nothing is injected) and
on ``dict.setdefault`` being atomic. Injections are only decided on while the frame of
the function is on the thread's stack: once it has left, one more can strike at most.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Literal

#: How many unwanted calls a worker process remembers. Each costs about 200 bytes; a
#: batch of a call forgotten sooner would run for nothing. A guess.
REMEMBERED = 10_000

#: Seconds between two injections into the same thread, and between two looks at one
#: that is importing. A guess: short against the two seconds in which a call must be
#: gone, long against the time in which a thread notices an injection.
INTERVAL = 0.1

_START = threading.Thread.start.__code__

Side = Literal["runner", "interrupter"]


class Interrupted(BaseException):
    """Raised in a task whose call is no longer wanted.

    Not an `Exception`, so that the usual ``except Exception`` of user code does not
    catch it.
    """


class _Run:
    """One run of `interruptible` on one thread.

    Whoever has the turn may act: the interrupter inject, the runner close the run, or do
    what must not be interrupted. Only who closes the run keeps the turn.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.thread = threading.get_ident()
        self.ended = threading.Event()
        #: The only frame above which an injection is made.
        self.frame: FrameType | None = None
        self._injected = False
        self._turn: dict[str, Side] = {}
        self._interrupters = [None]

    def _take_turn(self, side: Side) -> bool:
        return self._turn.setdefault("turn", side) == side

    def close(self) -> None:
        """Return once nothing is or can be injected any more; may raise `Interrupted`.

        1. The interrupter takes the turn, and is about to inject.
        2. The runner ends its task, fails to take the turn, and tries again.
        3. The interrupter injects and gives the turn back. The exception is raised in
           the runner, wherever it is in here; it starts again.
        4. The runner takes the turn for good, and absorbs what has not been raised yet.
        """
        self.shield()
        self.frame = None  # it refers to this object

    def shield(self) -> None:
        """Let nothing be injected until `unshield`; may raise `Interrupted` before."""
        while not self._take_turn("runner"):
            # Gives up the interpreter lock, which is all that the interrupter needs.
            time.sleep(0)
        if self._injected:
            self._absorb()

    def unshield(self) -> None:
        """Give back what `shield` has taken, if it has."""
        if self._turn.get("turn") == "runner":
            del self._turn["turn"]

    def _absorb(self) -> None:
        """Have the runner's pending injection raised here, if there is one.

        It is replaced by one that is sure to be raised now, rather than cleared: before
        Python 3.13 clearing leaves the interpreter believing for good that one is pending
        (its signal is only taken back by raising), which slows every thread, and on 3.11
        hangs the next one that is traced.
        """
        with contextlib.suppress(Interrupted):
            while True:  # again, for another thread may have taken the signal back
                _inject(self.thread)

    def is_first_to_interrupt(self) -> bool:
        """Whether the caller is the one that may call `interrupt`.

        Several workers of one process are each told of a call.
        """
        try:
            self._interrupters.pop()
        except IndexError:
            return False
        return True

    def interrupt(self) -> None:
        """Inject until the run has ended."""
        while not self.ended.is_set():
            if self._take_turn("interrupter"):
                if _is_in_function(self.thread, self.frame):
                    self._injected = True
                    _inject(self.thread)
                del self._turn["turn"]
            self.ended.wait(INTERVAL)


_runs: dict[int, _Run] = {}
_unwanted: OrderedDict[str, None] = OrderedDict()


def interruptible(call: str, function: Callable[[], None], attempt: str = "") -> bool:
    """Call `function` so that `interrupt_call` can stop it.

    Parameters
    ----------
    call : str
        The call on whose behalf it runs.
    function : callable
        What it raises is raised here, but for `Interrupted`.
    attempt : str, optional
        The attempt that it runs, which can be stopped apart from others of its call.

    Returns
    -------
    bool
        False if it was interrupted, or not even begun.
    """
    run = _Run((call, attempt))
    key = id(run)  # not the thread: a task may run another call's task within itself
    interrupted = False
    error: BaseException | None = None
    try:
        try:
            # 1. Registered first, 2. then asked: an interrupt in between is either seen
            # here or finds the run registered.
            _runs[key] = run
            interrupted = is_unwanted(call) or is_unwanted(attempt)
            if not interrupted:
                error = _call(run, function)
            run.close()
        except Interrupted:
            interrupted = True
            run.close()
    except Interrupted:
        # A second one, that was on its way when the first struck. There is no third.
        interrupted = True
        run.close()
    _runs.pop(key, None)
    run.ended.set()
    if error is not None:
        raise error
    return not interrupted


def _call(run: _Run, function: Callable[[], None]) -> BaseException | None:
    try:
        run.frame = sys._getframe()
        function()
    except Interrupted:
        raise
    except BaseException as error:  # whatever it is, the run must be closed first
        return error
    return None


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Let nothing in this block be interrupted.

    For what would leave the engine in disorder if it were left half done. May raise
    `Interrupted` before the block is entered.
    """
    thread = threading.get_ident()
    mine = [run for run in list(_runs.values()) if run.thread == thread]
    try:
        for run in mine:
            run.shield()
        yield
    finally:
        # The outermost first: if that is interrupted now, the inner ones end with it.
        for run in mine:
            run.unshield()


def is_unwanted(call: str) -> bool:
    """Whether `interrupt_call` has been told of the call, or attempt."""
    return call in _unwanted


def interrupt_call(*calls: str) -> int:
    """Stop whatever runs for a call in this process, and refuse what comes later.

    Parameters
    ----------
    *calls : str
        One or several; also attempts.

    Returns
    -------
    int
        The number of batches that were running.
    """
    _unwanted.update(dict.fromkeys(calls))
    while len(_unwanted) > REMEMBERED:
        _unwanted.popitem(last=False)
    runs = [run for run in list(_runs.values()) if not set(calls).isdisjoint(run.names)]
    if platform.python_implementation() != "CPython":  # pragma: no cover
        return len(runs)
    for run in filter(_Run.is_first_to_interrupt, runs):
        threading.Thread(
            target=run.interrupt, name="joblib-distributed-interrupt", daemon=True
        ).start()
    return len(runs)


def _is_in_function(thread: int, function: FrameType | None) -> bool:
    """Whether a thread is above a frame, and doing nothing there that must be finished.

    An interrupted import of an extension module such as numpy's cannot be repeated: it
    would break every later task of this process. And while a thread starts another, the
    state of the new one carries the starter's identity: the exception would be raised in
    the new one, before it says that it has started, and the starter wait for ever.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None and frame is not function:
        code = frame.f_code
        if code is _START or code.co_filename.startswith("<frozen importlib"):
            return False
        frame = frame.f_back
    return frame is not None


def _inject(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(Interrupted)
    )
