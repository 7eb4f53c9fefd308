"""The driver's decisions on a cluster that is simulated.

The ledger and the batch policy are the real ones; threads, scheduler and time are not.
So ten thousand threads need no machine, and a seed gives the same run each time.

Simulated are: a driver that takes some time to send a batch; a scheduler that takes some
time for each; messages between them and the workers; workers that give back what a
batch has no time for, and answer recalls; threads that join; workers that die, whose
batches the scheduler has run elsewhere. Not simulated: where the scheduler puts a batch.
Each thread takes the one that waits longest, as if what waits behind a long one were
moved at once.

Printed are the makespan against two others: the *bound* that no scheduler can beat,
which is the longest task, or the work shared out evenly; and *list*, where each thread
takes the next task when it is free and nothing costs anything, which no scheduler that
does not know the durations can be expected to beat. Then the batches asked of the
scheduler, and the time that ledger and policy took on this machine for a task.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from joblib_distributed.data.outcome import Kind, Outcome, not_run
from joblib_distributed.data.tasks import PlainTasks
from joblib_distributed.driver.batching import BatchPolicy
from joblib_distributed.driver.call import Call
from joblib_distributed.driver.events import (
    AttemptFinished,
    Deliver,
    Dispatched,
    Event,
    Instruction,
    Looked,
    Recall,
    Recalled,
    Send,
)

#: Seconds between two looks of a ledger at its attempts: `running.LOOK_INTERVAL`.
LOOK_INTERVAL = 1.0


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is simulated."""

    threads: int = 10_000
    tasks: int = 1_000_000
    mean: float = 1.0
    #: ``"lognormal"``, ``"constant"`` or ``"exponential"``.
    distribution: str = "lognormal"
    sigma: float = 0.5
    #: Seconds that the scheduler takes for a batch, and the driver to send one, and to
    #: receive its results.
    scheduler_cost: float = 0.0005
    driver_cost: float = 0.00025
    receipt_cost: float = 0.00035
    #: Seconds that a message is on its way.
    latency: float = 0.001
    #: Threads that join, and that die, at times spread over the work.
    joins: int = 0
    deaths: int = 0
    seed: int = 0

    def durations(self) -> np.ndarray[Any, Any]:
        """Return the seconds of each task, the same for the same seed."""
        rng = np.random.default_rng(self.seed)
        if self.distribution == "constant":
            return np.full(self.tasks, self.mean)
        if self.distribution == "exponential":
            drawn = rng.exponential(1.0, self.tasks)
        else:
            drawn = rng.lognormal(0.0, self.sigma, self.tasks)
        return drawn * (self.mean / drawn.mean())


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What came of it."""

    makespan: float
    bound: float
    listed: float
    batches: int
    #: Of the busiest second.
    batches_in_a_second: int
    #: Seconds of this machine, in ledger and policy, for a task.
    cpu: float
    #: Tasks that were begun; more than there are if some died.
    begun: int


def list_schedule(durations: Iterable[float], threads: int) -> float:
    """Return the makespan if each thread takes the next task when it is free."""
    free = [0.0] * threads
    for seconds in durations:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


class _Batch:
    """An attempt on a worker."""

    def __init__(self, send: Send, durations: np.ndarray[Any, Any], now: float) -> None:
        self.send = send
        self.sent_at = now
        parts = [durations[t.index : t.index + t.size] for t in send.tasks]
        self._ends = np.cumsum(np.concatenate(parts))
        self.size = len(self._ends)
        self.begun_at: float | None = None
        #: Told from the workers' side: a batch that died runs again.
        self.run = 0

    @property
    def done(self) -> int:
        """Number of tasks that are begun before the box is over."""
        box = self.send.box
        if box is None:
            return self.size
        return min(self.size, 1 + int(np.searchsorted(self._ends, box, "right")))

    @property
    def seconds(self) -> float:
        return float(self._ends[self.done - 1])

    def progress(self, now: float) -> tuple[int, float]:
        """Return how many tasks it keeps, and for how long the last one has been running.

        Only when the box is over a worker gives back what it has not begun.
        """
        assert self.begun_at is not None
        passed = now - self.begun_at
        ended = min(int(np.searchsorted(self._ends, passed, "right")), self.done - 1)
        seconds = passed - (float(self._ends[ended - 1]) if ended else 0.0)
        is_over = self.send.box is not None and passed > self.send.box
        return self.done if is_over else self.size, seconds

    def outcomes(self) -> list[Outcome]:
        """Return what its worker reports."""
        left, start, found = self.done, 0, []
        for tasks in self.send.tasks:
            size = min(left, tasks.size)
            if size:
                before = float(self._ends[start - 1]) if start else 0.0
                seconds = float(self._ends[start + size - 1]) - before
                found.append(Outcome(Kind.VALUE, seconds, b"", plain=size))
            start, left = start + size, left - size
            if size < tasks.size:
                break
        if self.done < self.size:
            found.append(not_run(self.size - self.done))
        return found


class Simulation:
    """One call on a simulated cluster."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._durations = setting.durations()
        self._policy = BatchPolicy(setting.threads)
        self._call = Call("call", None, 0, 10.0, self._policy)
        self._now = 0.0
        self._numbers = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        # Of the driver: what was read, and is to be delivered.
        self._read = self._dispatched = self._delivered = 0
        self._cpu = 0.0
        # When the driver, and the scheduler, have time again.
        self._driver_at = self._scheduler_at = 0.0
        self._batches: dict[str, _Batch] = {}
        self._asked: list[float] = []
        # Of the workers.
        self._threads = self._idle = setting.threads
        self._queue: deque[_Batch] = deque()
        self._running: dict[str, _Batch] = {}
        self._doomed = 0
        self._begun = 0
        self._rng = np.random.default_rng([setting.seed, 1])

    def run(self) -> Outcomes:
        """Run it; return what came of it."""
        setting = self._setting
        total = float(self._durations.sum())
        bound = max(total / setting.threads, float(self._durations.max()))
        for _ in range(2 * setting.threads):  # joblib's pre_dispatch
            self._dispatch()
        self._at(0.0, lambda: self._tell(None))
        self._at(LOOK_INTERVAL, self._look)
        for number in range(setting.joins):
            self._at(bound * number / setting.joins, self._join)
        for number in range(setting.deaths):
            self._at(bound * number / setting.deaths, self._die)
        while self._delivered < setting.tasks:
            self._now, _, act = heapq.heappop(self._agenda)
            act()
        times = np.array(self._asked)
        return Outcomes(
            makespan=self._now,
            bound=bound,
            listed=list_schedule(self._durations.tolist(), setting.threads),
            batches=len(times),
            batches_in_a_second=int(np.bincount(times.astype(int)).max()),
            cpu=self._cpu / setting.tasks,
            begun=self._begun,
        )

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._numbers), act))

    # -------------------------------------------------------------------- the driver
    def _dispatch(self) -> None:
        """Have joblib hand over a batch, if there is one more."""
        size = min(self._policy.batch_size(), self._setting.tasks - self._read)
        if size:
            calls = [(d,) for d in range(self._read, self._read + size)]
            tasks = PlainTasks(self._read, "task", b"key", b"function", calls)
            self._read += size
            self._note(Dispatched(self._dispatched, [tasks]))
            self._dispatched += 1

    def _note(self, event: Event) -> None:
        self._call.flights.now = self._now
        start = time.process_time()
        instructions = self._call.note(event)
        self._cpu += time.process_time() - start
        self._obey(instructions)

    def _tell(self, event: Event | None) -> None:
        """Have the driver hear of something, and do what there is to do then."""
        if event is not None:
            self._note(event)
        while self._call.lacking and self._read < self._setting.tasks:
            self._dispatch()
        start = time.process_time()
        instructions = self._call.send()
        again = self._call.can_send
        self._cpu += time.process_time() - start
        self._obey(instructions)
        if again:
            self._at(max(self._now, self._driver_at), lambda: self._tell(None))

    def _obey(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Send):
                self._send(instruction)
            elif isinstance(instruction, Deliver):
                self._delivered += sum(t.size for t in instruction.tasks)
                self._dispatch()
            elif isinstance(instruction, Recall):
                for key in instruction.keys:
                    self._at(self._now + self._setting.latency, self._recaller(key))

    def _look(self) -> None:
        # As `RunningCall._look` asks for what should be back.
        late = {
            key: batch.sent_at
            for key, batch in self._batches.items()
            if self._now - batch.sent_at > min(5.0, self._call.flights.due(key))
        }
        states = dict.fromkeys(late, "processing")
        self._policy.threads = max(self._policy.threads, self._threads)
        self._tell(Looked(self._now, states, self._threads, sent_at=late))
        self._at(self._now + LOOK_INTERVAL, self._look)

    def _send(self, send: Send) -> None:
        setting = self._setting
        self._driver_at = max(self._driver_at, self._now) + setting.driver_cost
        batch = self._batches[send.key] = _Batch(send, self._durations, self._driver_at)
        arrival = self._driver_at + setting.latency
        self._at(arrival, lambda: self._schedule(batch))

    # ----------------------------------------------------------------- the scheduler
    def _schedule(self, batch: _Batch) -> None:
        cost = self._setting.scheduler_cost
        self._scheduler_at = max(self._scheduler_at, self._now) + cost
        self._asked.append(self._scheduler_at)
        self._at(self._scheduler_at + self._setting.latency, lambda: self._take(batch))

    # ------------------------------------------------------------------- the workers
    def _take(self, batch: _Batch) -> None:
        self._queue.append(batch)
        self._go_on()

    def _go_on(self) -> None:
        while self._idle and self._queue:
            self._idle -= 1
            self._begin(self._queue.popleft())

    def _begin(self, batch: _Batch) -> None:
        batch.begun_at = self._now
        batch.run += 1
        self._begun += batch.done
        self._running[batch.send.key] = batch
        run = batch.run
        self._at(self._now + batch.seconds, lambda: self._end(batch, run))

    def _end(self, batch: _Batch, run: int) -> None:
        if batch.run != run:  # its worker has died
            return
        del self._running[batch.send.key]
        self._idle += 1
        self._go_on()
        done = AttemptFinished(batch.send.key, "worker", batch.outcomes())
        self._at(self._now + 2 * self._setting.latency, lambda: self._hear(done))

    def _hear(self, done: AttemptFinished) -> None:
        del self._batches[done.key]
        self._driver_at = max(self._driver_at, self._now) + self._setting.receipt_cost
        self._at(self._driver_at, lambda: self._tell(done))

    def _recaller(self, key: str) -> Callable[[], None]:
        def recall() -> None:
            batch = self._running.get(key)
            if batch is not None:
                kept, seconds = batch.progress(self._now)
                answer = Recalled(key, kept, seconds, "worker", True)
                self._at(self._now + self._setting.latency, lambda: self._tell(answer))

        return recall

    def _join(self) -> None:
        self._threads += 1
        self._idle += 1
        self._go_on()

    def _die(self) -> None:
        """Have the thread of some batch die, if any runs; another takes its place."""
        if self._running:
            keys = sorted(self._running)
            batch = self._running.pop(keys[self._rng.integers(len(keys))])
            batch.run += 1
            self._idle += 1
            self._take(batch)


def describe(setting: Setting, found: Outcomes) -> str:
    """Return what came of it, for people."""
    return (
        f"{setting.threads} threads, {setting.tasks} {setting.distribution} tasks"
        f" (sigma {setting.sigma:g}) of mean {setting.mean:g} s: "
        f"{found.makespan:.2f} s, {found.makespan / found.bound:.3f} x the bound, "
        f"{found.makespan / found.listed:.3f} x list; {found.batches} batches, "
        f"{found.batches / found.makespan:.0f} a second, at most "
        f"{found.batches_in_a_second}; driver {found.cpu * 1e6:.1f} us a task"
    )


def main() -> int:
    """Simulate what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in dataclasses.fields(Setting):
        kind = type(field.default)
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=kind, default=field.default)
    parser.add_argument("--json", action="store_true", help="print figures alone")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    setting = Setting(**given)
    found = Simulation(setting).run()
    shown = json.dumps(dataclasses.asdict(found)) if as_json else describe(setting, found)
    print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
