"""How many tasks go in the next batch, and how many batches are on their way.

Batches are boxed in time, not in number. joblib is told how many tasks to hand over
together; the ledger then puts together, or parts, what was handed over, so that a batch
takes about the time that the box allows by what is known when it is sent; and the worker
gives back what it has not begun when the time is over.

Pure. Used when joblib's ``batch_size`` is "auto"; an explicit one never comes here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from joblib_distributed.driver.lanes import level

#: Seconds a batch should take, joblib's own value for the same purpose
#: (``AutoBatchingMixin.MIN_IDEAL_BATCH_DURATION``): long against the few milliseconds a
#: batch costs the driver and the scheduler, short against the patience of a user.
BOX = 0.2

#: Seconds of the box for each thread of the cluster: what one batch costs a scheduler,
#: about 1.6 ms measured, so that it has most of its time left: with half of this, 5,120
#: tasks of 0.5 s on 256 threads took 12.0 s rather than 11.1. Above 30 threads or so this
#: is what counts.
BOX_PER_THREAD = 0.0064

#: Seconds of work that are not worth being parted, and that are worth being sent to a
#: thread that still is busy: what a batch takes to get there and back, measured.
LEAST = 0.01

#: Seconds that a batch costs the driver, from its packing to its results, if many go
#: together: measured, with distributed 2026.8. Batches that take less than that for each
#: thread cannot be sent as fast as they end.
COST = 0.0006

#: Batches on their way to, or on, each thread: one that runs, one that waits.
FLIGHTS = 2

#: The same in all while nothing is known of the tasks, at least. A guess.
FIRST_FLIGHTS = 8

#: Batches of long tasks in flight, at least: thousands are no use to the scheduler, and
#: would have to be taken back when the call is stopped. A guess.
MOST_FLIGHTS = 1000

#: Attempts that are sent before anything else is heard: a hundred take the driver about
#: 50 ms. A guess.
SENDS_AT_ONCE = 100

#: A batch is given this many times the time it should take before it is stopped. A guess.
PATIENCE = 2.0

#: Batches of tasks that an earlier call has shown to be next to nothing, all together
#: less than what one batch costs. One would do; but who looks which workers run his
#: tasks would see but one. A guess.
PILOTS = 2

#: Seconds after which it shows that such tasks are not what they were. A guess: some
#: times what a batch costs, and less than anybody notices.
DOUBT = 0.05

#: Bytes of packed arguments a batch should not exceed, so that a generator of large
#: arguments is not read far ahead. A guess.
MOST_NBYTES = 8 * 2**20

#: The same for large buffers that are new to the store, in all the batches that joblib is
#: asked for: three for each thread, one that runs and two that wait. A batch may have
#: `MOST_NBYTES` of it in any case, and four times that at most. A guess.
MOST_STORED = 256 * 2**20

#: Tasks in a batch at most, for the same reason. A guess.
MOST_TASKS = 10_000

#: Seconds for which joblib should read the user's iterable at a time: meanwhile no result
#: is delivered. A guess.
SLICE = 0.1

#: Weight of the past against one new batch in the smoothed means. A guess.
MEMORY = 0.7


class BatchPolicy:
    """Sizes batches from what finished tasks cost; jumps straight to the right size.

    Parameters
    ----------
    threads : int
        How many tasks of the call may run at a time; may be set anew.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = max(1, threads)
        #: Whether what is known comes from an earlier call.
        self.is_belief = False
        self._tasks = 0.0
        self._seconds = 0.0
        # Squares of the seconds by which batches differed from what was expected of them,
        # and how many tasks these had.
        self._squares = 0.0
        self._compared = 0.0
        # How long tasks have been running that have not ended, by attempt. Replaced,
        # never changed: another thread reads it.
        self._running: dict[str, float] = {}
        self._nbytes = 0.0
        self._read = 0.0
        self._stored = 0.0
        self._sliced = 0.0
        self._slicing = 0.0

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
        self._disbelieve()
        # As many as run at a time tell of what is sent next, at least.
        enough = self.threads / self._tasks if self._tasks > self.threads else 1.0
        kept = max(MEMORY, enough)
        if self._tasks and tasks:
            surprise = seconds - tasks * self._seconds / self._tasks
            self._squares = kept * self._squares + surprise**2
            self._compared = kept * self._compared + tasks
        self._seconds = kept * self._seconds + seconds
        self._nbytes = kept * self._nbytes + nbytes
        # Last: while there are none, another thread does not look at the others.
        self._tasks = kept * self._tasks + tasks

    def believe(self, seconds: float) -> None:
        """Take note of what a task took in an earlier call, until this one tells."""
        self._seconds, self._tasks = seconds, 1.0
        self.is_belief = True

    def _disbelieve(self) -> None:
        if self.is_belief:
            self._seconds = self._tasks = 0.0
            self.is_belief = False

    def note_running(self, attempt: str, seconds: float) -> None:
        """Take note of a task that has run for so long and has not ended.

        It takes as long at least; that says nothing before it fills a batch, or is more
        than was believed of one. However long it goes on, it counts as one task that
        takes as long as a batch may: while little is known, all are taken to be like it;
        after thousands, one in thousands.
        """
        if seconds < (self.patience_with(1) if self.is_belief else self.box):
            return
        self._running = {**self._running, attempt: seconds}
        self._disbelieve()

    def note_ended(self, attempt: str) -> None:
        """Forget what was running; `record` tells of it if it gave its value."""
        if attempt in self._running:
            self._running = {k: s for k, s in self._running.items() if k != attempt}

    def note_read(self, tasks: int, nbytes: int) -> None:
        """Take note of tasks that were packed.

        Parameters
        ----------
        tasks : int
            Number of tasks.
        nbytes : int
            Size of their large buffers that the store did not have yet.
        """
        self._read = MEMORY * self._read + tasks
        self._stored = MEMORY * self._stored + nbytes

    def note_slice(self, tasks: int, seconds: float) -> None:
        """Take note of how long joblib took to read so many tasks, and hand them over."""
        self._sliced = MEMORY * self._sliced + tasks
        self._slicing = MEMORY * self._slicing + seconds

    @property
    def mean(self) -> float | None:
        """Seconds that a task takes, if that is known."""
        tasks, seconds = self._cost()
        return seconds / tasks if tasks else None

    def _cost(self) -> tuple[float, float]:
        """Return a number of tasks, and what they take; with those that are running."""
        tasks, seconds = self._tasks, self._seconds
        for running in self._running.values():
            least = min(running, self.patience)
            if least * self._tasks >= self._seconds:  # else they are known to take long
                tasks, seconds = tasks + 1, seconds + least
        return tasks, seconds

    @property
    def _is_known(self) -> bool:
        return bool(self._tasks or self._running)

    @property
    def box(self) -> float:
        """Seconds that a batch should take."""
        return max(BOX, BOX_PER_THREAD * self.threads)

    @property
    def patience(self) -> float:
        """Seconds after which a worker gives back what it has not begun."""
        return PATIENCE * self.box

    def patience_with(self, tasks: int) -> float:
        """Return the patience with a batch of so many tasks; less with a mere belief."""
        if not self.is_belief:
            return self.patience
        believed = PATIENCE * tasks * (self.mean or 0.0)
        return min(self.patience, max(DOUBT, believed))

    @property
    def most_stored(self) -> float:
        """Bytes of large buffers, new to the store, that a batch should not exceed."""
        share = MOST_STORED / (1 + FLIGHTS) / self.threads
        return max(MOST_NBYTES, min(share, 4 * MOST_NBYTES))

    def batch_size(self) -> int:
        """Return how many tasks joblib is to hand over together, 1 while in the dark."""
        if not self._is_known:
            return 1
        size = self._full()
        if self._slicing > 0:  # joblib reads a batch for each of its jobs
            size = min(size, SLICE * self._sliced / self._slicing / self.threads)
        return max(1, int(size))

    def _full(self) -> float:
        """Return how many tasks fill the box."""
        size = float(MOST_TASKS)
        tasks, seconds = self._cost()
        if seconds > 0:
            size = min(size, self.box * tasks / seconds)
        if self._nbytes > 0:
            size = min(size, MOST_NBYTES * self._tasks / self._nbytes)
        if self._stored > 0:
            size = min(size, self.most_stored * self._read / self._stored)
        return size

    @property
    def _foreseen(self) -> float:
        """Number of tasks that are known to take about as long as expected, together.

        What one of them differs by adds up as in a random walk.
        """
        if not self._compared or self._running:
            return 0.0
        variance = self._squares / self._compared
        return LEAST**2 / variance if variance > 0 else math.inf

    def next_size(
        self, waiting: int, in_flight: int, loads: Sequence[float] = ()
    ) -> int | None:
        """Return how many tasks to send now.

        The work that waits is shared out evenly, in smaller and smaller pieces when its
        end comes near, so that all threads end together.

        Parameters
        ----------
        waiting : int
            Number of tasks that may be sent.
        in_flight : int
            Number of batches that are.
        loads : sequence of float, optional
            Seconds until each thread is free, if that is known; those of the one that
            will be given the batch first.

        Returns
        -------
        int or None
            0 to wait until more is known or more is free. None to send what joblib has
            handed over together, as it is.
        """
        if (self.is_belief or not self._is_known) and in_flight >= self._most_at_first:
            return 0
        if not self._is_known:
            return None
        full = self._full()
        if full < 2:
            # They are long: let the scheduler see what is to come.
            return 1 if in_flight < max(MOST_FLIGHTS, 2 * self._most) else 0
        if in_flight >= self._most:
            return 0
        mean = self.mean or 0.0
        if self.is_belief:  # they may be long this time, and wait for each other
            parts = self.threads - in_flight
            if parts <= 0 and waiting < int(full):  # all are busy, and soon more is known
                return 0
            if waiting > parts and waiting * mean < LEAST:
                parts = min(parts, PILOTS - in_flight)
            return max(1, int(min(full, -(-waiting // max(1, parts)))))
        share = waiting / self.threads
        if loads and mean > 0:  # it gets what it lacks for all to end together
            share = max(0.0, level(loads, waiting * mean) - loads[0]) / mean
            if not share and in_flight >= self.threads:
                return 0
        foreseen = min(share, self._foreseen)
        if in_flight >= self.threads and waiting * mean < LEAST and foreseen < share:
            return 0
        least = max(LEAST, COST * self.threads)
        least = min(least / mean, waiting) if mean > 0 else waiting
        size = max(least, foreseen, math.ceil(share / FLIGHTS))
        if waiting - int(size) <= least / 2:  # a crumb would cost as much as a batch
            size = waiting
        return max(1, int(min(full, size)))

    @property
    def _most(self) -> int:
        return FLIGHTS * self.threads

    @property
    def _most_at_first(self) -> int:
        return max(FIRST_FLIGHTS, self._most)

    def lacking(self, waiting: int) -> int:
        """Return how many tasks more joblib should hand over, for threads to be busy."""
        if not self._is_known or self._full() < 2:
            return 0
        return max(0, int(self._full() * self.threads) - waiting)
