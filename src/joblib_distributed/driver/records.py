"""What the calls of this process have done: what a report at its end tells.

Pure.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from joblib_distributed.driver.tally import Work
from joblib_distributed.driver.traffic import Traffic


class Summary(NamedTuple):
    """Of all calls together."""

    calls: int = 0
    #: Seconds during which there was a call, or several.
    seconds: float = 0.0
    #: The most threads that a call could use.
    threads: int = 0
    work: Work = Work()
    traffic: Traffic = Traffic()

    @property
    def efficiency(self) -> float | None:
        """The share of the threads' time, while there was a call, that tasks took.

        None if there was none.
        """
        available = self.seconds * self.threads
        return self.work.seconds / available if available else None


class Records:
    """Sums up calls. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live = 0
        self._since = 0.0
        self._summary = Summary()

    def note_start(self, now: float, threads: int) -> None:
        """Note that a call begins, which may use so many threads.

        Parameters
        ----------
        now : float
            In seconds, on any clock that is always the same.
        threads : int
        """
        with self._lock:
            if not self._live:
                self._since = now
            self._live += 1
            threads = max(threads, self._summary.threads)
            self._summary = self._summary._replace(threads=threads)

    def note_end(self, now: float, work: Work, traffic: Traffic) -> None:
        """Note that a call has ended, and what it did."""
        with self._lock:
            self._live -= 1
            known = self._summary
            self._summary = known._replace(
                calls=known.calls + 1,
                seconds=known.seconds + (0.0 if self._live else now - self._since),
                work=known.work.plus(work),
                traffic=known.traffic.plus(traffic),
            )

    @property
    def summary(self) -> Summary:
        """Of the calls that have ended."""
        return self._summary


#: Of this process.
RECORDS = Records()
