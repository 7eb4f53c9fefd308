"""Which workers have stopped reporting.

Pure: no thread, no clock, no input or output, neither joblib nor distributed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

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


class Heartbeats:
    """What is known of the workers of one cluster. Not thread-safe."""

    def __init__(self) -> None:
        # When its last heartbeat was, on the scheduler's clock, and since when we know,
        # on ours: the two cannot be compared.
        self._last: dict[str, tuple[float, float]] = {}
        self._noted = -math.inf

    def note(self, last_seen: Mapping[str, float], now: float) -> None:
        """Take note of when the scheduler last heard of each worker that it has."""
        known = self._last
        new = {address: (seen, now) for address, seen in last_seen.items()}
        for address, (seen, _) in new.items():
            before = known.get(address)
            if before is not None and before[0] == seen:
                new[address] = before
        self._last, self._noted = new, now

    def knows_silent(self, timeout: float) -> bool:
        """Whether some were silent when they were last looked at, however long ago."""
        return bool(self.silent(self._noted, timeout))

    def silent(self, now: float, timeout: float) -> frozenset[str]:
        """Return the workers not heard of for so many seconds, or several heartbeats."""
        if now - self._noted > FRESH:
            return frozenset()
        timeout = max(timeout, MISSED * interval(len(self._last)))
        return frozenset(
            address for address, (_, since) in self._last.items() if now - since > timeout
        )

    def others(self, silent: frozenset[str]) -> list[str]:
        """Return the workers that are not silent."""
        return sorted(set(self._last) - silent)
