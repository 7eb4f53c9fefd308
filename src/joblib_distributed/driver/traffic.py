"""How much large data a call shared, and how much of it travelled."""

from __future__ import annotations

import itertools
import threading
from typing import NamedTuple

from joblib_distributed.driver.events import Deliver, DeliverError


class Traffic(NamedTuple):
    """What became of the large data of a call, in bytes.

    Each buffer counts once, however many tasks took it. Where nothing is shared, as with
    ``max_nbytes=None`` or without any folder for it, data is part of the tasks, and not
    counted.
    """

    #: In buffers that tasks took by reference.
    shared: int = 0
    #: Of these, in buffers that the driver's host had before: of an earlier call, say.
    found: int = 0
    #: Sent by the driver: to hosts that lacked buffers, or along with tasks.
    by_driver: int = 0
    #: Sent by hosts that had buffers to hosts that lacked them.
    by_hosts: int = 0
    #: In results that workers of the driver's host left in the store for it.
    returned: int = 0

    def __str__(self) -> str:
        shared, found, by_driver, by_hosts, returned = (f"{n / 1e6:.1f} MB" for n in self)
        return (
            f"{shared} of large data shared through the store of this host, which its "
            f"workers map ({found} of it found present); {by_driver} sent by the driver, "
            f"to other hosts or along with tasks, {by_hosts} between hosts; {returned} "
            "of results came through the store"
        )


class Tally:
    """Counts the traffic of a call. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._traffic = Traffic()

    @property
    def traffic(self) -> Traffic:
        """What was counted so far."""
        return self._traffic

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
        """Note what of the values of a delivery was fetched from the store."""
        outcomes = result.outcomes if isinstance(result, Deliver) else ()
        buffers = itertools.chain.from_iterable(one.buffers for one in outcomes)
        with self._lock:
            self._add(returned=sum(b.nbytes for b in buffers if not isinstance(b, str)))

    def _add(self, **more: int) -> None:
        now = self._traffic._asdict()
        self._traffic = Traffic(**{k: n + more.get(k, 0) for k, n in now.items()})


_ended = threading.local()


def note_end(traffic: Traffic) -> None:
    """Note that a call has ended in this thread."""
    _ended.traffic = traffic


def traffic_of_last_call() -> Traffic:
    """Return what became of the large data of this thread's last call.

    Returns
    -------
    Traffic
        Bytes shared, found present, sent by the driver, sent between hosts, and returned
        through the store. All 0 before the first call.
    """
    traffic: Traffic = getattr(_ended, "traffic", Traffic())
    return traffic
