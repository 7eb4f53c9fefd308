"""What a worker does for its host's store when asked from outside of its tasks.

The driver has one worker of each host take a buffer chunk by chunk: from the driver's
hands, or from a worker of another host, which is asked to read it there. Two operations
are added to those that the engine's worker knows; see ``docs/architecture.md``.

See Also
--------
joblib_distributed.driver.supplier : who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import Any

from distributed import Worker
from distributed.protocol import to_serialize
from distributed.utils import offload

from joblib_distributed.data.host import host_store
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.transfer import (
    CHUNK_TIMEOUT,
    SOURCE_TIMEOUT,
    Arrival,
    Incoming,
)
from joblib_distributed.data.writing import NoRoomError
from joblib_distributed.worker.accounting import account_on_loop

#: Names of the operations.
TAKE = "joblib_distributed_take"
READ = "joblib_distributed_read"

#: Seconds for which a buffer that has just come is kept from being evicted, so that the
#: tasks it came for find it. A guess.
LEASE = 60.0


class Supplies:
    """The operations of one worker.

    On its event loop; what touches files, on the thread that the engine has for that.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = weakref.ref(worker)
        self._incoming: dict[str, Incoming] = {}
        #: Ends what has not been heard of for too long, by transfer.
        self._ends: dict[str, asyncio.TimerHandle] = {}

    async def read(self, name: str, start: int, end: int, temp_folder: str | None) -> Any:
        """Return a chunk of a buffer, or None if it is not on this host."""
        await self._account()
        buffer = await offload(lambda: host_store(temp_folder).get(name))
        return None if buffer is None else to_serialize(buffer.view[start:end])

    async def take(
        self,
        transfer: str,
        name: str,
        start: int,
        end: int,
        temp_folder: str | None,
        chunk: Any = None,
        source: str = "",
        source_folder: str | None = None,
    ) -> str:
        """Put a chunk of a buffer into this host's store; return its `Arrival`.

        Parameters
        ----------
        transfer : str
            What the chunks of one buffer have in common. The one that starts at 0 comes
            first, and alone.
        name : str
            Of the buffer.
        start, end : int
            Place of the chunk, in bytes.
        temp_folder : str or None
            joblib's.
        chunk : bytes-like, optional
            Its content. With neither this nor `source`, the transfer is given up.
        source : str, optional
            Address of the worker to read it from instead.
        source_folder : str, optional
            joblib's ``temp_folder`` there.
        """
        if chunk is None and not source:
            self._drop(transfer)
            return Arrival.NO_SOURCE.value
        if start == 0:
            await self._account()
            try:
                incoming = await offload(lambda: Incoming(host_store(temp_folder), name))
            except NoRoomError:
                return Arrival.NO_ROOM.value
            self._incoming[transfer] = incoming
        if transfer in self._incoming:
            self._expect_more(transfer)
        if chunk is None:
            chunk = await self._ask_for(source, name, start, end, source_folder)
        incoming_or_none = self._incoming.get(transfer)
        if incoming_or_none is None:
            return Arrival.UNEXPECTED.value
        content = memoryview(b"" if chunk is None else chunk).cast("B")
        if content.nbytes != end - start:
            self._drop(transfer)
            return Arrival.NO_SOURCE.value
        return await self._write(transfer, incoming_or_none, start, content)

    async def _account(self) -> None:
        """Have what is mapped, which may be more than its limit, not end the worker."""
        worker = self._worker()
        if worker is not None:
            await account_on_loop(worker)

    async def _ask_for(
        self, source: str, name: str, start: int, end: int, folder: str | None
    ) -> Any:
        worker = self._worker()
        if worker is None:
            return None
        read = getattr(worker.rpc(source), READ)
        with contextlib.suppress(Exception):  # whatever it raised is raised here, too
            return await asyncio.wait_for(
                read(name=name, start=start, end=end, temp_folder=folder), SOURCE_TIMEOUT
            )
        return None

    async def _write(
        self, transfer: str, incoming: Incoming, start: int, content: memoryview
    ) -> str:
        try:
            arrival: Arrival = await offload(lambda: incoming.take(start, content))
        except NoRoomError:
            arrival = Arrival.NO_ROOM
        except BaseException:
            self._drop(transfer)
            raise
        if arrival is not Arrival.PART:
            self._drop(transfer)
        if incoming.buffer is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(LEASE, _end_lease, incoming.buffer)
            incoming.buffer = None
        return arrival.value

    def _expect_more(self, transfer: str) -> None:
        """Give the driver time; if it dies, the room is not to be taken for ever."""
        if transfer in self._ends:
            self._ends[transfer].cancel()
        loop = asyncio.get_running_loop()
        self._ends[transfer] = loop.call_later(2 * CHUNK_TIMEOUT, self._drop, transfer)

    def _drop(self, transfer: str) -> None:
        end = self._ends.pop(transfer, None)
        if end is not None:
            end.cancel()
        incoming = self._incoming.pop(transfer, None)
        if incoming is not None:
            incoming.close()


def _end_lease(buffer: Buffer) -> None:
    """Nothing: the engine's loop refers to the buffer until this is called."""


_of_worker: weakref.WeakKeyDictionary[Worker, Supplies] = weakref.WeakKeyDictionary()


def serve(worker: Worker) -> None:
    """Have a worker know our operations."""
    if worker not in _of_worker:
        supplies = _of_worker[worker] = Supplies(worker)
        worker.handlers[READ] = supplies.read
        worker.handlers[TAKE] = supplies.take
