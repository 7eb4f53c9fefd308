"""Waiting for what has no event of its own, always with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_never = threading.Event()


def wait_until(
    condition: Callable[[], object], timeout: float, describe: Callable[[], str]
) -> None:
    """Return when `condition` holds; fail with `describe` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout} s: {describe()}")
        _never.wait(0.01)
