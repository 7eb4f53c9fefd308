"""What is counted of one call: its tasks, their work, its large data, what went wrong."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Container, Iterable
from typing import NamedTuple

from joblib_distributed.data.printed import Chunk, InOrder, Printed
from joblib_distributed.data.warned import Warned
from joblib_distributed.driver.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptKilled,
    AttemptLost,
    Deliver,
    DeliverError,
)
from joblib_distributed.driver.spans import SPANS
from joblib_distributed.driver.traffic import Traffic


class Work(NamedTuple):
    """What a call's tasks took, and what became of its attempts."""

    #: Tasks whose values were delivered.
    tasks: int = 0
    #: Seconds that workers spent on them: unpacking, running, packing.
    seconds: float = 0.0
    #: Tasks whose errors were delivered.
    errors: int = 0
    #: Attempts that ended with their worker's process.
    deaths: int = 0
    #: Attempts that ended without outcomes in another way, so that they were made again.
    lost: int = 0

    def plus(self, other: Work) -> Work:
        """Return the sum of two calls."""
        return Work(
            self.tasks + other.tasks,
            self.seconds + other.seconds,
            self.errors + other.errors,
            self.deaths + other.deaths,
            self.lost + other.lost,
        )


_ENDS = (AttemptFinished, AttemptKilled, AttemptLost, AttemptFailed)


class Tally:
    """Counts what a call does. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._traffic = Traffic()
        self._work = Work()
        #: Warnings of its tasks that have not been issued yet.
        self.warned: deque[Warned] = deque()
        #: What they have printed and is not shown yet.
        self.printed: deque[Printed] = deque()
        self._in_order = InOrder()

    @property
    def traffic(self) -> Traffic:
        """What became of its large data so far."""
        return self._traffic

    @property
    def work(self) -> Work:
        """What its tasks took so far."""
        return self._work

    def note_shared(self, name: str, nbytes: int, found: bool) -> None:
        """Note that a task takes a buffer, and whether the driver's host had it."""
        with self._lock:
            if name not in self._seen:
                self._seen.add(name)
                self._add(shared=nbytes, found=nbytes if found else 0)

    def note_sent(self, by_driver: int, by_hosts: int = 0) -> None:
        """Note that so many bytes have travelled."""
        with self._lock:
            self._add(by_driver=by_driver, by_hosts=by_hosts)

    def note_delivered(self, result: Deliver | DeliverError) -> None:
        """Note what a delivery is of, and what of it was fetched from the store."""
        outcomes = result.outcomes if isinstance(result, Deliver) else ()
        buffers = itertools.chain.from_iterable(one.buffers for one in outcomes)
        returned = sum(b.nbytes for b in buffers if not isinstance(b, str))
        with self._lock:
            self._add(returned=returned)
            self._work = self._work._replace(
                tasks=self._work.tasks + sum(one.size for one in outcomes),
                seconds=self._work.seconds + sum(one.duration for one in outcomes),
                errors=self._work.errors + isinstance(result, DeliverError),
            )

    def note_heard(self, event: object, in_flight: Container[str]) -> None:
        """Note what is said of the end of an attempt in flight, if anything is."""
        if not isinstance(event, _ENDS) or event.key not in in_flight:
            return  # it was given up
        if isinstance(event, AttemptFinished):
            self.warned.extend(event.warned)
            SPANS.note(event.key, event.worker, event.outcomes, time.monotonic())
            if event.printed is not None:
                self.note_printed(event.printed)
            return
        with self._lock:
            work = self._work
            if isinstance(event, AttemptKilled):
                self._work = work._replace(deaths=work.deaths + event.deaths)
            else:
                self._work = work._replace(lost=work.lost + 1)

    def note_printed(self, chunk: Chunk) -> None:
        """Note what tasks have printed."""
        with self._lock:
            self.printed.extend(self._in_order.put(chunk))

    def rest_of_printed(self) -> Iterable[Printed]:
        """Return what is not shown though it came, as something before it did not."""
        with self._lock:
            return list(self._in_order.rest())

    def _add(self, **more: int) -> None:
        now = self._traffic._asdict()
        self._traffic = Traffic(**{k: n + more.get(k, 0) for k, n in now.items()})
