"""Dask futures and collections among the arguments of tasks.

They stay on the cluster: a collection is computed there, and a batch depends on what its
tasks refer to, so that the engine brings each value to the worker.

What the arguments of one task alone refer to is let go when that has been delivered:
thousands of values would fill the cluster. What two refer to stays until the end of the
call, as others may come that do, and are to find the same value; so does what a function
refers to.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import dask
from distributed import Future

from joblib_distributed.data.tasks import PackedTask, Tasks


class Inputs:
    """The futures that the tasks of one call refer to, by position.

    Tasks are read in one thread at a time, and delivered in another.

    Parameters
    ----------
    compute : callable
        Has the cluster compute a collection; returns the future.
    """

    def __init__(self, compute: Callable[[Any], Future[Any]]) -> None:
        self._compute = compute
        self._kinds: dict[type, bool] = {}
        self._lock = threading.Lock()
        self._count = 0
        self._futures: dict[int, Future[Any]] = {}
        self._positions: dict[int, int] = {}
        #: By position. Or another object could get the id of one of them.
        self._kept: dict[int, object] = {}
        # Positions that the task refers to which is being read now; those of tasks that
        # were read; and of these, those that are not let go before the end.
        self._being_read: set[int] = set()
        self._read: set[int] = set()
        self._lasting: set[int] = set()
        # By delivery, positions that its tasks refer to.
        self._of_delivery: dict[int, list[int]] = {}
        # Collections that were let go, by id: one that comes again is to stay.
        self._gone: dict[int, weakref.ref[Any]] = {}

    def position_of(self, value: Any) -> int | None:
        """Return the position of a future or collection; None for anything else."""
        kind = type(value)
        may_be = self._kinds.get(kind)
        if may_be is None:
            may_be = issubclass(kind, Future) or hasattr(kind, "__dask_graph__")
            self._kinds[kind] = may_be
        if not may_be or not (
            isinstance(value, Future) or dask.is_dask_collection(value)
        ):
            return None
        with self._lock:
            position = self._positions.get(id(value))
            if position is not None:
                self._being_read.add(position)
                return position
        future = value if isinstance(value, Future) else self._compute(value)
        with self._lock:
            return self._add(value, future)

    def _add(self, value: Any, future: Future[Any]) -> int:
        position, self._count = self._count, self._count + 1
        self._positions[id(value)] = position
        self._futures[position] = future
        self._kept[position] = value
        self._being_read.add(position)
        gone = self._gone.pop(id(value), None)
        if gone is not None and gone() is value:
            self._lasting.add(position)
        return position

    def note_read(self, task: PackedTask) -> None:
        """Note what a task refers to that has just been packed."""
        if not self._count:  # for thousands of tasks: nothing is an input
            return
        with self._lock:
            # A function may be remembered, and not be looked at again.
            self._lasting.update(task.function_shared.inputs)
            self._lasting.update(self._read.intersection(task.shared.inputs))
            self._read.update(task.shared.inputs)
            self._being_read.clear()

    def note_dispatched(self, delivery: int, tasks: Iterable[Tasks]) -> None:
        """Note which tasks are delivered together."""
        positions = [position for task in tasks for position in task.shared.inputs]
        if positions:
            with self._lock:
                self._of_delivery[delivery] = positions

    def note_delivered(self, delivery: int) -> None:
        """Let go of what nobody refers to any more: its tasks are not sent again."""
        if delivery not in self._of_delivery:
            return
        with self._lock:
            positions = set(self._of_delivery.pop(delivery))
            # 1. A task is packed that refers to what another one does. 2. That one is
            # delivered. 3. The first is noted as read.
            positions -= self._lasting | self._being_read
            released = [self._let_go(position) for position in positions]
        del released  # outside of the lock: it may take a while

    def _let_go(self, position: int) -> tuple[object, Future[Any]]:
        value, future = self._kept.pop(position), self._futures.pop(position)
        del self._positions[id(value)]
        self._read.discard(position)
        if value is not future:
            with contextlib.suppress(TypeError):  # some cannot be referred to weakly
                self._gone[id(value)] = weakref.ref(value)
        return value, future

    def forget(self) -> None:
        """Let go of all, at the end of the call: the cluster keeps what we refer to."""
        with self._lock:
            self._futures.clear()
            self._positions.clear()
            self._kept.clear()
            self._of_delivery.clear()
            self._gone.clear()

    def futures(self, positions: Iterable[int]) -> list[Future[Any]]:
        """Return the futures at these positions."""
        with self._lock:
            return [self._futures[position] for position in positions]
