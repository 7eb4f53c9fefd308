"""How much large data a call shared, and how much of it travelled."""

from __future__ import annotations

import threading
from typing import NamedTuple


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

    def plus(self, other: Traffic) -> Traffic:
        """Return the sum of two calls."""
        return Traffic(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        shared, found, by_driver, by_hosts, returned = (f"{n / 1e6:.1f} MB" for n in self)
        return (
            f"{shared} of large data shared through the store of this host, which its "
            f"workers map ({found} of it found present); {by_driver} sent by the driver, "
            f"to other hosts or along with tasks, {by_hosts} between hosts; {returned} "
            "of results came through the store"
        )


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
