"""The attempts of a call that are out.

Pure: no thread, no clock, no input or output, neither joblib nor distributed.

See Also
--------
joblib_distributed.driver.call : decides what is sent, and what their ends mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from joblib_distributed.driver.batching import LEAST, BatchPolicy
from joblib_distributed.driver.entries import Attempt, Entry
from joblib_distributed.driver.events import Send
from joblib_distributed.driver.keys import batch_name
from joblib_distributed.driver.lanes import MOST_LANES, Lanes


class Flights:
    """Attempts by key, from when they are sent until they end.

    Parameters
    ----------
    name : str
        See `Call`.
    policy : BatchPolicy or None
        Says how long a batch may take.
    """

    def __init__(self, name: str, policy: BatchPolicy | None) -> None:
        self._name = name
        self._policy = policy
        #: How many were sent so far.
        self.sent = 0
        self._attempts: dict[str, Attempt] = {}
        # Keys of those that carry a suspect: asked for with each batch, of thousands.
        self._solo: set[str] = set()
        self._lanes = Lanes()
        #: The time, on any clock, as far as it was told.
        self.now = 0.0

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._attempts)

    def __contains__(self, key: object) -> bool:
        return key in self._attempts

    @property
    def has_solo(self) -> bool:
        """Whether a suspect is out: then nothing else may be."""
        return bool(self._solo)

    def get(self, key: str) -> Attempt | None:
        """Return an attempt, if it is out."""
        return self._attempts.get(key)

    def due(self, key: str) -> float:
        """Return the seconds after which one that is out is to be looked at, if soon.

        See `Attempt.due`.
        """
        attempt = self._attempts.get(key)
        return math.inf if attempt is None else attempt.due

    def doubt(self, key: str) -> float:
        """Return the seconds after which one that rests on a mere belief is overdue."""
        if self._policy is None or not self._policy.is_belief:
            return math.inf
        # A look at that very moment would not find it overdue yet.
        return self.due(key) + 0.001

    def rivals(self, attempt: Attempt) -> list[Attempt]:
        """Return those that carry the same tasks as one, and itself if it is out."""
        return [self._attempts[key] for key in attempt.rivals(self._attempts)]

    def next_size(self, waiting: int) -> int | None:
        """See `BatchPolicy.next_size`; None if nothing else is said."""
        if self._policy is None:
            return None
        return self._policy.next_size(waiting, len(self), self._loads())

    @property
    def is_supplied(self) -> bool:
        """Whether every thread has work for longer than it takes to send it more."""
        return min(self._loads(), default=0.0) > 2 * LEAST

    def _loads(self) -> list[float]:
        """Return the seconds until each thread is free, if that is known: see `Lanes`."""
        policy = self._policy
        if policy is None or policy.mean is None or policy.threads > MOST_LANES:
            return []
        return self._lanes.loads(self.now, policy.mean, policy.threads)

    def send(
        self,
        entries: list[Entry],
        solo: bool,
        race: set[str] | None = None,
        avoiding: frozenset[str] = frozenset(),
    ) -> Send:
        """Return the order to send tasks under a fresh key, and count them as out.

        Parameters
        ----------
        entries : list of Entry
        solo : bool
            Whether it is a suspect.
        race : set of str, optional
            Keys of all attempts that have carried the same tasks; is added to.
        avoiding : frozenset of str, optional
            Workers that should not run them.
        """
        self.sent += 1
        name = batch_name(entry.tasks for entry in entries)
        key = f"{name}-{self._name}-{self.sent}"
        race = {key} if race is None else race
        race.add(key)
        since = entries[0].stranded_since
        tasks = [entry.tasks for entry in entries]
        box = None
        if self._policy is not None:
            size = sum(each.size for each in tasks)
            box = self._policy.patience_with(size)
            self._note_sent(key, size, self._policy)
        attempt = Attempt(entries, solo, race=race, stranded_since=since, box=box)
        self._attempts[key] = attempt
        if solo:
            self._solo.add(key)
        entries[0].stranded_since = None
        along = any(entry.along for entry in entries)
        # It is not the turn of a suspect's second attempt; it is that of the first.
        alone = solo and len(race) == 1
        anywhere = any(entry.renewed for entry in entries)
        worker = entries[0].worker
        return Send(key, tasks, alone, along, worker, box, avoiding, anywhere)

    def _note_sent(self, key: str, size: int, policy: BatchPolicy) -> None:
        if policy.threads <= MOST_LANES:
            mean = policy.mean or 0.0
            self._lanes.send(key, size, self.now, mean, policy.threads)

    def take_back(self, key: str, kept: int) -> list[Entry]:
        """See `Attempt.take_back`."""
        attempt = self._attempts[key]
        left = attempt.take_back(kept)
        self._lanes.keep(key, attempt.size)
        return left

    def note_running(self, key: str, seconds: float) -> None:
        """Take note of how long a worker has been at a task of one that is out."""
        if self._policy is not None:
            self._policy.note_running(key, seconds)

    def pop(self, key: str) -> Attempt | None:
        """Return an attempt that has ended, if it was out."""
        if self._policy is not None:
            self._policy.note_ended(key)
        self._solo.discard(key)
        self._lanes.end(key, self.now)
        return self._attempts.pop(key, None)

    def pop_rivals(self, attempt: Attempt) -> list[str]:
        """End all that carry the same tasks as one that has ended; return their keys."""
        keys = attempt.rivals(self._attempts)
        for key in keys:
            self.pop(key)
        return keys

    def clear(self) -> None:
        """Forget all."""
        self._attempts.clear()
        self._solo.clear()
        self._lanes.clear()
