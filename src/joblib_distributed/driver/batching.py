"""How many tasks go in the next batch.

Pure. Used when joblib's ``batch_size`` is "auto"; an explicit one never comes here.
"""

from __future__ import annotations

#: Seconds a batch should take, joblib's own value for the same purpose
#: (``AutoBatchingMixin.MIN_IDEAL_BATCH_DURATION``): long against the few milliseconds a
#: batch costs the driver and the scheduler, short against the patience of a user.
TARGET_DURATION = 0.2

#: Bytes of packed arguments a batch should not exceed, so that a generator of large
#: arguments is not read far ahead. A guess.
TARGET_NBYTES = 8 * 2**20

#: Tasks in a batch at most, for the same reason. A guess.
MOST_TASKS = 10_000

#: Weight of the past against one new batch in the smoothed means. A guess.
MEMORY = 0.7


class BatchPolicy:
    """Sizes batches from what finished tasks cost; jumps straight to the right size."""

    def __init__(self) -> None:
        self._tasks = 0.0
        self._seconds = 0.0
        self._nbytes = 0.0

    def record(self, tasks: int, seconds: float, nbytes: int) -> None:
        """Take note of a finished batch.

        Parameters
        ----------
        tasks : int
            Number of tasks in it.
        seconds : float
            Sum of their durations on the worker.
        nbytes : int
            Sum of the sizes of their packed arguments.
        """
        self._tasks = MEMORY * self._tasks + tasks
        self._seconds = MEMORY * self._seconds + seconds
        self._nbytes = MEMORY * self._nbytes + nbytes

    def batch_size(self) -> int:
        """Return the number of tasks for the next batch, 1 while nothing is known."""
        if not self._tasks:
            return 1
        size = float(MOST_TASKS)
        if self._seconds > 0:
            size = min(size, TARGET_DURATION * self._tasks / self._seconds)
        if self._nbytes > 0:
            size = min(size, TARGET_NBYTES * self._tasks / self._nbytes)
        return max(1, int(size))
