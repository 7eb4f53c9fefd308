"""Tells the user, once each time, that the cluster has no worker."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import distributed

from joblib_distributed.driver import refusals, telling

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


def wait(
    probe: Callable[[], Any], threads: Callable[[], int], seconds: float, address: str
) -> int:
    """Wait for a worker; tell the user if it takes a while.

    A task that waits is what makes an adaptive cluster start one. It is cancelled when
    the connection is lost, or the scheduler restarted: then another is sent.

    Parameters
    ----------
    probe : callable
        Sends such a task, and returns its future.
    threads : callable
        Returns how many threads may run it.
    seconds : float
    address : str
        The scheduler's.

    Returns
    -------
    int
        Number of threads.

    Raises
    ------
    NoWorkersError
        If there is none after so many seconds.
    """
    end = time.monotonic() + seconds
    absence = Absence()
    absence.is_to_be_told(0, time.monotonic())
    found = 0
    while not found:
        task = probe()
        try:
            _wait_for(task, end, absence, lambda: tell(address, seconds))
        except (distributed.TimeoutError, distributed.CancelledError) as error:
            if not _left(end):
                raise refusals.no_workers(seconds, address) from error
        finally:
            task.release()
        found = threads()
    return found


def _wait_for(
    task: Any, end: float, absence: Absence, tell: Callable[[], object]
) -> None:
    with contextlib.suppress(distributed.TimeoutError):
        task.result(timeout=min(TELL_AFTER, _left(end)))
        return
    left = _left(end)
    if left and absence.is_to_be_told(0, time.monotonic()):
        tell()
    task.result(timeout=None if math.isinf(left) else left)


def _left(end: float) -> float:
    return max(0.0, end - time.monotonic())


def tell(address: str, seconds: float) -> None:
    """Tell that for so many seconds a worker is waited for."""
    until = "" if math.isinf(seconds) else f" for up to {seconds:g} seconds"
    telling.tell(
        f"joblib_distributed: the scheduler at {address} has no worker. Waiting for one"
        f"{until} (wait_for_workers_timeout={seconds:g}); tasks go on when it is there."
    )
