"""Tells the user, once each time, that the cluster has no worker."""

from __future__ import annotations

import math
from typing import Any

import distributed

from joblib_distributed.driver import telling

#: Seconds without a worker before it is told: where a worker that dies is started again,
#: there is none for about as long. A guess.
TELL_AFTER = 1.0


class Absence:
    """Of all workers of one cluster. Not to be asked by calls that wait for nothing."""

    def __init__(self) -> None:
        self._since = math.inf
        self._is_told = False

    def is_to_be_told(self, threads: int, now: float) -> bool:
        """Take note of the threads of the cluster; say whether the user should know.

        Parameters
        ----------
        threads : int
            0 while there is no worker.
        now : float
            Seconds, on a clock that is not set.
        """
        if threads:
            self._since, self._is_told = math.inf, False
            return False
        self._since = min(self._since, now)
        if self._is_told or now - self._since < TELL_AFTER:
            return False
        self._is_told = True
        return True


def wait(probe: Any, seconds: float, address: str) -> None:
    """Wait for a future of a task that any worker may run; say so if it takes a while.

    Raises
    ------
    distributed.TimeoutError
        If none has after so many seconds.
    """
    try:
        probe.result(timeout=min(TELL_AFTER, seconds))
    except distributed.TimeoutError:
        left = seconds - TELL_AFTER
        if left <= 0:
            raise
        tell(address, seconds)
        probe.result(timeout=None if math.isinf(left) else left)


def tell(address: str, seconds: float) -> None:
    """Tell that for so many seconds a worker is waited for."""
    until = "" if math.isinf(seconds) else f" for up to {seconds:g} seconds"
    telling.tell(
        f"joblib_distributed: the scheduler at {address} has no worker. Waiting for one"
        f"{until} (wait_for_workers_timeout={seconds:g}); tasks go on when it is there."
    )
