"""One `Parallel` call as a ledger: events in, instructions out.

The ledger is the truth about a call. For each undelivered task it keeps the packed
bytes and the attempt that carries it, so whatever the engine forgets can be sent again;
a late or second outcome finds no attempt and is dropped.

Pure: no thread, no clock, no input or output, neither joblib nor distributed.

See Also
--------
joblib_distributed.driver.running : feeds the events and carries out the instructions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from joblib_distributed.data.outcome import Kind, Outcome
from joblib_distributed.data.tasks import Tasks
from joblib_distributed.driver import verdicts
from joblib_distributed.driver.batching import SENDS_AT_ONCE, BatchPolicy
from joblib_distributed.driver.entries import (
    MISSES_ALLOWED,
    Attempt,
    Delivery,
    Entry,
    Waiting,
    matched,
)
from joblib_distributed.driver.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptKilled,
    AttemptLost,
    Cancelled,
    ClusterFailed,
    Deliver,
    DeliverError,
    Dispatched,
    Event,
    Instruction,
    Interrupt,
    Looked,
    Recall,
    Recalled,
    Release,
    Supplied,
    Supply,
    Withhold,
)
from joblib_distributed.driver.findings import Finding, Looks
from joblib_distributed.driver.flights import Flights
from joblib_distributed.errors import ClusterError, JoblibDistributedError


class Call:
    """The ledger of one `Parallel` call.

    Not thread-safe: one thread handles all events of a call.

    Parameters
    ----------
    name : str
        Prefix of all keys, unique to the call but for the function's name, which is put
        before it.
    limit : int or None
        How many attempts, and so tasks, may be in flight at a time. None for no limit.
    retries : int
        How often a task that raised is tried again.
    stranded_timeout : float
        Seconds after which an attempt that no worker can take is given up.
    policy : BatchPolicy, optional
        Says what is put in one batch; by default, what joblib hands over together.
    deaths_allowed : int
        How many workers a task that runs alone may take with it.
    """

    def __init__(
        self,
        name: str,
        limit: int | None,
        retries: int,
        stranded_timeout: float,
        policy: BatchPolicy | None = None,
        deaths_allowed: int = 0,
    ) -> None:
        self.name = name
        self.limit = limit
        self._policy = policy
        #: Whether a task that kills its worker fails alone, after all others of the call.
        self.withholds = False
        #: Whether stragglers are tried on other workers, too, when threads idle.
        self.races_stragglers = False
        self._retries = retries
        self._deaths_allowed = deaths_allowed
        self._over = False
        self._looks = Looks(stranded_timeout)
        # Whether an attempt that was given up may be running all the same.
        self._strays = False
        # Why nothing can be sent any more, if that is how the call ended.
        self._failure: ClusterError | None = None
        # Deliveries not made yet, by number.
        self._deliveries: dict[int, Delivery] = {}
        # Batches to send as soon as the limit allows.
        self._waiting = Waiting(self._is_wanted)
        # Tasks that were on a worker that died: each is to run alone.
        self._suspects: deque[Entry] = deque()
        # Tasks whose buffers are being brought to a host, by attempt that lacked them.
        self._held: dict[str, Attempt] = {}
        self.flights = Flights(name, policy)
        self._handlers: dict[type, Callable[[Any], Iterable[Instruction]]] = {
            Dispatched: self._on_dispatched,
            AttemptFinished: self._on_finished,
            AttemptKilled: self._on_killed,
            AttemptLost: self._on_lost,
            AttemptFailed: self._on_failed,
            Looked: self._on_looked,
            Recalled: self._on_recalled,
            Supplied: self._on_supplied,
            ClusterFailed: self._on_cluster_failed,
            Cancelled: self._on_cancelled,
        }

    @property
    def in_flight(self) -> frozenset[str]:
        """Keys of the attempts that are out."""
        return frozenset(self.flights)

    @property
    def undelivered(self) -> int:
        """Number of deliveries that joblib still waits for."""
        return len(self._deliveries)

    @property
    def lacking(self) -> int:
        """Number of tasks that joblib should hand over for threads to be busy."""
        if self._policy is None or self._over:
            return 0
        return self._policy.lacking(self._waiting.size)

    def handle(self, event: Event) -> list[Instruction]:
        """Take note of an event; return what is to be done, in this order."""
        return [*self.note(event), *self.send()]

    def note(self, event: Event) -> list[Instruction]:
        """Take note of an event among others, after which `send` is called."""
        if self._over:
            return self._refuse(event)
        return list(self._handlers[type(event)](event))

    def send(self) -> list[Instruction]:
        """Return what can be sent now."""
        return [] if self._over else list(self._send())

    def _refuse(self, event: Event) -> list[Instruction]:
        """Answer what comes after the end; joblib waits for each of its batches."""
        if isinstance(event, Dispatched) and self._failure is not None:
            return [DeliverError(event.delivery, None, self._failure)]
        return []

    # ------------------------------------------------------------------------- sending
    def _send(self) -> Iterable[Instruction]:
        """Send what may be sent.

        While there are suspects, each runs when nothing else of the call does, so that
        a death is the fault of the one task that was running.
        """
        while self._suspects and not self._is_wanted(self._suspects[0]):
            self._suspects.popleft()
        if self._suspects and not self.flights:
            yield self.flights.send([self._suspects.popleft()], solo=True)
        if self._suspects or self.flights.has_solo:
            return
        for _ in range(SENDS_AT_ONCE):
            size = self._next_size() if self._waiting and self._has_room() else 0
            if size == 0:
                return
            batch = self._waiting.take(size)
            if batch:
                yield self.flights.send(batch, solo=False)

    def _is_wanted(self, entry: Entry) -> bool:
        return entry.delivery.number in self._deliveries

    def _has_room(self) -> bool:
        return self.limit is None or len(self.flights) < self.limit

    @property
    def can_send(self) -> bool:
        """Whether there is something to send, and something that may run it."""
        if self._over or self._suspects or self.flights.has_solo:
            return False
        return bool(self._waiting) and self._has_room() and self._next_size() != 0

    def _next_size(self) -> int | None:
        return self.flights.next_size(self._waiting.size)

    def _win(self, attempt: Attempt) -> Iterable[Instruction]:
        """Give up those that race with an attempt whose outcomes are here."""
        others = self.flights.pop_rivals(attempt)
        if others:
            self._strays = True
            yield Release(others)
            # Who is frozen may thaw, and run it beside as many as the limit allows.
            yield Interrupt(others)

    def _race(self, attempt: Attempt, avoiding: frozenset[str]) -> Iterable[Instruction]:
        """Send what a worker was given to another, too."""
        entries = [entry for entry in attempt.entries if self._is_wanted(entry)]
        if entries and attempt.may_race:
            for entry in entries:
                entry.worker = ""
            yield self.flights.send(entries, attempt.solo, attempt.race, avoiding)

    # ------------------------------------------------------------------------- events
    def _on_dispatched(self, event: Dispatched) -> Iterable[Instruction]:
        delivery = Delivery(event.delivery, sum(tasks.size for tasks in event.tasks))
        self._deliveries[event.delivery] = delivery
        self._waiting.append(
            [Entry(tasks, delivery, self._retries) for tasks in event.tasks]
        )
        return ()

    def _on_finished(self, event: AttemptFinished) -> Iterable[Instruction]:
        attempt = self.flights.pop(event.key)
        if attempt is None:
            return
        if self.races_stragglers and attempt.yields(event.outcomes, self.flights):
            yield Release([event.key])
            return
        yield from self._win(attempt)
        again = []
        outcomes = attempt.outcomes(event.outcomes)
        missing = next((o for o in outcomes if o.kind is Kind.MISSING), None)
        # All of them before any is delivered: an instruction must not be lost.
        for entry, outcome in list(matched(attempt.entries, outcomes)):
            if not self._is_wanted(entry):
                continue
            if outcome.kind is Kind.VALUE:
                self._record(entry.tasks, outcome)
                entry.delivery.put(entry.tasks, outcome)
                yield from self._deliver_if_complete(entry.delivery)
            elif outcome.kind in (Kind.NOT_RUN, Kind.MISSING):
                again.append(entry)
            elif entry.retries_left > 0:
                entry.retries_left -= 1
                again.append(entry)
            else:
                yield self._fail(entry, outcome)
        if missing is not None and again:
            yield from self._hold(event.key, Attempt(again, attempt.solo), missing)
        else:
            for entry in again:
                entry.worker = ""  # its host has what they need; others will ask
            self._put_back(again, attempt.solo)
        yield Release([event.key])

    def _record(self, tasks: Tasks, outcome: Outcome) -> None:
        self._looks.record(tasks.size, outcome.duration)
        if self._policy is not None:
            self._policy.record(tasks.size, outcome.duration, tasks.nbytes)

    def _hold(
        self, key: str, lacking: Attempt, missing: Outcome
    ) -> Iterable[Instruction]:
        """Keep tasks until a host has their buffers; those not run lack them, too."""
        for entry in lacking.entries:
            entry.misses += 1
        if any(entry.misses > MISSES_ALLOWED for entry in lacking.entries):
            self._supplied(lacking, along=True)
            return
        self._held[key] = lacking
        yield Supply(key, [entry.tasks for entry in lacking.entries], missing)

    def _on_supplied(self, event: Supplied) -> Iterable[Instruction]:
        lacking = self._held.pop(event.key, None)
        if lacking is not None:
            self._supplied(lacking, event.along, event.worker)
        return ()

    def _supplied(self, lacking: Attempt, along: bool, worker: str = "") -> None:
        for entry in lacking.entries:
            entry.along = entry.along or along
            entry.worker = worker
            entry.renewed = False
        self._put_back(lacking.entries, lacking.solo)

    def _deliver_if_complete(self, delivery: Delivery) -> Iterable[Instruction]:
        if delivery.left == 0:
            del self._deliveries[delivery.number]
            yield Deliver(delivery.number, *delivery.values())

    def _fail(
        self, entry: Entry, error: Outcome | JoblibDistributedError
    ) -> DeliverError:
        del self._deliveries[entry.delivery.number]
        return DeliverError(entry.delivery.number, entry.tasks, error)

    def _put_back(self, entries: list[Entry], suspect: bool = False) -> None:
        """Have tasks sent again before any that was never sent."""
        if suspect:
            self._suspects.extendleft(reversed(entries))
        else:
            self._waiting.put_back(entries)

    def _on_killed(self, event: AttemptKilled) -> Iterable[Instruction]:
        attempt = self.flights.pop(event.key)
        if attempt is None:
            return
        yield Release([event.key])
        if attempt.rivals(self.flights):
            return  # it counts in the race: its tasks may be what killed the worker
        if not attempt.solo:
            self._suspects.extend(e for one in attempt.entries for e in one.singles())
            return
        (entry,) = attempt.entries
        entry.solo_deaths += event.deaths
        if entry.solo_deaths <= self._deaths_allowed:
            self._put_back([entry], suspect=True)
        elif entry.delivery.number in self._deliveries:
            deaths, allowed = entry.solo_deaths, self._deaths_allowed
            died = verdicts.worker_died(entry.tasks, deaths, event.detail, allowed)
            if not self.withholds:
                yield self._fail(entry, died)
                return
            yield Withhold(died)
            entry.delivery.left -= entry.tasks.size
            yield from self._deliver_if_complete(entry.delivery)

    def _on_lost(self, event: AttemptLost) -> Iterable[Instruction]:
        attempt = self.flights.pop(event.key)
        if attempt is None:
            return
        yield Release([event.key])
        self._strays = True
        if attempt.rivals(self.flights):
            attempt.race.discard(event.key)  # it has cost no worker
            return
        for entry in attempt.entries:
            entry.losses += 1
        yield from self._try_again(attempt, verdicts.lost)

    def _on_failed(self, event: AttemptFailed) -> Iterable[Instruction]:
        attempt = self.flights.pop(event.key)
        if attempt is None:
            return
        yield Release([event.key])
        if attempt.rivals(self.flights):
            return
        for entry in attempt.entries:
            entry.failures += 1
        yield from self._try_again(attempt, lambda e: verdicts.never_ran(e, event))

    def _try_again(
        self, attempt: Attempt, verdict: Callable[[Entry], JoblibDistributedError | None]
    ) -> Iterable[Instruction]:
        """Put back the tasks of an attempt, but for those that fail by a verdict."""
        again = []
        for entry in attempt.entries:
            error = verdict(entry)
            if error is None:
                again.append(entry)
            elif self._is_wanted(entry):
                yield self._fail(entry, error)
        self._put_back(again, attempt.solo)

    def _on_looked(self, event: Looked) -> Iterable[Instruction]:
        late = []
        for key in event.states:
            attempt = self.flights.get(key)
            if attempt is None:
                continue
            finding = self._looks.find(key, attempt, event)
            if finding is Finding.LOST:
                for entry in attempt.entries:
                    entry.never_arrived += not attempt.arrived
                yield from self._on_lost(AttemptLost(key))
            elif finding is Finding.UNTAKEN:
                attempt.renew(is_raced=len(self.flights.rivals(attempt)) > 1)
                yield from self._on_lost(AttemptLost(key))
            elif finding is Finding.STRANDED:
                yield from self._give_up_stranded(key, attempt, event)
            elif finding is Finding.SILENT:
                if event.silent.issuperset(attempt.rivals(self.flights)):
                    yield from self._race(attempt, frozenset())
            elif finding is Finding.OVERDUE or (
                finding is Finding.SLOW and self._may_race(attempt)
            ):
                late.append(key)
        self._looks.note(event)
        if late:
            yield Recall(late)

    def _on_recalled(self, event: Recalled) -> Iterable[Instruction]:
        attempt = self.flights.get(event.key)
        if attempt is None or not 0 < event.kept <= attempt.size + attempt.taken:
            return
        racing = self.flights.rivals(attempt)
        self._looks.hear(attempt, event)
        self.flights.note_running(event.key, event.seconds)
        if len(racing) == 1:  # or another worker has what this one has given back
            self._waiting.put_back(self.flights.take_back(event.key, event.kept))
        if all(each.is_slow for each in racing) and self._may_race(attempt):
            yield from self._race(attempt, frozenset(each.worker for each in racing))

    def _may_race(self, attempt: Attempt) -> bool:
        """Whether a slow attempt is to be tried by a thread that idles, too."""
        wanted = self.races_stragglers and attempt.may_race and not attempt.solo
        waits = self._waiting or self._suspects or self._held or not self._has_room()
        return wanted and not waits and self._looks.threads > len(self.flights)

    def _give_up_stranded(
        self, key: str, attempt: Attempt, look: Looked
    ) -> Iterable[Instruction]:
        self.flights.pop(key)
        yield Release([key])
        self._strays = True
        if attempt.rivals(self.flights):
            attempt.race.discard(key)  # as one that is lost
            return
        wait = self._looks.stranded_timeout
        yield from self._try_again(attempt, lambda e: verdicts.no_worker(e, look, wait))

    def _on_cluster_failed(self, event: ClusterFailed) -> Iterable[Instruction]:
        self._over = True
        self._failure = event.error
        for number in self._deliveries:
            yield DeliverError(number, None, event.error)
        # The cluster may live on, if it is only that one batch could not be submitted.
        yield from self._stop()

    def _on_cancelled(self, _: Cancelled) -> Iterable[Instruction]:
        self._over = True
        yield from self._stop()

    def _stop(self) -> Iterable[Instruction]:
        # 1. Queued batches are dropped, 2. running ones interrupted. The worker
        # remembers the call, so a batch that starts in between is refused there.
        if self.flights:
            yield Release(sorted(self.flights))
        if self.flights or self._strays:
            yield Interrupt()
        self._deliveries.clear()
        self._waiting.clear()
        self._suspects.clear()
        self._held.clear()
        self.flights.clear()
