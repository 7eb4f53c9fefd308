"""When workers of this process's calls were at work, for who wants to see that. Pure."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from joblib_distributed.data.outcome import Kind, Outcome

#: Spans that are kept, at most; then those that follow each other are joined. A guess:
#: more cannot be told apart in a picture.
MOST = 20_000


class Span(NamedTuple):
    """What a worker was at without pause, as far as the driver can tell."""

    worker: str
    #: Of the function.
    name: str
    #: In seconds, on the clock of who notes it.
    start: float
    end: float
    tasks: int
    errors: int


class Spans:
    """Keeps them, if they are wanted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.are_wanted = False
        self._spans: list[Span] = []

    def note(
        self, key: str, worker: str, outcomes: Sequence[Outcome], now: float
    ) -> None:
        """Note that a worker has just been heard to have ended an attempt."""
        if not self.are_wanted:
            return
        ran = [o for o in outcomes if o.kind in (Kind.VALUE, Kind.ERROR)]
        if not ran:
            return
        seconds = sum(one.duration for one in ran)
        errors = sum(one.kind is Kind.ERROR for one in ran)
        tasks = sum(one.size for one in ran)
        name = key.partition("-")[0].rpartition("batch_of_")[2]
        with self._lock:
            self._spans.append(Span(worker, name, now - seconds, now, tasks, errors))
            if len(self._spans) > MOST:
                self._spans = _joined(self._spans)

    @property
    def spans(self) -> list[Span]:
        """All that are kept, in the order in which they ended."""
        with self._lock:
            return list(self._spans)


def _joined(spans: list[Span]) -> list[Span]:
    """Join each two of a worker that follow one another."""
    joined: list[Span] = []
    waiting: dict[tuple[str, str], Span] = {}
    for span in spans:
        first = waiting.pop(span[:2], None)
        if first is None:
            waiting[span[:2]] = span
        else:
            joined.append(
                first._replace(
                    end=span.end,
                    tasks=first.tasks + span.tasks,
                    errors=first.errors + span.errors,
                )
            )
    return sorted([*joined, *waiting.values()], key=lambda span: span.end)


#: Of this process.
SPANS = Spans()
