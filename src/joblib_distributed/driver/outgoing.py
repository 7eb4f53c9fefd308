"""Attempts on their way to the scheduler: what is sent at the same time goes together.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from joblib_distributed.data.tasks import Sharing
from joblib_distributed.options import Options

#: Bytes of attempts that go together, at most: what is said of them is read as a whole
#: before any of them is run. A guess.
MOST_NBYTES = 2**20


class Outgoing(NamedTuple):
    """An attempt that is to be sent."""

    key: str
    #: The packed function, and its batch.
    payload: bytes
    options: Options
    sharing: Sharing | None = None
    #: Futures whose values come to the worker in the places of the batch's.
    inputs: Sequence[Any] = ()
    #: Addresses of workers that should not run it.
    avoiding: frozenset[str] = frozenset()


class Outbox:
    """Keeps attempts until all that go together are there.

    Parameters
    ----------
    send : callable
        Takes a list of attempts, in the order in which they were put.
    """

    def __init__(self, send: Callable[[list[Outgoing]], object]) -> None:
        self._send = send
        self._attempts: list[Outgoing] = []
        self._nbytes = 0

    def put(self, attempt: Outgoing) -> None:
        """Have an attempt wait to be sent, unless what waits is enough."""
        self._attempts.append(attempt)
        self._nbytes += len(attempt.payload)
        if self._nbytes > MOST_NBYTES:
            self.let_go()

    def clear(self) -> None:
        """Send nothing of what waits."""
        self._attempts, self._nbytes = [], 0

    def let_go(self) -> None:
        """Send what waits, if anything does; once, whatever comes of it."""
        if self._attempts:
            attempts = self._attempts
            self.clear()
            self._send(attempts)


def grouped(attempts: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    """Part attempts into those that can go together, in their order."""
    group: list[Outgoing] = []
    nbytes = 0
    for attempt in attempts:
        if group and not (
            nbytes + len(attempt.payload) <= MOST_NBYTES
            and _alike(attempt.options, group[0].options)
            and not attempt.inputs
            and not group[0].inputs
        ):
            yield group
            group, nbytes = [], 0
        group.append(attempt)
        nbytes += len(attempt.payload)
    if group:
        yield group


def _alike(options: Options, others: Options) -> bool:
    """Whether two attempts may go together: all that `Client.map` is told is for both."""
    return options is others or (
        options.priority == others.priority
        and options.constraints() == others.constraints()
    )
