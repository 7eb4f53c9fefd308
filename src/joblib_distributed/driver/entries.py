"""What the ledger of a call keeps of tasks that are not delivered.

Pure: no thread, no clock, no input or output, neither joblib nor distributed.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

from joblib_distributed.data.outcome import Kind, Outcome, first_of, not_run
from joblib_distributed.data.tasks import Tasks
from joblib_distributed.driver.batching import FLIGHTS
from joblib_distributed.driver.events import Looked


@dataclasses.dataclass
class Delivery:
    """Tasks whose results joblib wants together, through one callback."""

    number: int
    #: How many of them have no value yet.
    left: int
    #: Values so far, with the tasks that gave them, by the index of the first of these.
    _values: dict[int, tuple[Tasks, Outcome]] = dataclasses.field(default_factory=dict)

    def put(self, tasks: Tasks, value: Outcome) -> None:
        """Take note of what some of the tasks gave."""
        self._values[tasks.index] = tasks, value
        self.left -= tasks.size

    def values(self) -> tuple[Sequence[Tasks], Sequence[Outcome]]:
        """Return all tasks, in order, as they gave their values; and these."""
        found = [self._values[index] for index in sorted(self._values)]
        return [tasks for tasks, _ in found], [value for _, value in found]


@dataclasses.dataclass
class Entry:
    """Undelivered tasks that have gone the same way so far: one, or plain neighbours."""

    tasks: Tasks
    delivery: Delivery
    #: How often it may still be tried again after an exception of its own.
    retries_left: int
    #: How many workers died with it while it was the call's only running task.
    solo_deaths: int = 0
    #: How often the engine forgot it.
    losses: int = 0
    #: How often a worker could not begin it.
    failures: int = 0
    #: How often it was given up on its way.
    never_arrived: int = 0
    #: Whether it was sent anew because no worker took it; and until it is sent, since
    #: when none did.
    renewed: bool = False
    stranded_since: float | None = None
    #: How often a host lacked its buffers.
    misses: int = 0
    #: Whether its buffers are to be sent along.
    along: bool = False
    #: Address of a worker whose host has been given them.
    worker: str = ""

    def part(self, start: int, size: int) -> Entry:
        """Return some of the tasks, which from now on go their own way."""
        if size == self.tasks.size:
            return self
        return dataclasses.replace(self, tasks=self.tasks.part(start, size))

    def singles(self) -> Iterator[Entry]:
        """Return each task apart."""
        return (self.part(start, 1) for start in range(self.tasks.size))


#: Looks at the scheduler in a row that must find an attempt unknown, which it knew
#: before, for it to count as lost. Two is a guess.
LOOKS_BEFORE_LOST = 2

#: The same for an attempt that no look has found known yet. It is probably on its way
#: still, behind megabytes of others, which a second copy would only make worse: so this
#: is doubled each time. A guess.
LOOKS_BEFORE_NEVER_ARRIVED = 30


#: How often in all the engine may forget a task. Far above what restarts of a cluster
#: cause; it ends a call that would be sent for ever. A guess.
LOSSES_ALLOWED = 100

#: How often workers may fail to load what runs a task. Two threads of a new process that
#: import at a time may be in each other's way; what is missing stays missing. A guess.
FAILURES_ALLOWED = 3

#: How often a task may find hosts without its buffers, which are then brought there,
#: before it is sent with them. Each time is one host's first, or a transfer has failed,
#: or a host has room for too little and evicts them again. A guess.
MISSES_ALLOWED = 10

#: Attempts that carry the same tasks, one after the other has fallen silent, or is slow:
#: a task whose C code keeps its worker from reporting must not take all the others, too.
#: A guess.
RACING_ALLOWED = 3


@dataclasses.dataclass
class Attempt:
    """One sending of a batch."""

    entries: list[Entry]
    #: Whether it carries a suspect, with nothing else of the call in flight.
    solo: bool
    #: Whether a look has found that the scheduler knows it.
    arrived: bool = False
    #: Looks in a row at which the scheduler did not know it.
    unknown: int = 0
    #: Keys of this and of all that carry the same tasks, if it is raced.
    race: set[str] = dataclasses.field(default_factory=set)
    #: Since when the scheduler has had no worker for it, on the looks' clock.
    stranded_since: float | None = None
    #: When it was sent, on the looks' clock, as far as they have told.
    sent_at: float = math.inf
    #: Seconds after which its worker gives back what it has not begun, if it does.
    box: float | None = None
    #: Whether a worker that has begun it was told to do so at once.
    recalled: bool = False
    #: How many tasks it was sent with that it has not any more.
    taken: int = 0
    #: The worker that runs it, as far as it was asked; and whether it was slow then.
    worker: str = ""
    is_slow: bool = False

    @property
    def size(self) -> int:
        """Number of tasks."""
        return _size(self.entries)

    def take_back(self, kept: int) -> list[Entry]:
        """Return all tasks but the first ones, which it keeps; these go elsewhere.

        Its report, when it comes, tells of all that it was sent with.
        """
        left, start = [], 0
        entries, self.entries = self.entries, []
        for entry in entries:
            size = entry.tasks.size
            stays = min(size, max(0, kept - start))
            if stays:
                self.entries.append(entry.part(0, stays))
            if stays < size:
                left.append(entry.part(stays, size - stays))
            start += size
        for entry in left:
            entry.worker = ""
        self.taken += _size(left)
        return left

    def renew(self, is_raced: bool) -> None:
        """Have its tasks sent anew, to any worker, until one has taken them.

        If no other attempt carries them, it is not forgotten since when none does.

        The scheduler looks again at a task that no worker takes when a worker joins that
        it was meant for, and at no other.
        """
        for entry in self.entries:
            entry.renewed, entry.worker = True, ""
        if not is_raced:  # else they may be sent much later, for another reason
            self.entries[0].stranded_since = self.stranded_since

    def note_taken(self) -> None:
        """Forget that its tasks were sent anew: what comes later is another absence."""
        for entry in self.entries:
            entry.renewed = False

    def outcomes(self, reported: Sequence[Outcome]) -> Sequence[Outcome]:
        """Return what was reported of the tasks that it still has."""
        return first_of(reported, self.size) if self.taken else reported

    def note_stranded(self, key: str, look: Looked, threads_at: float) -> None:
        """Keep since when it has had no worker: to a second, and never too long.

        The first look finds what is so since it was sent, or the cluster had threads.

        Parameters
        ----------
        key : str
            Its own.
        look : Looked
        threads_at : float
            When the cluster was last seen with threads.
        """
        if look.states[key] != "no-worker" and look.threads > 0:
            self.stranded_since = None
        elif self.stranded_since is None:
            since = look.now if self.arrived else look.sent_at.get(key, look.now)
            if not look.threads:
                since = max(since, threads_at)
            self.stranded_since = since

    def rivals(self, in_flight: Container[str]) -> list[str]:
        """Return the attempts in flight that carry the same tasks: itself, too."""
        return sorted(key for key in self.race if key in in_flight)

    def yields(self, reported: Sequence[Outcome], in_flight: Container[str]) -> bool:
        """Whether it has run nothing, and others that carry the same tasks go on.

        Whoever is tried next then brings along what it may have lacked.
        """
        ran = any(o.kind not in (Kind.MISSING, Kind.NOT_RUN) for o in reported)
        if ran or not self.rivals(in_flight):
            return False
        for entry in self.entries:
            entry.along = entry.along or any(o.kind is Kind.MISSING for o in reported)
        return True

    @property
    def due(self) -> float:
        """Seconds after which it should be back, if it has several tasks.

        Its worker gives back what it has not begun when the box is over, if it can look;
        and it may have waited for another one as long. So something in it takes long, or
        it waits still: its worker knows. Infinite if there is nothing to be asked.
        """
        if self.box is None or self.recalled or self.size < 2:
            return math.inf
        return FLIGHTS * self.box

    @property
    def may_race(self) -> bool:
        """Whether its tasks may be given to another worker, too."""
        return len(self.race) < RACING_ALLOWED

    @property
    def is_new(self) -> bool:
        """Whether none of its tasks was sent anew because no worker took it."""
        return not any(entry.renewed for entry in self.entries)

    @property
    def patience(self) -> int:
        """How many looks in a row may not find it."""
        if self.arrived:
            return LOOKS_BEFORE_LOST
        times = max(entry.never_arrived for entry in self.entries)
        return LOOKS_BEFORE_NEVER_ARRIVED * int(2**times)


_NO_MORE = not_run(1)


def matched(
    entries: Iterable[Entry], outcomes: Iterable[Outcome]
) -> Iterator[tuple[Entry, Outcome]]:
    """Pair what was sent with what it gave, in parts as large as both allow.

    Parameters
    ----------
    entries : iterable of Entry
        Of an attempt.
    outcomes : iterable of Outcome
        Of all its tasks, in their order.

    Raises
    ------
    ValueError
        If they cannot be.
    """
    given = iter(outcomes)
    outcome, left = _NO_MORE, 0
    for entry in entries:
        start = 0
        while start < entry.tasks.size:
            if left == 0:
                outcome = next(given, _NO_MORE)
                left = outcome.size
            size = min(left, entry.tasks.size - start)
            if outcome is _NO_MORE or (size < left and outcome.kind is not Kind.NOT_RUN):
                raise ValueError("An attempt has outcomes that are not its tasks'.")
            yield entry.part(start, size), outcome
            start += size
            left -= size
    if left or next(given, _NO_MORE) is not _NO_MORE:
        raise ValueError("An attempt has more outcomes than tasks.")


class Waiting:
    """Batches to be sent, in their order."""

    def __init__(self, is_wanted: Callable[[Entry], bool]) -> None:
        self._is_wanted = is_wanted
        self._batches: deque[deque[Entry]] = deque()
        #: Number of tasks, with those that nobody wants any more.
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def append(self, entries: list[Entry]) -> None:
        """Have entries sent after all others."""
        self._batches.append(deque(entries))
        self.size += _size(entries)

    def put_back(self, entries: list[Entry]) -> None:
        """Have entries sent before any that was never sent."""
        if entries:
            self._batches.appendleft(deque(entries))
            self.size += _size(entries)

    def clear(self) -> None:
        """Forget all."""
        self._batches.clear()
        self.size = 0

    def take(self, number: int | None) -> list[Entry]:
        """Return what is to be sent next, and forget it.

        Parameters
        ----------
        number : int or None
            How many tasks a batch should have, if there are so many. None for a batch as
            it was put in.

        Returns
        -------
        list of Entry
            Empty if nobody wants what was next.
        """
        taken: list[Entry] = []
        room = math.inf if number is None else number
        while self._batches and room > 0:
            batch = self._batches[0]
            if taken and (number is None or not _go_together(taken[-1], batch[0])):
                break
            room -= self._take_of(batch, room, taken)
            if not batch:
                self._batches.popleft()
            if number is None:
                break
        return taken

    def _take_of(self, batch: deque[Entry], room: float, taken: list[Entry]) -> int:
        """Move entries of a batch to what is taken; return the number of tasks."""
        size = 0
        while batch and size < room:
            entry = batch.popleft()
            self.size -= entry.tasks.size
            if not self._is_wanted(entry):
                continue
            if entry.tasks.size > room - size:
                fits = int(room - size)
                rest = entry.part(fits, entry.tasks.size - fits)
                batch.appendleft(rest)
                self.size += rest.tasks.size
                entry = entry.part(0, fits)
            taken.append(entry)
            size += entry.tasks.size
        return size


def _go_together(one: Entry, other: Entry) -> bool:
    """Whether entries that joblib handed over apart may be in one batch.

    Not those that are bound for a worker, or with their buffers. And not those of two
    functions: one that ends at once must not wait for another that never ends.
    """
    is_free = not (one.along or one.worker or other.along or other.worker)
    return is_free and one.tasks.function_key == other.tasks.function_key


def _size(entries: Iterable[Entry]) -> int:
    return sum(entry.tasks.size for entry in entries)
