"""Brings buffers to the hosts that want them, as `driver.supply` decides.

One for each client, used by all calls of the process on its cluster, on the client's
event loop.

See Also
--------
joblib_distributed.worker.supplies : the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple

from distributed.protocol import to_serialize

from joblib_distributed.data.buffers import size_of
from joblib_distributed.data.outcome import Missing
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.transfer import Arrival, pieces
from joblib_distributed.driver.supply import DRIVER, Directory, Transfer
from joblib_distributed.worker.supplies import TAKE

#: Chunks of a buffer that are on their way at a time: one travels while the one before
#: is written. A guess.
LANES = 2

#: Seconds between two looks whether a source is still there while a chunk comes from it.
#: A guess: far above what a chunk takes.
LOOK_INTERVAL = 1.0

#: Asks a worker, by address, for an operation; raises `OSError` or `asyncio.TimeoutError`
#: if it does not answer.
Ask = Callable[..., Awaitable[Any]]


#: Has a host take a chunk, given its start and end in bytes. Without any bytes, the host
#: gives the transfer up.
Take = Callable[[int, int], Awaitable[Arrival]]

#: Tells whether there is a worker with an address that has reported within the last so
#: many seconds.
IsThere = Callable[[str, float], Awaitable[bool]]


class Place(NamedTuple):
    """A host, as the driver reaches it."""

    #: Identity of its store.
    host: str
    #: Of one of its workers.
    address: str
    #: joblib's, which says where its store is.
    temp_folder: str | None
    #: Seconds after which workers that do not report are given up for it.
    frozen_after: float = math.inf


class HostSupplied(NamedTuple):
    """How a host was supplied."""

    #: What the worst of it came to.
    arrival: Arrival = Arrival.WHOLE
    #: Bytes that the driver sent, and that hosts sent to each other.
    by_driver: int = 0
    by_hosts: int = 0


class Supplier:
    """Brings buffers to hosts.

    Parameters
    ----------
    ask, is_there : callable
    """

    def __init__(self, ask: Ask, is_there: IsThere) -> None:
        self._ask = ask
        self._is_there = is_there
        self._directory = Directory()
        #: The last worker heard of on each host.
        self._places: dict[str, Place] = {}
        #: Those waiting for each buffer, by name and host.
        self._waiting: dict[tuple[str, str], asyncio.Future[HostSupplied]] = {}
        #: What they wait for, by name.
        self._buffers: dict[str, Buffer] = {}
        self._running: set[asyncio.Task[None]] = set()

    @property
    def arrivals(self) -> int:
        """How many buffers have arrived anywhere; may be asked for by any thread."""
        return self._directory.arrivals

    async def supply(
        self, place: Place, buffers: Mapping[str, Buffer], since: int
    ) -> HostSupplied:
        """Bring buffers to a host that has not got them.

        Parameters
        ----------
        place : Place
        buffers : mapping
            By name.
        since : int
            Value of `arrivals` when the host was sent what it wants them for.
        """
        self._note_place(place)
        mine, others = [], []
        for name, buffer in buffers.items():
            if self._directory.has_arrived_since(name, place.host, since):
                continue
            key = name, place.host
            if key in self._waiting:
                others.append(self._waiting[key])
                continue
            self._waiting[key] = asyncio.get_running_loop().create_future()
            self._buffers[name] = buffer
            self._directory.want(*key)
            mine.append(self._waiting[key])
        self._start()
        # Nobody else is to wait in vain if whoever waits here is cancelled.
        ended = _together(await asyncio.shield(asyncio.gather(*mine)))
        joined = _together(await asyncio.shield(asyncio.gather(*others)))
        if ended.arrival is Arrival.WHOLE:
            return ended._replace(arrival=joined.arrival)
        return ended

    def _note_place(self, place: Place) -> None:
        if place.host not in self._places:  # clusters grow and shrink, for days
            hosts = self._directory.hosts
            self._places = {h: p for h, p in self._places.items() if h in hosts}
        self._places[place.host] = place

    async def spread(
        self,
        missing: Iterable[Missing],
        buffers: Mapping[str, Buffer],
        temp_folder: str | None,
        frozen_after: float = math.inf,
    ) -> HostSupplied:
        """Bring buffers to all hosts, given what workers say that theirs lack."""
        lacking = {one.host: one for one in missing if one.host and one.names}
        supplied = await asyncio.gather(
            *(
                self.supply(
                    Place(host, one.address, temp_folder, frozen_after),
                    {name: buffers[name] for name in one.names},
                    self.arrivals,
                )
                for host, one in lacking.items()
            )
        )
        return _together(supplied)

    def _start(self) -> None:
        for transfer in self._directory.start():
            self._run(self._carry_out(transfer))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _carry_out(self, transfer: Transfer) -> None:
        try:
            arrival = await self._carry(transfer)
        except Exception:  # a worker's own are raised here, too
            arrival = Arrival.UNEXPECTED
        except BaseException:  # the loop ends
            self._end(transfer, Arrival.UNEXPECTED)
            raise
        from_host = transfer.source != DRIVER
        if arrival in (Arrival.NO_SOURCE, Arrival.CORRUPT) and from_host:
            self._directory.source_failed(transfer)
        elif arrival is Arrival.WHOLE:
            self._directory.arrived(transfer)
            self._resolve(transfer, arrival)
        else:
            self._end(transfer, arrival)
        self._start()

    def _end(self, transfer: Transfer, arrival: Arrival) -> None:
        self._directory.target_failed(transfer)
        self._resolve(transfer, arrival)

    def _resolve(self, transfer: Transfer, arrival: Arrival) -> None:
        nbytes = size_of(transfer.name) if arrival is Arrival.WHOLE else 0
        supplied = HostSupplied(arrival, by_hosts=nbytes)
        if transfer.source == DRIVER:
            supplied = HostSupplied(arrival, by_driver=nbytes)
        waiting = self._waiting.pop((transfer.name, transfer.host))
        if not waiting.done():
            waiting.set_result(supplied)
        if all(name != transfer.name for name, _ in self._waiting):
            del self._buffers[transfer.name]

    async def _carry(self, transfer: Transfer) -> Arrival:
        take = self._taker(transfer)
        try:
            return await self._carry_chunks(transfer, take)
        except Exception:
            # A host that can still be reached is not to keep the room for long. Who waits
            # for the buffer does not wait for this, too.
            self._run(_give_up(take))
            raise

    async def _carry_chunks(self, transfer: Transfer, take: Take) -> Arrival:
        """Have the host take the chunks; the first tells it what is coming."""
        left = iter(pieces(size_of(transfer.name)))
        arrival = await take(*next(left))

        async def lane() -> Arrival:
            arrival = Arrival.PART
            for start, end in left:
                arrival = await take(start, end)
                if arrival is not Arrival.PART:
                    break
            return arrival

        if arrival is not Arrival.PART:
            return arrival
        ended = await _all_or_none([lane() for _ in range(LANES)])
        # Once one lane has ended a transfer, the other's chunk is not expected.
        told = (a for a in ended if a not in (Arrival.PART, Arrival.UNEXPECTED))
        return next(told, Arrival.UNEXPECTED)

    def _taker(self, transfer: Transfer) -> Take:
        """Return what has one and the same worker take each chunk."""
        number = uuid.uuid4().hex
        place = self._places[transfer.host]
        view = self._buffers[transfer.name].view

        source = None if transfer.source == DRIVER else self._places[transfer.source]

        def ask(start: int, end: int) -> Awaitable[Any]:
            content: dict[str, object] = {}  # it is told to give up
            if source is not None and end > start:
                content = {"source": source.address, "source_folder": source.temp_folder}
            elif end > start:
                content = {"chunk": to_serialize(view[start:end])}
            return self._ask(
                place.address,
                TAKE,
                transfer=number,
                name=transfer.name,
                start=start,
                end=end,
                temp_folder=place.temp_folder,
                **content,
            )

        async def has_lost(start: int, end: int) -> Arrival | None:
            if not await self._is_there(place.address, place.frozen_after):
                return Arrival.UNEXPECTED
            if source is None or end == start:
                return None
            if await self._is_there(source.address, place.frozen_after):
                return None
            return await take(0, 0)

        async def take(start: int, end: int) -> Arrival:
            # Or connections to a worker that is gone would be tried for half a minute,
            # and one that is frozen be waited for as long as a chunk may take.
            lost = await has_lost(start, end)
            if lost is not None:
                return lost
            asking = asyncio.ensure_future(ask(start, end))
            try:
                while not (await asyncio.wait({asking}, timeout=LOOK_INTERVAL))[0]:
                    lost = await has_lost(start, end)
                    if lost is not None:
                        return lost
                return Arrival(asking.result())
            finally:
                asking.cancel()

        return take


def _together(supplied: Iterable[HostSupplied]) -> HostSupplied:
    listed = list(supplied)
    failed = (one.arrival for one in listed if one.arrival is not Arrival.WHOLE)
    return HostSupplied(
        next(failed, Arrival.WHOLE),
        sum(one.by_driver for one in listed),
        sum(one.by_hosts for one in listed),
    )


async def _give_up(take: Take) -> None:
    with contextlib.suppress(Exception):  # then it gives up by itself, later
        await take(0, 0)


async def _all_or_none(lanes: list[Any]) -> list[Arrival]:
    """Wait for all; if one fails, end the others."""
    tasks = [asyncio.ensure_future(lane) for lane in lanes]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
