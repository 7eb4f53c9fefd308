"""Asks workers how far they are with attempts, and for what they have not begun.

Uses a client that `driver.cluster` lends it, on that client's event loop.

See Also
--------
joblib_distributed.worker.recall : what is done there.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import Callable, Collection
from typing import Any

from joblib_distributed.data.payload import pack_invocation
from joblib_distributed.driver import looks
from joblib_distributed.driver.checks import ANSWER_TIMEOUT
from joblib_distributed.driver.events import Recalled
from joblib_distributed.driver.heartbeats import Heartbeats
from joblib_distributed.driver.losses import LOST
from joblib_distributed.worker.recall import recall as recall_here

#: Workers that are asked at a time; the next look asks others. A guess.
ASKED_AT_ONCE = 100


#: What asking comes to if the connection, or the whole client, is closed.
_GONE = (AttributeError, KeyError, RuntimeError, *LOST)


class Recaller:
    """Of one client's cluster."""

    def __init__(self, heartbeats: Heartbeats) -> None:
        self._heartbeats = heartbeats
        # Workers that have been asked and have not answered: each once at a time.
        self._asked: set[str] = set()

    async def recall(
        self,
        client: Any,
        keys: Collection[str],
        is_bound: bool,
        post: Callable[[Recalled], object],
    ) -> None:
        """Ask the workers that have these attempts; post each answer when it comes.

        Only those: the cluster may be large. Whoever does not answer is not waited for,
        and asked again if the ledger still wants to know.

        Parameters
        ----------
        client : distributed.Client
        keys : collection of str
        is_bound : bool
            Whether the options say which workers may run them: then no others may.
        post : callable
        """
        with contextlib.suppress(*_GONE):  # noticed elsewhere
            given = await looks.ask(client, client.processing)
            wanted = {a: sorted({*keys}.intersection(has)) for a, has in given.items()}
            having = [a for a, has in wanted.items() if has and a not in self._asked]
            del having[ASKED_AT_ONCE:]
            self._asked.update(having)
            await asyncio.gather(
                *(
                    self._recall_from(client, address, wanted[address], is_bound, post)
                    for address in having
                )
            )

    async def _recall_from(
        self,
        client: Any,
        address: str,
        keys: Collection[str],
        is_bound: bool,
        post: Callable[[Recalled], object],
    ) -> None:
        has_others = not is_bound and bool(self._heartbeats.others(frozenset([address])))
        try:
            said = client.run(
                pickle.loads,
                pack_invocation(recall_here, keys),
                workers=[address],
                on_error="ignore",
            )
            asking = asyncio.ensure_future(said)
            # One that does not answer is frozen or gone; the client may be, too. Not by
            # `wait_for`: see `driver.reach`.
            await asyncio.wait({asking}, timeout=ANSWER_TIMEOUT)
        finally:
            self._asked.discard(address)
        if not asking.done():
            asking.cancel()
            return
        with contextlib.suppress(asyncio.CancelledError, *_GONE):
            answers = asking.result().get(address) or {}
            for key, (kept, seconds) in answers.items():
                post(Recalled(key, kept, seconds, address, has_others))
