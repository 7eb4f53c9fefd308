"""What a look at the scheduler means for an attempt of a call.

Pure: no thread, no clock, no input or output, neither joblib nor distributed.

See Also
--------
joblib_distributed.driver.call : acts on it.
"""

from __future__ import annotations

import enum
import math

from joblib_distributed.driver.entries import Attempt
from joblib_distributed.driver.events import Looked, Recalled

#: States of an attempt that a worker may have begun. The last is what is said of any on
#: the embedded cluster: its workers' states are its own business.
ON_WORKERS = ("processing", "waiting")

#: A task that takes this many times the mean of its call is a straggler. A guess.
SLOWER = 2.0

#: So many seconds at least: below, another try would hardly end sooner. A guess.
LEAST_STRAGGLING = 1.0


class Finding(enum.Enum):
    """What is to be done about an attempt."""

    #: Nothing.
    FINE = enum.auto()
    #: The scheduler has forgotten it, or never got it.
    LOST = enum.auto()
    #: No worker takes it, and the scheduler does not look again.
    UNTAKEN = enum.auto()
    #: No worker has taken it for too long.
    STRANDED = enum.auto()
    #: The worker that has it does not report.
    SILENT = enum.auto()
    #: It should be back even if it waited for another batch; it has more than one task.
    OVERDUE = enum.auto()
    #: It takes far longer than tasks of its call do, if it does not wait.
    SLOW = enum.auto()


class Looks:
    """What is found of the attempts of one call, look after look.

    Parameters
    ----------
    stranded_timeout : float
        Seconds after which an attempt that no worker can take is given up.
    """

    def __init__(self, stranded_timeout: float) -> None:
        self.stranded_timeout = stranded_timeout
        # When a look last found that the cluster has threads.
        self._threads_at = -math.inf
        #: How many it had when it was last looked at.
        self.threads = 0
        # What tasks have taken, from the first to the last.
        self._tasks = 0
        self._seconds = 0.0

    def find(self, key: str, attempt: Attempt, look: Looked) -> Finding:
        """Take note of what is said of an attempt; say what that means."""
        self.threads = look.threads
        state = look.states[key]
        attempt.sent_at = min(attempt.sent_at, look.sent_at.get(key, look.now))
        attempt.note_stranded(key, look, self._threads_at)
        attempt.arrived = attempt.arrived or state is not None
        if state not in (None, "no-worker"):
            attempt.note_taken()
        attempt.unknown = attempt.unknown + 1 if state in (None, "erred") else 0
        if attempt.unknown >= attempt.patience:
            return Finding.LOST
        if state == "no-worker" and look.threads and attempt.is_new:
            return Finding.UNTAKEN
        since = attempt.stranded_since
        if since is not None and look.now - since >= self.stranded_timeout:
            return Finding.STRANDED
        if key in look.silent:
            return Finding.SILENT
        if state not in ON_WORKERS:
            return Finding.FINE
        elapsed = look.now - attempt.sent_at
        if elapsed > attempt.due:
            return Finding.OVERDUE
        return Finding.SLOW if self.is_slow(elapsed) else Finding.FINE

    def record(self, tasks: int, seconds: float) -> None:
        """Take note of tasks that gave their values, and the sum of their durations."""
        self._tasks += tasks
        self._seconds += seconds

    def is_slow(self, seconds: float) -> bool:
        """Whether a task that has taken so long is a straggler in its call."""
        if not self._tasks:
            return False
        mean = self._seconds / self._tasks
        return seconds > max(SLOWER * mean, LEAST_STRAGGLING)

    def hear(self, attempt: Attempt, told: Recalled) -> None:
        """Take note of what a worker told of an attempt."""
        attempt.worker = told.worker
        attempt.is_slow = told.has_others and self.is_slow(told.seconds)
        # A task that is not known to be long yet is asked about again.
        attempt.recalled = attempt.box is not None and told.seconds >= attempt.box

    def note(self, look: Looked) -> None:
        """Take note of the cluster, when all attempts were looked at."""
        if look.threads:
            self._threads_at = look.now
