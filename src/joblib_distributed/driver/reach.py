"""Asks single workers for operations of ours, by whichever way they are reached.

Pure but for what it is given: the connections of a client.
"""

from __future__ import annotations

import asyncio
from typing import Any

from joblib_distributed.data.transfer import CHUNK_TIMEOUT

#: Seconds in which a worker that can be reached without the scheduler answers. A guess.
DIRECT_TIMEOUT = 3.0


class Reach:
    """The workers of a cluster, as its client reaches them.

    On the client's event loop. See ``docs/architecture.md`` for what it rests on.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        #: Whether workers can be reached without the scheduler, by address.
        self._is_direct: dict[str, bool] = {}

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
        return await asyncio.wait_for(asked, CHUNK_TIMEOUT)

    async def is_member(self, address: str) -> bool:
        """Whether there is a worker with this address."""
        return bool(await self._client.scheduler.ncores(workers=[address]))

    async def _reaches(self, address: str) -> bool:
        """Whether a worker answers without the scheduler."""
        if address not in self._is_direct:
            try:
                asked = self._client.rpc(address).identity()
                await asyncio.wait_for(asked, DIRECT_TIMEOUT)
                self._is_direct[address] = True
            except (OSError, asyncio.TimeoutError):
                self._is_direct[address] = False
        return self._is_direct[address]
