"""What is known of each attempt that is on its way: when it was sent. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable


class Sent:
    """The attempts of one call that were sent and not released."""

    def __init__(self) -> None:
        # When, and after how many arrivals of buffers, by key.
        self._at: dict[str, float] = {}
        self._arrivals: dict[str, int] = {}

    def note(self, key: str, now: float, arrivals: int) -> None:
        """Take note of an attempt that is sent.

        Parameters
        ----------
        key : str
        now : float
            In seconds, on the monotonic clock.
        arrivals : int
            Buffers that have arrived anywhere so far: what is missing though it came
            later than that has been lost since.
        """
        self._at[key] = now
        self._arrivals[key] = arrivals

    def forget(self, keys: Iterable[str]) -> None:
        """Forget attempts that are released."""
        for key in keys:
            self._at.pop(key, None)
            self._arrivals.pop(key, None)

    def arrivals(self, key: str) -> int:
        """Return how many buffers had arrived when an attempt was sent."""
        return self._arrivals[key]

    def late(
        self,
        now: float,
        quiet: float,
        due: Callable[[str], float],
        known: float = -math.inf,
    ) -> dict[str, float]:
        """Return when those were sent that are to be asked about, by key.

        Parameters
        ----------
        now : float
            In seconds, on the monotonic clock.
        quiet : float
            Seconds without news after which any attempt is asked about.
        due : callable
            Takes a key; returns the seconds after which that one is, if sooner.
        known : float, optional
            What was before is not known, as this process may have been stopped: they
            count as sent at that time then.
        """
        late = {k: t for k, t in self._at.items() if now - t > min(quiet, due(k))}
        return {key: max(sent_at, known) for key, sent_at in late.items()}
