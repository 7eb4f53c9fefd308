"""Dask futures and collections among the arguments of tasks.

They stay on the cluster: a collection is computed there, and a batch depends on what its
tasks refer to, so that the engine brings each value to the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import dask
from distributed import Future


class Inputs:
    """The futures that the tasks of one call refer to, by position.

    Parameters
    ----------
    compute : callable
        Has the cluster compute a collection; returns the future.
    """

    def __init__(self, compute: Callable[[Any], Future[Any]]) -> None:
        self._compute = compute
        self._futures: list[Future[Any]] = []
        self._positions: dict[int, int] = {}
        #: Or another object could get the id of one of them.
        self._kept: list[object] = []
        self._kinds: dict[type, bool] = {}

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
        position = self._positions.get(id(value))
        if position is None:
            future = value if isinstance(value, Future) else self._compute(value)
            position = self._positions[id(value)] = len(self._futures)
            self._futures.append(future)
            self._kept.append(value)
        return position

    def forget(self) -> None:
        """Let go of all, at the end of the call: the cluster keeps what we refer to."""
        self._futures.clear()
        self._positions.clear()
        self._kept.clear()

    def futures(self, positions: Iterable[int]) -> list[Future[Any]]:
        """Return the futures at these positions."""
        return [self._futures[position] for position in positions]
