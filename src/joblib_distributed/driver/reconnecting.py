"""What happens when a client loses its scheduler.

dask's client tries to connect again for half a minute, then closes for good. A scheduler
that is restarted, or a network that is mended, may need longer.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import distributed.comm

#: Seconds that one try to connect may take; dask's own tries come less and less often.
#: A guess.
TRY_TIMEOUT = 5.0


def reconnect_for(client: Any, seconds: float) -> None:
    """Have a client look for a scheduler that it has lost for so many seconds.

    Rests on ``Client._reconnect`` being awaited when the connection is lost, on
    ``_timeout``, ``status`` and ``connection_args`` (distributed 2025.9 to 2026.8).
    Without them, it looks for as long as dask does.
    """
    reconnect = getattr(type(client), "_reconnect", None)
    if reconnect is None or not hasattr(client, "_timeout"):
        return

    async def reconnect_patiently() -> None:
        before = client._timeout
        deadline = time.monotonic() + seconds
        await _wait_for_scheduler(client, seconds, deadline)
        try:
            client._timeout = max(before, deadline - time.monotonic())
            if deadline < time.monotonic():
                client._timeout = 0
            await reconnect(client)
        finally:
            client._timeout = before

    client._reconnect = reconnect_patiently


async def _wait_for_scheduler(client: Any, seconds: float, deadline: float) -> None:
    """Return when the scheduler answers, the client is closed, or time is over."""
    address = client.scheduler.address
    is_told = False
    while client.status == "connecting" and time.monotonic() < deadline:
        timeout = min(TRY_TIMEOUT, max(0.1, deadline - time.monotonic()))
        with contextlib.suppress(OSError):
            comm = await distributed.comm.connect(
                address, timeout=timeout, **client.connection_args
            )
            comm.abort()
            return
        if not is_told:
            is_told = True
            sys.stderr.write(
                f"joblib_distributed: the connection to the scheduler at {address} is "
                f"lost. Waiting for it for up to {seconds:g} seconds "
                f"(scheduler_timeout={seconds:g}); calls go on when it is back.\n"
            )
