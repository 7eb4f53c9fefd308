"""Which host gets a buffer from whom.

Each host is to receive a buffer once, and the driver to send it once: further copies come
from hosts that have it, each of which serves a few others at a time, so that the number
of holders multiplies with each round.

Pure: no thread, no clock, no input or output, neither joblib nor distributed.

See Also
--------
joblib_distributed.driver.supplier : carries out the transfers.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

#: The driver, as a source. Hosts are named by the identity of their store.
DRIVER = ""

#: Transfers that the driver makes at a time, so that small ones need not wait for each
#: other's round trips. Each has a few chunks on its way. A guess.
DRIVER_TRANSFERS = 4

#: The same for a host; the worker that sends has tasks to run, too. A guess.
HOST_TRANSFERS = 2


#: Buffers on hosts that are remembered; what was not used for longest goes first. What is
#: forgotten is sent by the driver once more. A guess: a few MB, and more than hosts hold.
REMEMBERED = 20_000


class Transfer(NamedTuple):
    """One buffer on its way to one host."""

    name: str
    host: str
    source: str


class Directory:
    """What hosts have, what they want, and what is on its way.

    Not thread-safe.
    """

    def __init__(self) -> None:
        #: Number of arrivals so far: what `has_arrived_since` counts by.
        self.arrivals = 0
        # When, as a number of arrivals, a host got a buffer.
        self._holders: dict[str, dict[str, int]] = {}
        # Names and hosts of these, the least recently used first.
        self._used: OrderedDict[tuple[str, str], None] = OrderedDict()
        # In the order in which they were asked for.
        self._wanted: dict[tuple[str, str], None] = {}
        self._under_way: dict[tuple[str, str], str] = {}

    def has_arrived_since(self, name: str, host: str, arrivals: int) -> bool:
        """Whether a host got a buffer after there had been so many arrivals.

        One that says later that it has not got it has evicted it.
        """
        return self._holders.get(name, {}).get(host, 0) > arrivals

    @property
    def hosts(self) -> set[str]:
        """Those that have, want, get or give anything."""
        pairs = (*self._used, *self._wanted, *self._under_way)
        return {*(host for _, host in pairs), *self._under_way.values()} - {DRIVER}

    def want(self, name: str, host: str) -> None:
        """Note that a host has not got a buffer."""
        self._forget_holder(name, host)
        if (name, host) not in self._under_way:
            self._wanted[name, host] = None

    def start(self) -> Iterator[Transfer]:
        """Begin what can be begun."""
        busy = Counter(self._under_way.values())
        for name, host in list(self._wanted):
            source = self._free_source(name, busy)
            if source is not None:
                del self._wanted[name, host]
                self._under_way[name, host] = source
                busy[source] += 1
                yield Transfer(name, host, source)

    def _free_source(self, name: str, busy: Mapping[str, int]) -> str | None:
        holders = self._holders.get(name, {})
        for host in holders:
            if busy[host] < HOST_TRANSFERS:
                self._used.move_to_end((name, host))
                return host
        sent = any(
            name == other and source == DRIVER
            for (other, _), source in self._under_way.items()
        )
        if holders or sent or busy[DRIVER] >= DRIVER_TRANSFERS:
            return None
        return DRIVER

    def arrived(self, transfer: Transfer) -> None:
        """Note the end of a transfer, which makes its host a source."""
        self._end(transfer)
        self.arrivals += 1
        self._holders.setdefault(transfer.name, {})[transfer.host] = self.arrivals
        self._used[transfer.name, transfer.host] = None
        self._used.move_to_end((transfer.name, transfer.host))
        while len(self._used) > REMEMBERED:
            self._forget_holder(*next(iter(self._used)))

    def source_failed(self, transfer: Transfer) -> None:
        """Note that its source could not give the buffer: another one is to."""
        self._end(transfer)
        self._forget_holder(transfer.name, transfer.source)
        self._wanted[transfer.name, transfer.host] = None

    def target_failed(self, transfer: Transfer) -> None:
        """Note that its host could not take the buffer: it has to ask again."""
        self._end(transfer)

    def _end(self, transfer: Transfer) -> None:
        del self._under_way[transfer.name, transfer.host]

    def _forget_holder(self, name: str, host: str) -> None:
        holders = self._holders.get(name, {})
        holders.pop(host, None)
        self._used.pop((name, host), None)
        if not holders:
            self._holders.pop(name, None)
