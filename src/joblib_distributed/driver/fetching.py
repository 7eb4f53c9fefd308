"""Fetches what attempts have given, also past workers that have died or are frozen.

`Client.gather` asks the scheduler, which may have begun to ask a worker that has died
meanwhile, and tries to reach it for half a minute; or one that is frozen, for ever. Few
gathers run at a time, and what is asked for at the same time waits together.

Uses a client that `driver.cluster` lends it, on that client's event loop.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

#: Seconds after which what has been computed, but has not come, is asked for anew; twice
#: that after each try, as it may only be large. A guess.
PATIENCE = 2.0

#: Gathers that have taken longer than that, by client.
_stuck: weakref.WeakKeyDictionary[Any, set[asyncio.Future[Any]]] = (
    weakref.WeakKeyDictionary()
)


async def fetch(client: Any, key: str, future: Any) -> Any:
    """Return what a future of this key has, once it has ended.

    Raises
    ------
    OSError
        If nobody has it any more.
    Exception
        As `Client.gather`.
    """
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
            return gather.result()
    patience = PATIENCE
    while future.status == "finished":
        asking = asyncio.ensure_future(client.scheduler.gather(keys=[key]))
        done, _ = await asyncio.wait({asking}, timeout=patience)
        if done:
            answer = asking.result()
            if answer["status"] != "OK":
                raise OSError(f"no worker has the result of {key}")
            return answer["data"][key]
        asking.cancel()
        patience *= 2
    return await client.gather(future, asynchronous=True)  # its error


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
