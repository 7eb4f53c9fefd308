"""Looks at what the scheduler says of attempts that nothing was heard of.

Uses a client that `driver.cluster` lends it, on that client's event loop. See
``docs/architecture.md`` for what it rests on.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from joblib_distributed.driver.heartbeats import Heartbeats

#: Seconds that a scheduler may take to answer before its connection counts as dead: one
#: that is cut without a word looks like one that is silent. A guess: far above what a
#: scheduler takes that has thousands of tasks to handle.
ANSWER_TIMEOUT = 10.0


class Look(NamedTuple):
    """What the scheduler says."""

    #: Its state of each attempt; None for one it does not know.
    states: Mapping[str, str | None]
    #: Threads of the whole cluster.
    threads: int
    #: Attempts, or their results, that only workers have which have stopped reporting.
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
    asking = asyncio.ensure_future(_ask(client, keys, heartbeats, frozen_after))
    # Not by `wait_for`: see `driver.reach`.
    done, _ = await asyncio.wait({asking}, timeout=ANSWER_TIMEOUT)
    if done:
        try:
            return asking.result()
        except (AttributeError, KeyError, OSError, RuntimeError):
            return None  # the connection's own end is noticed elsewhere
    asking.cancel()
    # Unless another look has, and there is a new one.
    if client.scheduler_comm is comm:
        # Those in the pool were cut with it: each would be found out by a question.
        client.rpc.remove(client.scheduler.address)
        comm.abort()
    return None


async def _ask(
    client: Any, keys: Collection[str], heartbeats: Heartbeats, frozen_after: float
) -> Look:
    states = await client.scheduler.get_task_status(keys=list(keys))
    states = states or {}  # None from a scheduler that does not know the operation
    threads = sum((await client.nthreads()).values())
    silent: frozenset[str] = frozenset()
    if keys or heartbeats.knows_silent(frozen_after):
        found = await client.scheduler.identity()
        last_seen = {a: worker["last_seen"] for a, worker in found["workers"].items()}
        now = time.monotonic()
        heartbeats.note(last_seen, now)
        workers = heartbeats.silent(now, frozen_after)
        if workers and heartbeats.others(workers):  # nobody else could run them
            silent = await _silent(client, states, workers)
    return Look(states, threads, silent)


async def _silent(
    client: Any, states: Mapping[str, str | None], workers: frozenset[str]
) -> frozenset[str]:
    given = await client.processing(workers=list(workers))
    running = states.keys() & set(itertools.chain(*given.values()))
    ended = [key for key, state in states.items() if state == "memory"]
    holders = await client.scheduler.who_has(keys=ended) if ended else {}
    held = {key for key, has in holders.items() if has and workers.issuperset(has)}
    return frozenset(running | held)
