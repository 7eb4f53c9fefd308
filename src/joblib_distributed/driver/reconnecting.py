"""What happens when a client loses its scheduler.

dask's client tries to connect again for half a minute, then closes for good. A scheduler
that is restarted, or a network that is mended, may need longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import distributed.comm

from joblib_distributed.driver import refusals, telling
from joblib_distributed.driver.losses import LOST
from joblib_distributed.errors import ClusterClosedError

#: Seconds that one try to connect may take; dask's own tries come less and less often.
#: A guess.
TRY_TIMEOUT = 5.0

#: How often the scheduler is asked, and for how many seconds, at least, before it counts
#: as gone. A client keeps connections in stock: when the scheduler dies all of them do,
#: and each question may find out about one, before the client hears that its own has
#: ended. Guesses.
TRIES = 3
INSIST_FOR = 10.0

#: Seconds between two tries of which the first was refused at once. A guess.
PAUSE = 0.1

#: Seconds that stand for ever: dask takes no infinity.
LONGEST = 1e6

#: What a client must have for this.
_NAMES = (
    "id", "_pending_msg_buffer", "_timeout", "status", "connection_args",
    "_ensure_connected",
)  # fmt: skip


def reconnect_for(client: Any, seconds: float) -> None:
    """Have a client look for a scheduler that it has lost for so many seconds.

    Rests on ``Client._reconnect`` being awaited when the connection is lost, on its
    trying by ``_ensure_connected(timeout)``, and on ``id``, ``_pending_msg_buffer``,
    ``_timeout``, ``status`` and ``connection_args`` (distributed 2025.9 to 2026.8).
    Without them, it looks for as long as dask does.

    Whoever says so last decides for all calls on the client, also for later ones that are
    not ours: it is not known which of them live.
    """
    reconnect = getattr(type(client), "_reconnect", None)
    if reconnect is None or not all(hasattr(client, name) for name in _NAMES):
        return

    is_back = _is_back.setdefault(client, threading.Event())
    if client.status != "connecting":
        is_back.set()

    async def reconnect_patiently() -> None:
        is_back.clear()
        before = client._timeout
        deadline = time.monotonic() + seconds
        _lost[client] = _Lost(client.scheduler.address, seconds, deadline)
        try:
            await _wait_for_scheduler(client, seconds, deadline)
            # A new name: under the old one the scheduler, if it has not noticed yet that
            # the connection is lost, would forget what it has to release, and end the new
            # session with the old one. What was to be sent is of futures that end now.
            client.id = f"{client.id.partition('+')[0]}+{uuid.uuid4().hex}"
            client._pending_msg_buffer.clear()
            left = deadline - time.monotonic()
            client._timeout = min(LONGEST, max(before, left)) if left > 0 else 0
            await reconnect(client)
        finally:
            client._timeout = before
            if client.status == "running" or time.monotonic() < deadline:
                _lost.pop(client)  # in the second case somebody has closed it
            is_back.set()

    ensure_connected = type(client)._ensure_connected

    async def ensure_connected_or_lost(timeout: float | None = None) -> None:
        # dask would stop trying, and leave the client as it is, for ever. Before Python
        # 3.11 an error of time is no `OSError`.
        try:
            await ensure_connected(client, timeout=timeout)
        except (asyncio.TimeoutError, *LOST) as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"the connection was lost: {error!r}") from error

    client._reconnect = reconnect_patiently
    client._ensure_connected = ensure_connected_or_lost


def wait_until_back(client: Any) -> None:
    """Return when a client has its scheduler again, or has given it up."""
    is_back = _is_back.get(client)
    if is_back is not None:
        is_back.wait()


class _Lost(NamedTuple):
    """A scheduler that a client looks for, or has given up."""

    address: str
    #: For how long it is looked for, and until when.
    seconds: float
    deadline: float


_lost: weakref.WeakKeyDictionary[Any, _Lost] = weakref.WeakKeyDictionary()


def why_closed(client: Any) -> ClusterClosedError:
    """Return the error for a client that is closed: by somebody, or by itself."""
    lost = _lost.get(client)
    if lost is not None and time.monotonic() >= lost.deadline:
        return refusals.given_up(lost.address, lost.seconds)
    return refusals.closed(getattr(client.scheduler, "address", "(closed)"))


#: Whether clients are connected, as far as they have noticed.
_is_back: weakref.WeakKeyDictionary[Any, threading.Event] = weakref.WeakKeyDictionary()


async def _wait_for_scheduler(client: Any, seconds: float, deadline: float) -> None:
    """Return when the scheduler answers, the client is closed, or time is over."""
    address = client.scheduler.address
    is_told = False
    while client.status == "connecting" and time.monotonic() < deadline:
        timeout = min(TRY_TIMEOUT, max(0.1, deadline - time.monotonic()))
        trying = asyncio.ensure_future(
            distributed.comm.connect(address, timeout=timeout, **client.connection_args)
        )
        # Its own timeout does not end when somebody accepts, and then says nothing.
        await asyncio.wait({trying}, timeout=timeout + 1)
        if trying.done():
            with contextlib.suppress(asyncio.TimeoutError, *LOST):
                trying.result().abort()
                return
        trying.cancel()
        if not is_told:
            is_told = True
            telling.tell(
                f"joblib_distributed: the connection to the scheduler at {address} is "
                f"lost. Waiting for it for up to {seconds:g} seconds "
                f"(scheduler_timeout={seconds:g}); calls go on when it is back."
            )
        # Mostly a try takes its time; one with the wrong certificate fails at once, and
        # would be repeated without end.
        await asyncio.sleep(PAUSE)


def insist(
    client: Any, act: Callable[[], Any], is_closed: Callable[[], bool], address: str
) -> Any:
    """Return what `act` does; if the connection is lost, when it is back.

    Raises
    ------
    ClusterClosedError
        If the client is closed, as `is_closed` says.
    SchedulerUnreachableError
        If the scheduler, at `address`, does not answer for long.
    """
    began, tries = time.monotonic(), 0
    while True:
        try:
            return act()
        except (OSError, RuntimeError) as error:
            failed = error
        tries += 1
        if is_closed():
            raise why_closed(client) from failed
        if tries >= TRIES and time.monotonic() - began >= INSIST_FOR:
            raise refusals.no_answer(address, failed) from failed
        wait_until_back(client)
        # The client may not have heard of it yet, and there is nothing to wait for.
        time.sleep(PAUSE)
