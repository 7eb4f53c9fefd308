"""When each thread will have done what it was sent, as far as that can be guessed.

The engine does not say which thread has which batch. But it gives the next one to a
worker that has fewest, as it takes all to be alike; and all threads are: it is enough to
know how much each of them has, whichever it is. So batches are put in as many lanes as
there are threads, the next one where there are fewest, and taken out as they end.

Pure: no thread, no clock.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable

#: Threads up to which lanes are kept. With each batch all of them are looked at, which
#: takes some microseconds for each. A guess.
MOST_LANES = 64


@dataclasses.dataclass
class _Lane:
    #: Number of tasks of each batch, by key, in the order in which they are run.
    batches: OrderedDict[str, int] = dataclasses.field(default_factory=OrderedDict)
    #: When the first of them began.
    began: float = 0.0

    def load(self, now: float, mean: float) -> float:
        """Return the seconds until it is free."""
        sizes = iter(self.batches.values())
        first = max(0.0, next(sizes, 0) * mean - (now - self.began))
        return first + sum(sizes) * mean


class Lanes:
    """Of one call."""

    def __init__(self) -> None:
        self._lanes: list[_Lane] = []
        self._lane_of: dict[str, _Lane] = {}

    def send(self, key: str, tasks: int, now: float, mean: float, threads: int) -> None:
        """Put a batch where the engine will put it.

        Parameters
        ----------
        key : str
            Of the attempt.
        tasks : int
            How many it has.
        now : float
            In seconds.
        mean : float
            Seconds that a task takes, as far as is known.
        threads : int
            How many there are.
        """
        lane = self._in_turn(now, mean, threads)[0]
        if not lane.batches:
            lane.began = now
        lane.batches[key] = tasks
        self._lane_of[key] = lane

    def keep(self, key: str, tasks: int) -> None:
        """Take note that a batch has no more than so many tasks."""
        lane = self._lane_of.get(key)
        if lane is not None:
            lane.batches[key] = tasks

    def end(self, key: str, now: float) -> None:
        """Take a batch out; if it ran, the next one behind it begins."""
        lane = self._lane_of.pop(key, None)
        if lane is not None:
            if next(iter(lane.batches)) == key:
                lane.began = now
            del lane.batches[key]

    def clear(self) -> None:
        """Forget all batches."""
        self._lanes.clear()
        self._lane_of.clear()

    def loads(self, now: float, mean: float, threads: int) -> list[float]:
        """Return the seconds until each thread is free.

        Those of the one that will be given the next batch first.
        """
        lanes = self._in_turn(now, mean, threads)
        return [lane.load(now, mean) for lane in lanes]

    def _in_turn(self, now: float, mean: float, threads: int) -> list[_Lane]:
        while len(self._lanes) < threads:
            self._lanes.append(_Lane())
        return sorted(
            self._lanes, key=lambda lane: (len(lane.batches), lane.load(now, mean))
        )


def level(loads: Iterable[float], work: float) -> float:
    """Return when all would be free if work was shared out so that they end together.

    Parameters
    ----------
    loads : iterable of float
        Seconds until each is free.
    work : float
        Seconds of work to be shared out.

    Returns
    -------
    float
        Seconds from now. Who has more than that gets nothing.
    """
    filled, count = work, 0
    for load in sorted(loads):
        if count and load * count >= filled:
            break
        filled, count = filled + load, count + 1
    return filled / max(1, count)
