"""Interrupts, on real threads: they stop what they are meant for, and nothing else."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from joblib_distributed.worker import interrupt
from joblib_distributed.worker.interrupt import (
    Interrupted,
    interrupt_call,
    interruptible,
    is_unwanted,
    shielded,
)
from support.tasks import in_thread
from support.waiting import wait_until

#: Seconds after which a thread that should have gone on has not.
DEADLINE = 30


@pytest.fixture(autouse=True)
def _fresh_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test interrupts calls of its own, and leaves nothing."""
    monkeypatch.setattr(interrupt, "_unwanted", OrderedDict())
    yield
    try:
        wait_for_interrupters()
        assert interrupt._runs == {}
    finally:
        interrupt._runs.clear()
        for stuck in interrupters():
            stuck.name = "a thread for which one test has failed already"


def spin() -> None:
    """Run Python code until it is interrupted."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        pass


def spin_after(started: threading.Event) -> Callable[[], None]:
    def function() -> None:
        started.set()
        spin()

    return function


def until(event: threading.Event) -> None:
    """Run Python code until an event: where an interrupt can strike."""
    while not event.is_set():
        pass


def wait(event: threading.Event) -> None:
    assert event.wait(DEADLINE)


def interrupters() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "joblib-distributed-interrupt"]


def tries_of_interrupters(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Count how often an interrupter tries to take the turn."""
    tries = threading.Semaphore(0)
    take_turn = interrupt._Run._take_turn

    def counted(run: interrupt._Run, side: interrupt.Side) -> bool:
        if side == "interrupter":
            tries.release()
        return take_turn(run, side)

    monkeypatch.setattr(interrupt._Run, "_take_turn", counted)
    return tries


def wait_for_interrupters() -> None:
    wait_until(lambda: not interrupters(), 10, lambda: f"still there: {interrupters()}")


# ------------------------------------------------------------------- what is interrupted
def test_function_that_is_left_alone_runs_to_its_end() -> None:
    done: list[int] = []
    assert interruptible("c", lambda: done.append(1)) is True
    assert done == [1]
    assert not is_unwanted("c")


def test_python_loop_is_stopped() -> None:
    started = threading.Event()
    join = in_thread(lambda: interruptible("c", spin_after(started)))
    wait(started)
    assert interrupt_call("c") == 1
    assert join() is False
    assert is_unwanted("c")


def test_every_batch_of_the_call_is_stopped_and_no_other() -> None:
    events = [threading.Event() for _ in range(3)]
    joins = [
        in_thread(lambda event=event: interruptible("c", spin_after(event)))
        for event in events
    ]
    other_started, other_may_end = threading.Event(), threading.Event()

    def other() -> None:
        other_started.set()
        until(other_may_end)

    join_other = in_thread(lambda: interruptible("other", other))
    for event in (*events, other_started):
        wait(event)
    assert interrupt_call("c") == 3
    assert [join() for join in joins] == [False] * 3
    wait_for_interrupters()
    other_may_end.set()
    assert join_other() is True
    assert not is_unwanted("other")


def test_an_attempt_is_stopped_apart_from_others_of_its_call() -> None:
    names = ["a", "b", "kept"]
    started = {name: threading.Event() for name in names}
    may_end = threading.Event()

    def task(name: str) -> None:
        started[name].set()
        until(may_end)

    joins = [
        in_thread(lambda name=name: interruptible("c", lambda: task(name), name))
        for name in names
    ]
    for event in started.values():
        wait(event)
    assert interrupt_call("a", "b", "unknown") == 2
    assert [join() for join in joins[:2]] == [False, False]
    wait_for_interrupters()
    may_end.set()
    assert joins[2]() is True
    assert interruptible("c", lambda: None, "a") is False
    assert not is_unwanted("c")


def test_what_has_not_begun_is_refused() -> None:
    begun: list[int] = []
    assert interrupt_call("c") == 0
    assert interruptible("c", lambda: begun.append(1)) is False
    assert begun == []
    assert interruptible("other", lambda: begun.append(2)) is True
    assert begun == [2]


def test_task_that_catches_the_interrupt_gets_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interrupt, "INTERVAL", 0.5)
    started = threading.Event()
    caught: list[int] = []

    def stubborn() -> None:
        try:
            started.set()
            spin()
        except BaseException:
            caught.append(1)
        spin()

    join = in_thread(lambda: interruptible("c", stubborn))
    wait(started)
    interrupt_call("c")
    assert join() is False
    assert caught == [1]


def test_usual_handlers_do_not_catch_the_interrupt() -> None:
    assert not issubclass(Interrupted, Exception)
    started = threading.Event()
    cleaned: list[int] = []

    def function() -> None:
        try:
            try:
                started.set()
                spin()
            except Exception:
                cleaned.append(0)
        finally:
            cleaned.append(1)

    join = in_thread(lambda: interruptible("c", function))
    wait(started)
    interrupt_call("c")
    assert join() is False
    assert cleaned == [1]


def test_exception_of_the_function_passes() -> None:
    def function() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        interruptible("c", function)


def test_interrupted_run_leaves_the_thread_usable() -> None:
    """The worker's thread runs the next task, of another call."""
    started = threading.Event()

    def run() -> list[bool]:
        first = interruptible("c", spin_after(started))
        return [first, interruptible("next", lambda: None)]

    join = in_thread(run)
    wait(started)
    interrupt_call("c")
    assert join() == [False, True]


def test_shielded_block_is_interrupted_only_when_it_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, may_leave = threading.Event(), threading.Event()
    done: list[str] = []

    def function() -> None:
        with shielded():
            started.set()
            until(may_leave)
            done.append("shielded")
        spin()
        done.append("after")

    join = in_thread(lambda: interruptible("c", function))
    wait(started)
    looked = tries_of_interrupters(monkeypatch)
    interrupt_call("c")
    for _ in range(3):  # three tries have been without effect
        assert looked.acquire(timeout=DEADLINE)
    may_leave.set()
    assert join() is False
    assert done == ["shielded"]


def test_injection_on_its_way_to_a_shielded_block_is_absorbed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1. It is decided to inject. 2. The block is to be entered. 3. It is injected."""
    monkeypatch.setattr(interrupt, "INTERVAL", 0.01)
    held = HeldInjections(monkeypatch)
    started, may_enter, entering = (threading.Event() for _ in range(3))
    inside: list[str] = []

    def function() -> None:
        started.set()
        wait(may_enter)
        entering.set()
        with shielded():
            for _ in range(1000):
                sum((1, 2, 3))
            inside.append("complete")
        spin()

    join = in_thread(lambda: interruptible("c", function))
    wait(started)
    interrupt_call("c")
    held.wait()
    may_enter.set()
    wait(entering)
    held.release()
    assert join() is False
    assert inside in ([], ["complete"])


# ------------------------------------------------------------------ runs inside of a run
def test_interrupt_of_an_inner_run_leaves_the_outer_one() -> None:
    started = threading.Event()
    inner: list[bool] = []

    def outer() -> None:
        inner.append(interruptible("inner", spin_after(started)))

    join = in_thread(lambda: interruptible("outer", outer))
    wait(started)
    assert interrupt_call("inner") == 1
    assert join() is True
    assert inner == [False]


def test_interrupt_of_an_outer_run_stops_both() -> None:
    started = threading.Event()
    after: list[str] = []

    def outer() -> None:
        interruptible("inner", spin_after(started))
        spin()
        after.append("still running")

    join = in_thread(lambda: interruptible("outer", outer))
    wait(started)
    assert interrupt_call("outer") == 1
    assert join() is False
    assert after == []
    assert not is_unwanted("inner")


# ------------------------------------------------------------------------------ imports
def test_importing_thread_is_interrupted_once_the_import_has_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An interrupted import of an extension module cannot be repeated."""
    gates = SimpleNamespace(started=threading.Event(), may_end=threading.Event())
    monkeypatch.setitem(sys.modules, "gates_of_slow_module", gates)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "slow_module.py").write_text(
        "import gates_of_slow_module as gates\n"
        "gates.started.set()\n"
        "while not gates.may_end.is_set():\n"
        "    pass\n"
        "gates.ended = True\n"
    )
    looks = threading.Semaphore(0)
    current_frames = sys._current_frames

    def counted_frames() -> dict[int, FrameType]:
        looks.release()
        return current_frames()

    monkeypatch.setattr(sys, "_current_frames", counted_frames)

    def function() -> None:
        import slow_module  # noqa: F401

        spin()

    join = in_thread(lambda: interruptible("c", function))
    wait(gates.started)
    assert interrupt_call("c") == 1
    for _ in range(3):  # two looks have been without effect
        assert looks.acquire(timeout=DEADLINE)
    gates.may_end.set()
    assert join() is False
    assert gates.ended is True
    assert sys.modules["slow_module"].gates is gates
    del sys.modules["slow_module"]


def test_thread_that_starts_another_is_interrupted_once_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception for the starter would be raised in the thread it starts."""
    starting, may_start, ran = (threading.Event() for _ in range(3))
    looked = tries_of_interrupters(monkeypatch)

    class Slow(threading.Thread):
        @property
        def _started(self) -> Any:  # asked for by `start`, in its first line
            if threading.current_thread() is not self and not starting.is_set():
                starting.set()
                until(may_start)
            return self.real_started

        @_started.setter
        def _started(self, event: Any) -> None:
            self.real_started = event

    def function() -> None:
        thread = Slow(target=ran.set)
        thread.start()
        thread.join()
        spin()

    join = in_thread(lambda: interruptible("c", function))
    wait(starting)
    interrupt_call("c")
    for _ in range(3):  # three tries have been without effect
        assert looked.acquire(timeout=DEADLINE)
    may_start.set()
    wait(ran)
    assert join() is False


# --------------------------------------------------------------------------- bookkeeping
def test_only_the_last_calls_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "REMEMBERED", 3)
    for number in range(5):
        interrupt_call(f"c{number}")
    assert [is_unwanted(f"c{number}") for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert len(interrupt._unwanted) == 3


def test_a_call_is_remembered_once() -> None:
    interrupt_call("c")
    interrupt_call("c")
    assert list(interrupt._unwanted) == ["c"]


def test_no_thread_outlives_what_it_interrupts() -> None:
    started = threading.Event()
    join = in_thread(lambda: interruptible("c", spin_after(started)))
    wait(started)
    interrupt_call("c")
    assert join() is False
    wait_for_interrupters()


# -------------------------------------------------------------------- races, step by step
class HeldInjections:
    """Holds back injections on their way, until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on_its_way = threading.Semaphore(0)
        self.may_strike = threading.Semaphore(0)
        self._inject = interrupt._inject
        monkeypatch.setattr(interrupt, "_inject", self._hold)

    def _hold(self, thread: int) -> None:
        if thread != threading.get_ident():  # not one that absorbs
            self.on_its_way.release()
            assert self.may_strike.acquire(timeout=DEADLINE)
        self._inject(thread)

    def wait(self) -> None:
        assert self.on_its_way.acquire(timeout=DEADLINE)

    def release(self, count: int = 1000) -> None:
        self.may_strike.release(count)


def run_and_look_back(
    function: Callable[[], None], may_end: threading.Event, trace: Any = None
) -> Callable[[], list[object]]:
    """Run a function, then Python code of the engine's; tell what happened to each."""

    def run() -> list[object]:
        found: list[object] = []
        sys.settrace(trace)
        try:
            try:
                found.append(interruptible("c", function))
            except Exception as error:
                found.append(type(error))
            until(may_end)
        except Interrupted:
            found.append("escaped")
        finally:
            sys.settrace(None)
        return found

    return in_thread(run)


def test_injection_on_its_way_when_the_function_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1. It is decided to inject. 2. The function ends. 3. It is injected."""
    held = HeldInjections(monkeypatch)
    started, may_return, returning = (threading.Event() for _ in range(3))
    may_end = threading.Event()

    def function() -> None:
        started.set()
        wait(may_return)
        returning.set()

    join = run_and_look_back(function, may_end)
    wait(started)
    interrupt_call("c")
    held.wait()
    may_return.set()
    wait(returning)
    held.release()
    wait_for_interrupters()
    may_end.set()
    assert join() in ([True], [False])


def test_injection_on_its_way_when_the_function_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = HeldInjections(monkeypatch)
    started, may_return, returning = (threading.Event() for _ in range(3))
    may_end = threading.Event()

    def function() -> None:
        started.set()
        wait(may_return)
        returning.set()
        raise ValueError

    join = run_and_look_back(function, may_end)
    wait(started)
    interrupt_call("c")
    held.wait()
    may_return.set()
    wait(returning)
    held.release()
    wait_for_interrupters()
    may_end.set()
    assert join() in ([ValueError], [False])


def test_second_interrupt_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several workers in one process are each told of the call.

    1. Two are about to inject. 2. One injects: the function is stopped. 3. The other
    injects later.
    """
    held = HeldInjections(monkeypatch)
    started, may_end = threading.Event(), threading.Event()
    join = run_and_look_back(spin_after(started), may_end)
    wait(started)
    assert interrupt_call("c") == 1
    assert interrupt_call("c") == 1
    held.wait()
    both = held.on_its_way.acquire(timeout=1)  # where only one may, this is in vain
    held.release(1)
    if both:
        wait_until(lambda: len(interrupters()) < 2, DEADLINE, lambda: "both remain")
    held.release()
    wait_for_interrupters()
    may_end.set()
    assert join() == [False]


@pytest.mark.parametrize("step", range(1, 13))
def test_second_injection_on_its_way_when_the_first_has_ended_the_function(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """It strikes at one step after the other of what closes the run."""
    monkeypatch.setattr(interrupt, "INTERVAL", 0.01)
    held = HeldInjections(monkeypatch)
    started, may_end = threading.Event(), threading.Event()
    steps_left: list[None] = []
    has_struck = threading.Lock()  # an event's own lock could stay taken if it strikes
    has_struck.acquire()
    inject = interrupt._inject

    def inject_and_tell(thread: int) -> None:
        inject(thread)
        if thread != threading.get_ident() and has_struck.locked():
            has_struck.release()

    def function() -> None:
        try:
            started.set()
            spin()
        finally:  # 1. The first has struck. 2. The second is on its way.
            held.wait()
            has_struck.acquire(timeout=DEADLINE)
            steps_left.extend([None] * step)

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != interrupt.__file__:
            return None
        if event == "line" and steps_left:
            steps_left.pop()
            if not steps_left:  # 3. It strikes here.
                held.release()
                has_struck.acquire(timeout=DEADLINE)
        return trace

    monkeypatch.setattr(interrupt, "_inject", inject_and_tell)
    join = run_and_look_back(function, may_end, trace)
    wait(started)
    interrupt_call("c")
    held.wait()
    held.release(1)
    wait_for_interrupters()
    may_end.set()
    assert join() == [False]


# -------------------------------------------------------------------------------- stress
class Yielding:
    """Lets other threads run at random points of a file.

    Only between two steps between which an exception can be injected, too: at the
    beginning of a Python function, and when a C function returns.
    """

    def __init__(self, seed: int, *files: str) -> None:
        self._random = random.Random(seed)
        self._files = files
        self._never = threading.Lock()
        self._never.acquire()

    def pause(self) -> None:
        self._never.acquire(timeout=1e-6)

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if (
            event in ("call", "c_return")
            and frame.f_code.co_filename in self._files
            and self._random.random() < 0.4
        ):
            self.pause()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_interrupt_never_escapes_at_the_end_of_a_function(seed: int) -> None:
    """Interrupts race against the end of short functions.

    Whatever is raised in the engine's code would end the runner, and so fail the test.
    """
    rounds = 1200
    files = (interrupt.__file__, threading.__file__, __file__)
    begin_run, begin_interrupt = threading.Semaphore(0), threading.Semaphore(0)
    done = threading.Semaphore(0)
    results: list[bool] = []

    def function() -> None:
        sum((1, 2, 3))

    def run_one(call: str) -> bool:
        yielding = Yielding(seed, *files)
        sys.setprofile(yielding)
        try:
            result = interruptible(call, function)
            # The engine's code: an injection that comes late would strike here.
            for _ in range(20):
                sum((1, 2, 3))
            return result
        finally:
            sys.setprofile(None)

    def run() -> None:
        for number in range(rounds):
            assert begin_run.acquire(timeout=DEADLINE)
            results.append(run_one(f"c{number}"))
            done.release()

    def interrupt_all() -> None:
        yielding = Yielding(seed + 100, *files)
        delays = random.Random(seed)
        for number in range(rounds):
            assert begin_interrupt.acquire(timeout=DEADLINE)
            for _ in range(delays.randrange(12)):
                yielding.pause()
            interrupt_call(f"c{number}")
            done.release()

    joins = [in_thread(run), in_thread(interrupt_all)]
    for _ in range(rounds):
        begin_run.release()
        begin_interrupt.release()
        for _ in range(2):
            assert done.acquire(timeout=DEADLINE), "a thread is stuck, or was ended"
    for join in joins:
        join()
    assert len(results) == rounds


@pytest.mark.slow
def test_interrupts_that_are_repeated_never_escape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Injections follow each other as fast as they can."""
    rounds = 300  # each looks at all threads of the session, again and again
    monkeypatch.setattr(interrupt, "INTERVAL", 0)
    started = threading.Semaphore(0)
    escaped: list[int] = []
    results: list[bool] = []

    def function() -> None:
        started.release()
        spin()

    def run() -> None:
        for number in range(rounds):
            try:
                results.append(interruptible(f"c{number}", function))
                sum((1, 2, 3))
            except Interrupted:
                escaped.append(number)

    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        join = in_thread(run)
        for number in range(rounds):
            assert started.acquire(timeout=DEADLINE)
            interrupt_call(f"c{number}")
        join()
    finally:
        sys.setswitchinterval(switch_interval)
    assert escaped == []
    assert results == [False] * rounds
