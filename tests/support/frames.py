"""Asks, from wherever it is called, what `worker.interrupt` would see of the thread."""

from __future__ import annotations

import threading
from types import FrameType

from joblib_distributed.worker.interrupt import _is_in_function

#: The frame below which an injection would be made.
frame: FrameType | None = None


def is_in_function() -> bool:
    return _is_in_function(threading.get_ident(), frame)
