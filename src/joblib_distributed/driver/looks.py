"""Looks at what the scheduler says of attempts that nothing was heard of.

Uses a client that `driver.cluster` lends it, on that client's event loop. See
``docs/architecture.md`` for what it rests on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import weakref
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple

from joblib_distributed.driver import attendance
from joblib_distributed.driver.heartbeats import Heartbeats
from joblib_distributed.driver.losses import LOST

#: Seconds that a scheduler may take to answer before its connection counts as dead: one
#: that is cut without a word looks like one that is silent. A guess: far above what a
#: scheduler takes that has thousands of tasks to handle.
ANSWER_TIMEOUT = 10.0


#: Seconds that workers may take to tell what they run. A guess: less than a scheduler may
#: take to answer.
STACKS_TIMEOUT = 3.0

#: Seconds before a worker counts as silent in which it is looked at more often: the time
#: between two looks of a call.
SOON = 1.0

#: Seconds between two such looks, at most. A guess: less than between two heartbeats, and
#: no part of it, so that not all come as long after one.
CLOSE_INTERVAL = 0.23


class Look(NamedTuple):
    """What the scheduler says."""

    #: Its state of each attempt; None for one it does not know.
    states: Mapping[str, str | None]
    #: Threads of the whole cluster.
    threads: int
    #: Attempts, or their results, that only workers have which have stopped reporting;
    #: and those that workers have not begun which are paused.
    silent: frozenset[str]


async def look(
    client: Any, keys: Collection[str], heartbeats: Heartbeats, frozen_after: float
) -> Look | None:
    """Ask the scheduler about attempts.

    If it does not answer, its connection is ended: the client then makes a new one.

    Parameters
    ----------
    client : distributed.Client
    keys : collection of str
        In the order in which they were sent.
    heartbeats : Heartbeats
        Is added to.
    frozen_after : float
        Seconds after which a worker that does not report is silent.

    Returns
    -------
    Look or None
        None if there is no answer now.
    """
    comm = client.scheduler_comm
    if client.status != "running" or comm is None:
        return None
    try:
        found: Look = await ask(
            client, lambda: _ask(client, keys, heartbeats, frozen_after)
        )
    except (AttributeError, KeyError, RuntimeError, *LOST):
        return None  # the connection's own end is noticed elsewhere
    if not _lives(client, comm, keys, found.states):
        _end(client, comm)
    return found


async def look_closely(
    client: Any, keys: Collection[str], heartbeats: Heartbeats, frozen_after: float
) -> Look | None:
    """Look on while a worker is about to count as silent; return what it has of attempts.

    So that they are tried elsewhere when it is time, rather than up to a second later.

    Parameters
    ----------
    client, keys, heartbeats, frozen_after
        See `look`.

    Returns
    -------
    Look or None
        Of what is silent alone; None if nothing is before it is looked again anyway.
    """
    end = time.monotonic() + SOON
    while True:
        now = time.monotonic()
        silent_at = heartbeats.next_silent(now, frozen_after)
        if not keys or silent_at > end:
            return None
        # It counts as silent after that time.
        await asyncio.sleep(min(silent_at - now + 0.001, CLOSE_INTERVAL))
        found = await look(client, keys, heartbeats, frozen_after)
        if found is None:
            return None
        if found.silent:
            states = {key: found.states[key] for key in found.silent}
            return found._replace(states=states)


async def ask(client: Any, question: Callable[[], Awaitable[Any]]) -> Any:
    """Return what a method of the client is told by the scheduler.

    Raises
    ------
    OSError
        If there is no answer; then its connection is ended.
    """
    comm = client.scheduler_comm
    asking = asyncio.ensure_future(question())
    # Not by `wait_for`: see `driver.reach`.
    await asyncio.wait({asking}, timeout=ANSWER_TIMEOUT)
    if asking.cancelled():
        raise OSError("the connection to the scheduler was given up")
    if asking.done():
        try:
            return asking.result()
        except LOST as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"the connection to the scheduler was lost: {error}") from error
    asking.cancel()
    if comm is not None:
        _end(client, comm)
    raise OSError(f"the scheduler has not answered within {ANSWER_TIMEOUT:g} seconds")


def _end(client: Any, comm: Any) -> None:
    """End a connection; unless another look has, and there is a new one."""
    if client.scheduler_comm is comm:
        # Those in the pool were cut with it: each would be found out by a question.
        client.rpc.remove(client.scheduler.address)
        comm.abort()


#: Since when what should have come through a connection has not: by the connection, the
#: key of an attempt, and the scheduler's state of it.
_unheard: weakref.WeakKeyDictionary[Any, dict[tuple[str, str | None], float]] = (
    weakref.WeakKeyDictionary()
)


#: What the client says of an attempt that has ended before it is told; the second, if it
#: had ended before, and what it gave was lost.
_UNTOLD = ("pending", "lost")


def _lives(
    client: Any, comm: Any, keys: Collection[str], states: Mapping[str, str | None]
) -> bool:
    """Whether what is sent by a connection arrives, in both directions.

    Questions travel by others, which may live when this one is dead. It counts as dead if
    for long nothing is known of the attempt that was sent last, though all is written; or
    if for long the client has not been told that an attempt has ended. Each call looks at
    its own attempts, and tells nothing of those of another.
    """
    unheard = _unheard.setdefault(comm, {})
    now = time.monotonic()
    awaited: list[tuple[str, str | None]] = [
        (key, "memory") for key in keys if _is_untold(client, key, states)
    ]
    last = next(reversed([*keys]), "")
    if last and states.get(last) is None and not getattr(comm, "buffer", True):
        awaited.append((last, None))
    since = {what: unheard.get(what, now) for what in awaited}
    for key in keys:
        for state in (None, "memory"):
            unheard.pop((key, state), None)
    if now in since.values():
        _forget_ended(unheard, now)
    unheard.update(since)
    return all(now - began < ANSWER_TIMEOUT for began in since.values())


def _is_untold(client: Any, key: str, states: Mapping[str, str | None]) -> bool:
    """Whether an attempt has ended, and the client has not been told.

    Rests on ``Client.futures[key].status`` being what a future of this key says
    (distributed 2025.9 to 2026.8); without it, everything has been told.
    """
    told = getattr(client, "futures", {}).get(key)
    return states.get(key) == "memory" and getattr(told, "status", "") in _UNTOLD


def _forget_ended(unheard: dict[tuple[str, str | None], float], now: float) -> None:
    """Forget what nobody looks at any more: it would have ended the connection."""
    for what, since in list(unheard.items()):
        if now - since > 2 * ANSWER_TIMEOUT:
            del unheard[what]


async def _ask(
    client: Any, keys: Collection[str], heartbeats: Heartbeats, frozen_after: float
) -> Look:
    states = await client.scheduler.get_task_status(keys=list(keys))
    states = states or {}  # None from a scheduler that does not know the operation
    threads = sum((await client.nthreads()).values())
    silent: frozenset[str] = frozenset()
    # Whoever cannot be told of does not keep the rest from being told.
    with contextlib.suppress(AttributeError, KeyError, RuntimeError, *LOST):
        silent = await _silent_attempts(client, states, heartbeats, frozen_after)
    return Look(states, threads, silent)


async def _silent_attempts(
    client: Any,
    states: Mapping[str, str | None],
    heartbeats: Heartbeats,
    frozen_after: float,
) -> frozenset[str]:
    found: frozenset[str] = frozenset()
    if states or heartbeats.knows_silent(frozen_after):
        members = await attendance.members(client, heartbeats)
        workers = heartbeats.silent(time.monotonic(), frozen_after)
        if workers and heartbeats.others(workers):  # nobody else could run them
            found = await _silent(client, states, workers)
        status = {a: w.get("status") for a, w in members.items() if a not in workers}
        paused = [address for address, name in status.items() if name == "paused"]
        if paused and "running" in status.values():
            # Nor do they keep those from being found that are frozen.
            with contextlib.suppress(AttributeError, KeyError, RuntimeError, *LOST):
                found |= await _held_up(client, states, paused)
    return found


async def _held_up(
    client: Any, states: Mapping[str, str | None], paused: Collection[str]
) -> frozenset[str]:
    """Return the attempts that workers do not begin because they lack memory.

    dask pauses such a worker, for as long as a task holds what it has taken; nobody else
    is given what it has queued. What it has begun goes on, and is not for others: they
    would run out of memory, too.
    """
    given = await client.processing(workers=list(paused))
    keys = states.keys() & set(itertools.chain(*given.values()))
    if not keys:
        return frozenset()
    asking = asyncio.ensure_future(client.scheduler.call_stack(keys=list(keys)))
    # Not by `wait_for`: see `driver.reach`. The workers themselves are asked.
    await asyncio.wait({asking}, timeout=STACKS_TIMEOUT)
    if not asking.done():
        asking.cancel()
        return frozenset()
    return frozenset(keys.difference(*(asking.result() or {}).values()))


async def _silent(
    client: Any, states: Mapping[str, str | None], workers: frozenset[str]
) -> frozenset[str]:
    given = await client.processing(workers=list(workers))
    running = states.keys() & set(itertools.chain(*given.values()))
    ended = [key for key, state in states.items() if state == "memory"]
    holders = await client.scheduler.who_has(keys=ended) if ended else {}
    held = {key for key, has in holders.items() if has and workers.issuperset(has)}
    return frozenset(running | held)
