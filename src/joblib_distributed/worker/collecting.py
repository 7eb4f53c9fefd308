"""Collects the warnings of tasks, which the driver is to issue again.

Whether a warning is shown, and where, is the process's business, not a thread's: all
tasks that run in it at a time share the filters of the one that began last.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import joblib_distributed
from joblib_distributed.data.warned import (
    Warned,
    are_of_this_process,
    issuing,
    pack_warning,
    unpack_filters,
)

#: Where this package is: what it warns of is of this host, not of a task.
_OURS = os.path.dirname(joblib_distributed.__file__)

#: Warnings of one attempt that are sent; of more, only their number. A guess.
MOST = 1000


class Collector:
    """The warnings of one attempt."""

    def __init__(self) -> None:
        self.found: list[Warned] = []
        self._dropped = 0

    def add(
        self, message: Warning, category: type[Warning], filename: str, lineno: int
    ) -> None:
        """Add one, and where it comes from."""
        if len(self.found) < MOST:
            module = _module_of(filename, lineno)
            warned = pack_warning(message, category, filename, lineno, module)
            self.found.append(warned)
            return
        self._dropped += 1
        text = f"{self._dropped} more warnings of the same tasks are not shown."
        last = pack_warning(UserWarning(text), UserWarning, filename, lineno, "")
        self.found[MOST:] = [last]


def _module_of(filename: str, lineno: int) -> str:
    """Return the name of the module whose line is being run, if it is found."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename == filename and frame.f_lineno == lineno:
            return str(frame.f_globals.get("__name__", ""))
    return issuing.get()


_collector: contextvars.ContextVar[Collector | None] = contextvars.ContextVar(
    "collector", default=None
)


class _Showing:
    """What the process does with warnings, while tasks run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks = 0
        self._filters: list[Any] = []
        self._show: Any = None

    @property
    def collects(self) -> bool:
        """Whether tasks of another process run here."""
        return bool(self._tasks)

    def begin(self, packed: Sequence[bytes]) -> None:
        with self._lock:
            if not self._tasks:
                self._filters = list(warnings.filters)
                self._show = warnings.showwarning
                warnings.showwarning = self.show
            self._tasks += 1
            _set_filters(unpack_filters(packed))

    def end(self) -> None:
        with self._lock:
            self._tasks -= 1
            if not self._tasks:
                _set_filters(self._filters)
                if warnings.showwarning == self.show:  # else a task has put its own there
                    warnings.showwarning = self._show

    def show(
        self,
        message: Any,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        """Take the place of `warnings.showwarning`."""
        collector = _collector.get()
        if collector is None or file is not None or filename.startswith(_OURS):
            self._show(message, category, filename, lineno, file, line)
        else:
            collector.add(message, category, filename, lineno)


def _set_filters(filters: Sequence[Any]) -> None:
    warnings.resetwarnings()  # also has modules forget what they have shown
    warnings.filters[:] = filters  # type: ignore[index]


_showing = _Showing()


@contextlib.contextmanager
def collecting(filters: Sequence[bytes]) -> Iterator[Collector]:
    """Have what this thread warns of collected, and decided about by these filters."""
    collector = Collector()
    are_in_force = not filters or are_of_this_process(filters)
    if are_in_force and not _showing.collects:
        yield collector  # what a task warns of is shown by itself
        return
    token = _collector.set(collector)
    if not are_in_force:  # else it is a nested call's, which has come back to its process
        _showing.begin(filters)
    try:
        yield collector
    finally:
        if not are_in_force:
            _showing.end()
        _collector.reset(token)
