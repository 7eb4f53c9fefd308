"""Which workers of a cluster are there, and report, as its scheduler says.

Uses a client that `driver.cluster` lends it, on that client's event loop. See
``docs/architecture.md`` for what it rests on.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Mapping
from typing import Any

from joblib_distributed.driver.heartbeats import Heartbeats
from joblib_distributed.driver.losses import LOST

#: Seconds between two looks at heartbeats, while it matters who reports. A guess: about
#: as often as workers do.
LOOK_INTERVAL = 1.0


async def members(client: Any, heartbeats: Heartbeats) -> Mapping[str, Any]:
    """Return what the scheduler knows of each worker; note when it last heard of it."""
    found: Mapping[str, Any] = (await client.scheduler.identity())["workers"]
    last_seen = {address: worker["last_seen"] for address, worker in found.items()}
    heartbeats.note(last_seen, time.monotonic())
    return found


class Attendance:
    """Of the workers of one cluster.

    Parameters
    ----------
    client : distributed.Client
    heartbeats : Heartbeats
        Is added to.
    """

    def __init__(self, client: Any, heartbeats: Heartbeats) -> None:
        # Weakly: what is known of a client must not keep it.
        self._client_or_none = weakref.ref(client)
        self._heartbeats = heartbeats
        self._looking: asyncio.Future[None] | None = None

    async def is_there(self, address: str, frozen_after: float) -> bool:
        """Whether there is a worker with this address that is not to be given up.

        Parameters
        ----------
        address : str
        frozen_after : float
            Seconds after which one that does not report is, if others do.
        """
        client = self._client_or_none()
        if client is None:
            raise OSError("the client is gone")
        if not await client.scheduler.ncores(workers=[address]):
            return False
        # A call whose tasks all wait for their data has nobody else look.
        if self._heartbeats.age(time.monotonic()) >= LOOK_INTERVAL:
            await self._look(client)
        silent = self._heartbeats.silent(time.monotonic(), frozen_after)
        return address not in silent or not self._heartbeats.others(silent)

    async def _look(self, client: Any) -> None:
        """Look at heartbeats, once for all who want to know."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._note(client))
        await asyncio.wait({self._looking})

    async def _note(self, client: Any) -> None:
        try:
            await members(client, self._heartbeats)
        except (AttributeError, KeyError, RuntimeError, *LOST):
            pass  # who cannot be told of is waited for
        finally:
            self._looking = None
