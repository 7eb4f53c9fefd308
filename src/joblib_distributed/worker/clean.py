"""The context that a thread had before a batch began in it.

What the engine is told in a task's context it goes on to use for other tasks: context
variables that were set for the one would hold in these.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class _ThisThread(threading.local):
    context: contextvars.Context | None = None


_this_thread = _ThisThread()


def remember_context() -> None:
    """Take note of the context of this thread: nothing of a batch is set yet."""
    _this_thread.context = contextvars.copy_context()


def outside(function: Callable[[], T]) -> T:
    """Call a function in the context that was there before the batch of this thread."""
    context = _this_thread.context
    return function() if context is None else context.copy().run(function)
