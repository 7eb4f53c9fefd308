"""Has joblib hand over more tasks than it would by itself.

joblib hands over two batches for each job, then another whenever one is done. That is too
few where tasks are small, as they are put together to batches of ours, and where threads
join during the call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: Seconds that the first tasks wait, at most, for others to be sent with: a few times
#: what a batch costs. It ends when there are enough, or no more. A guess.
HOLD = 0.02

#: Seconds for which nothing is read when every thread has been sent work for longer: to
#: read keeps the interpreter busy, so that the messages, each of which needs it several
#: times, were on their way for 40 ms, measured, rather than some. A guess.
PAUSE = 0.01


class ReadAhead:
    """Of one call.

    Parameters
    ----------
    hand_over : callable
        Has joblib hand over that many batches in addition, on the thread that may run
        the user's code; returns how many there were.
    schedule : callable
        Has its argument called on that thread, after what is to be delivered.
    is_idle : callable
        Whether there is nothing else for that thread to do.
    lacking : callable
        Whether more tasks should be handed over.
    wake : callable
        Called on that thread when there is nothing more to hand over.
    """

    def __init__(
        self,
        hand_over: Callable[[int], int],
        schedule: Callable[[Callable[[], object]], object],
        is_idle: Callable[[], bool],
        lacking: Callable[[], bool],
        wake: Callable[[], object],
    ) -> None:
        self._hand_over = hand_over
        self._schedule = schedule
        self._is_idle = is_idle
        self._lacking = lacking
        self._wake = wake
        #: Whether small tasks may be read ahead of what joblib would have in flight.
        self.reads = False
        # Whether the thread is to do so; or is at it.
        self._is_reading = False
        #: Threads joblib has planned for; more of them need more batches in flight. None
        #: not to follow the cluster.
        self.planned_for: int | None = None
        #: When to go on, on the monotonic clock; infinite if that is not for the clock.
        self.due = math.inf
        # Until when the first tasks are held; None before there are any.
        self._hold_until: float | None = None

    def follow(self, threads: int) -> None:
        """Keep joblib's two batches for each thread in flight on new threads, too."""
        if self.planned_for is not None and threads > self.planned_for:
            more = 2 * (threads - self.planned_for)
            self.planned_for = threads
            self._schedule(lambda: self._hand_over(more))

    def go_on(self, pause: bool = False) -> None:
        """Have joblib hand over enough small tasks to fill large batches.

        Or, to `pause`, leave the interpreter to the threads that send what is enough.
        """
        now = time.monotonic()
        if pause:
            self.due = now + PAUSE
        if now < self.due < math.inf:
            return
        self.due = math.inf
        if self.reads and not self._is_reading and self._lacking():
            self._is_reading = True
            self._schedule(self._read)

    def _read(self) -> None:
        # Not while something is to be delivered: that reads on by itself.
        self._is_reading = False
        if self._lacking() and self._is_idle():
            self.reads = bool(self._hand_over(1))
            self.go_on()
            if not self._is_reading:
                self._wake()

    def hold(self) -> float:
        """Return until when the first tasks are to be held, on the monotonic clock.

        So that those which follow at once are sent with them: 0 if none do.
        """
        if self._hold_until is None:
            self._hold_until = time.monotonic() + HOLD
        if not self.reads or not self._lacking():
            self._hold_until = 0.0
        return self._hold_until
