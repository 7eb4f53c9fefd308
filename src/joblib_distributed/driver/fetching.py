"""Fetches what attempts have given, also past workers that have died or are frozen.

What is small has come with the news that the attempt has ended. For the rest,
`Client.gather` asks the scheduler, which may have begun to ask a worker that has died
meanwhile, and tries to reach it for half a minute; or one that is frozen, for ever. Few
gathers run at a time, and what is asked for at the same time waits together.

Uses a client that `driver.cluster` lends it, on that client's event loop.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import Any

from joblib_distributed.data.carried import report_in, report_of
from joblib_distributed.data.host import take_results
from joblib_distributed.data.outcome import Report
from joblib_distributed.data.tasks import Sharing
from joblib_distributed.driver.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptLost,
    Event,
)

#: Seconds after which what has been computed, but has not come, is asked for anew; twice
#: that after each try, as it may only be large. A guess.
PATIENCE = 2.0

#: How often it is doubled for what is not large. A guess.
DOUBLINGS = 2

#: Bytes per second with which a large result comes, at least, unless something is broken.
#: A guess.
SLOWEST = 1e6

#: Gathers that have taken longer than that, by client.
_stuck: weakref.WeakKeyDictionary[Any, set[asyncio.Future[Any]]] = (
    weakref.WeakKeyDictionary()
)


def finished(key: str, report: Report, sharing: Sharing | None) -> Event:
    """Return the event of an attempt's end, with its large results as they are here."""
    try:
        outcomes = take_results(report.outcomes, sharing)
    except OSError as error:  # this process's own: another attempt would end as this one
        return AttemptFailed(key, f"its result could not be read here: {error!r}.")
    if outcomes is None:  # somebody has removed what it gave
        return AttemptLost(key)
    return AttemptFinished(key, report.worker, outcomes, *report[2:])


async def fetch(client: Any, key: str, future: Any) -> Any:
    """Return what a future of this key has, once it has ended.

    Raises
    ------
    OSError
        If nobody has it any more.
    Exception
        As `Client.gather`.
    """
    carried = await _carried(future)
    if carried is not None:
        return carried
    stuck = _stuck.setdefault(client, set())
    if stuck:
        await _ended(future)
    else:
        gather = asyncio.ensure_future(client.gather(future, asynchronous=True))
        while not gather.done():
            had_ended = future.status == "finished"
            # Never cancelled: others may wait for the same answer.
            await asyncio.wait({gather}, timeout=PATIENCE)
            if had_ended and not gather.done():
                stuck.add(gather)
                gather.add_done_callback(stuck.discard)
                gather.add_done_callback(_look_at)
                break
        # Cancelled by others that wait for the same answer, it may be asked for again.
        if gather.done() and not gather.cancelled():
            return report_of(gather.result())
    patience = PATIENCE
    while future.status == "finished":
        asking = asyncio.ensure_future(client.scheduler.gather(keys=[key]))
        await asyncio.wait({asking}, timeout=patience)
        if asking.cancelled():  # as the pool does that makes the connection
            raise OSError(f"the connection that asked for {key} was given up")
        if asking.done():
            answer = asking.result()
            if answer["status"] != "OK":
                raise OSError(f"no worker has the result of {key}")
            return report_of(answer["data"][key])
        asking.cancel()
        patience = min(2 * patience, await _longest(client, key))
    return await client.gather(future, asynchronous=True)  # its error


async def _longest(client: Any, key: str) -> float:
    """Return for how long a result may be waited for, once it was asked for.

    Infinite if its size is not known.
    """
    telling = asyncio.ensure_future(client.scheduler.nbytes(keys=[key], summary=False))
    await asyncio.wait({telling}, timeout=PATIENCE)
    if not telling.done():
        telling.cancel()
        return math.inf
    if telling.cancelled() or telling.exception() is not None:
        return math.inf  # it is asked for again, and fails in the same way
    # None from a scheduler that does not know the operation.
    nbytes = (telling.result() or {}).get(key, math.inf)
    return float(max(PATIENCE * 2**DOUBLINGS, nbytes / SLOWEST))


async def _carried(future: Any) -> bytes | None:
    """Return what has come with the news of a future's end, if it has.

    Rests on ``Future._state.wait()`` (distributed 2025.9 to 2026.8); without it,
    everything is asked for.
    """
    wait = getattr(getattr(future, "_state", None), "wait", None)
    if wait is None:
        return None
    await wait()
    return report_in(future.type)


def _look_at(gather: asyncio.Future[Any]) -> None:
    """Take note of an exception that nobody waits for any more."""
    if not gather.cancelled():
        gather.exception()


async def _ended(future: Any) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    # Called on a thread of the engine.
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    await ended.wait()
