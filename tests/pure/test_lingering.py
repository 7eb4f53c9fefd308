"""Buffers that stay mapped for a moment after the batch that needed them."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from joblib_distributed.data.buffers import name_of
from joblib_distributed.data.store import Buffer
from joblib_distributed.worker import lingering
from joblib_distributed.worker.lingering import LINGER, Lingering


class Loop:
    """An event loop that runs nothing by itself, and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.callbacks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.timers: list[tuple[float, Callable[[], Any]]] = []
        self._is_running = False

    def add_callback(self, callback: Callable[..., Any], *args: Any) -> None:
        self.callbacks.append((callback, args))

    def call_later(self, seconds: float, callback: Callable[[], Any]) -> None:
        assert self._is_running, "only add_callback may be called from other threads"
        self.timers.append((self.now + seconds, callback))

    def pass_on(self, seconds: float) -> None:
        """Let time pass."""
        self._is_running = True
        self._run_callbacks()
        end = self.now + seconds
        while any(at <= end for at, _ in self.timers):
            first = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = first[0]
            first[1]()
            self._run_callbacks()
        self.now = end
        self._is_running = False

    def _run_callbacks(self) -> None:
        for callback, args in self.callbacks:
            callback(*args)
        self.callbacks.clear()


class Trimmed:
    """A store that notes what still is in use when it is trimmed."""

    def __init__(self) -> None:
        self.in_use: list[set[str]] = []
        self.buffers: weakref.WeakValueDictionary[str, Buffer] = (
            weakref.WeakValueDictionary()
        )

    def trim(self) -> None:
        self.in_use.append(set(self.buffers))


class Kept:
    """Buffers kept, of which nobody but the registry knows."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.lingering = Lingering(loop)
        self.stores = [Trimmed(), Trimmed()]

    def keep(self, content: bytes, store: int = 0) -> None:
        view = memoryview(content)
        buffers = self.stores[store].buffers
        buffer = buffers.get(name_of(view)) or Buffer(name_of(view), view, None)
        buffers[buffer.name] = buffer
        self.lingering.keep(buffer, self.stores[store])  # type: ignore[arg-type]

    @property
    def left(self) -> set[bytes]:
        """Contents of all that has not gone."""
        return {bytes(b.view) for store in self.stores for b in store.buffers.values()}

    @property
    def trims(self) -> list[int]:
        return [len(store.in_use) for store in self.stores]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(lingering.time, "monotonic", lambda: loop.now)
    return loop


@pytest.fixture
def kept(loop: Loop) -> Kept:
    # What goes has gone without the garbage collector's help.
    gc.collect()
    return Kept(loop)


def test_a_buffer_is_kept_for_a_moment(kept: Kept) -> None:
    kept.keep(b"a")
    assert kept.left == {b"a"}
    kept.loop.pass_on(LINGER * 0.99)
    assert (kept.left, kept.trims) == ({b"a"}, [0, 0])


def test_a_buffer_has_gone_after_a_moment(kept: Kept) -> None:
    kept.keep(b"a")
    kept.loop.pass_on(LINGER)
    assert kept.left == set()


def test_a_buffer_that_is_used_again_is_kept_longer(kept: Kept) -> None:
    kept.keep(b"a")
    for _ in range(5):
        kept.loop.pass_on(LINGER * 0.75)
        assert kept.left == {b"a"}
        kept.keep(b"a")
    assert kept.trims == [0, 0]
    kept.loop.pass_on(2 * LINGER)
    assert (kept.left, kept.trims) == (set(), [1, 0])


def test_only_what_was_not_used_goes(kept: Kept) -> None:
    kept.keep(b"a")
    kept.keep(b"b")
    kept.loop.pass_on(LINGER / 2)
    kept.keep(b"b")
    kept.loop.pass_on(LINGER / 2)
    assert kept.left == {b"b"}
    kept.loop.pass_on(LINGER)
    assert kept.left == set()


def test_a_store_is_trimmed_once_when_nothing_is_in_use_any_more(kept: Kept) -> None:
    for content in (b"a", b"b", b"c"):
        kept.keep(content)
    kept.loop.pass_on(LINGER)
    assert [store.in_use for store in kept.stores] == [[set()], []]


def test_each_store_is_trimmed(kept: Kept) -> None:
    kept.keep(b"a", store=0)
    kept.keep(b"b", store=1)
    kept.keep(b"c", store=1)
    kept.loop.pass_on(LINGER)
    assert [store.in_use for store in kept.stores] == [[set()], [set()]]


def test_a_store_of_which_nothing_goes_is_not_trimmed(kept: Kept) -> None:
    kept.keep(b"a", store=0)
    kept.loop.pass_on(LINGER / 2)
    kept.keep(b"b", store=1)
    kept.loop.pass_on(LINGER / 2)
    assert (kept.left, kept.trims) == ({b"b"}, [1, 0])


def test_there_is_one_timer_at_a_time(kept: Kept) -> None:
    for content in (b"a", b"b", b"a"):
        kept.keep(content)
    assert len(kept.loop.callbacks) == 1
    kept.loop.pass_on(LINGER / 2)
    kept.keep(b"b")
    assert (len(kept.loop.callbacks), len(kept.loop.timers)) == (0, 1)
    kept.loop.pass_on(LINGER / 2)
    assert (kept.left, len(kept.loop.timers)) == ({b"b"}, 1)


def test_nothing_is_scheduled_when_nothing_is_kept(kept: Kept) -> None:
    assert (kept.loop.callbacks, kept.loop.timers) == ([], [])
    kept.keep(b"a")
    kept.loop.pass_on(LINGER)
    assert (kept.loop.callbacks, kept.loop.timers) == ([], [])


def test_one_that_comes_after_all_have_gone_goes_too(kept: Kept) -> None:
    kept.keep(b"a")
    kept.loop.pass_on(LINGER)
    kept.keep(b"b")
    assert len(kept.loop.callbacks) == 1
    kept.loop.pass_on(LINGER)
    assert (kept.left, kept.trims) == (set(), [2, 0])


def test_what_somebody_else_uses_is_not_gone(kept: Kept) -> None:
    kept.keep(b"a")
    (buffer,) = kept.stores[0].buffers.values()
    kept.loop.pass_on(LINGER)
    assert kept.left == {b"a"}
    del buffer
    assert kept.left == set()


class Busy:
    """A lock; as soon as the loop's thread has let go of it, another one acts."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._acts = [act]

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()
        if self._acts:
            self._acts.pop()()


def test_there_is_one_timer_also_for_what_comes_while_the_last_goes(kept: Kept) -> None:
    kept.keep(b"a")
    kept.loop.pass_on(0)
    kept.lingering._lock = Busy(lambda: kept.keep(b"b"))  # type: ignore[assignment]
    kept.loop.pass_on(LINGER)
    assert (kept.left, len(kept.loop.timers)) == ({b"b"}, 1)
