"""Which workers have stopped reporting.

Pure: no thread, no clock, no input or output, neither joblib nor distributed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

#: Seconds for which what was noted is true. A guess: some times that between two looks.
FRESH = 3.0

#: Heartbeats in a row that a worker must miss, at least. A guess.
MISSED = 3


def interval(workers: int) -> float:
    """Return the seconds between two heartbeats of each of so many workers, at most.

    dask has each report less often the more there are: its scheduler's
    ``heartbeat_interval``.
    """
    return 1.0 if workers < 50 else max(2.0, 1 + workers / 200)


class _Last(NamedTuple):
    """The last heartbeat of a worker."""

    #: When it was, on the scheduler's clock.
    seen: float
    #: When it was first noted, on ours.
    noted: float
    #: When it was at the latest, on ours.
    at: float


class Heartbeats:
    """What is known of the workers of one cluster. Not thread-safe."""

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}
        self._noted = -math.inf

    def note(self, last_seen: Mapping[str, float], now: float) -> None:
        """Take note of when the scheduler last heard of each worker that it has.

        The scheduler's clock and ours cannot be compared. But what it has heard of last
        was not later than now, and the others were so much earlier.
        """
        latest = max(last_seen.values(), default=0.0)
        new = {}
        for address, seen in last_seen.items():
            noted, at = now, now - (latest - seen)
            before = self._last.get(address)
            if before is not None and before.seen == seen:
                noted, at = before.noted, min(before.at, at)
            new[address] = _Last(seen, noted, at)
        self._last, self._noted = new, now

    def age(self, now: float) -> float:
        """Return for how many seconds nothing was noted."""
        return now - self._noted

    def knows_silent(self, timeout: float) -> bool:
        """Whether some were silent when they were last looked at, however long ago."""
        return bool(self.silent(self._noted, timeout))

    def silent(self, now: float, timeout: float) -> frozenset[str]:
        """Return the workers not heard of for so many seconds, or several heartbeats."""
        if self.age(now) > FRESH:
            return frozenset()
        silent_at = self._silent_at(timeout)
        return frozenset(address for address, at in silent_at.items() if now > at)

    def next_silent(self, now: float, timeout: float) -> float:
        """Return when the next of them will be silent, on our clock, if not heard of."""
        return min(
            (at for at in self._silent_at(timeout).values() if at >= now),
            default=math.inf,
        )

    def _silent_at(self, timeout: float) -> dict[str, float]:
        # Several heartbeats are missed before our eyes: the scheduler's clock may be set.
        several = MISSED * interval(len(self._last))
        timeout = max(timeout, several)
        return {
            address: max(last.at + timeout, last.noted + several)
            for address, last in self._last.items()
        }

    def others(self, silent: frozenset[str]) -> list[str]:
        """Return the workers that are not silent."""
        return sorted(set(self._last) - silent)
