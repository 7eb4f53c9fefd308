"""Asks single workers for operations of ours, by whichever way they are reached.

Uses the connections of a client that `driver.cluster` lends it.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from typing import Any

from joblib_distributed.data.transfer import CHUNK_TIMEOUT
from joblib_distributed.driver.losses import LOST

#: Seconds in which a worker that can be reached without the scheduler answers. A guess.
DIRECT_TIMEOUT = 3.0

#: Seconds of these that are waited for before the scheduler is asked instead. A guess:
#: far above what an answer takes where there is a way.
DIRECT_GRACE = 0.3

#: Seconds for which one that did not is asked through the scheduler: it may only have
#: been busy. A guess.
INDIRECT_FOR = 60.0

#: Workers of which is remembered how they are reached; the first heard of go first, and
#: are asked again. A guess: more than a cluster has.
REMEMBERED = 10_000


class Reach:
    """The workers of a cluster, as its client reaches them.

    On the client's event loop. See ``docs/architecture.md`` for what it rests on.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Any) -> None:
        # Weakly: what is known of a client must not keep it.
        self._client_or_none = weakref.ref(client)
        #: Until when workers count as reached without the scheduler, or not, by address.
        self._is_direct: dict[str, tuple[bool, float]] = {}
        # The event loop itself keeps no task.
        self._probes: set[asyncio.Future[None]] = set()

    @property
    def _client(self) -> Any:
        client = self._client_or_none()
        if client is None:
            raise OSError("the client is gone")
        return client

    async def ask(self, address: str, operation: str, **message: Any) -> Any:
        """Ask a worker for an operation; None if it does not know it.

        Raises
        ------
        OSError, asyncio.TimeoutError
            If it does not answer.
        """
        if await self._reaches(address):
            asked = getattr(self._client.rpc(address), operation)(**message)
        else:
            asked = self._client.scheduler.proxy(
                msg={"op": operation, **message}, worker=address
            )
        asking = asyncio.ensure_future(asked)
        asking.add_done_callback(_retrieve)
        # Not by `wait_for`: cancelled, the engine first sends what is on its way, which a
        # frozen worker never takes.
        done, _ = await asyncio.wait({asking}, timeout=CHUNK_TIMEOUT)
        if not done:
            asking.cancel()
            raise asyncio.TimeoutError(f"{address} has not answered to {operation}")
        try:
            return asking.result()
        except LOST as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"the connection to {address} was lost: {error}") from error

    async def _reaches(self, address: str) -> bool:
        """Whether a worker answers without the scheduler."""
        is_direct, until = self._is_direct.get(address, (False, -math.inf))
        if time.monotonic() > until:
            # Meanwhile the scheduler is as good a way.
            self._is_direct[address] = False, time.monotonic() + DIRECT_TIMEOUT
            if len(self._is_direct) > REMEMBERED:
                del self._is_direct[next(iter(self._is_direct))]
            probe = asyncio.ensure_future(self._probe(address))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)
            await asyncio.wait({probe}, timeout=DIRECT_GRACE)
            is_direct, _ = self._is_direct.get(address, (False, until))
        return is_direct

    async def _probe(self, address: str) -> None:
        try:
            asked = self._client.rpc(address).identity()
            await asyncio.wait_for(asked, DIRECT_TIMEOUT)
            self._is_direct[address] = True, math.inf
        except (asyncio.TimeoutError, *LOST):
            self._is_direct[address] = False, time.monotonic() + INDIRECT_FOR


def _retrieve(asking: asyncio.Future[Any]) -> None:
    """Take the error of what nobody waits for any more, or asyncio would log it."""
    if not asking.cancelled():
        asking.exception()
