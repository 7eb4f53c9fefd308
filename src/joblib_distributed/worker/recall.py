"""What of a batch has not begun, and is given back when the driver recalls it.

A batch looks at the time between two tasks. If one of them takes long, the driver asks
for those behind it, from another thread.

Guarantees
----------
- Each task is either begun or given back, never both.
- A batch that has been begun keeps its first task; one that has not is not touched: the
  engine may move it to another worker, which would know nothing of it.

They rest on ``deque.popleft`` and ``deque.pop`` being atomic: whoever gets a task out of
the queue has it. So a task costs the runner one `popleft`, and no lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

#: A row of `BatchPayload.tasks`.
Row = tuple[int, bytes, bytes, int]


class Agenda:
    """What is to be run of a batch. One thread runs it; any other may recall it.

    Parameters
    ----------
    rows : sequence
        Of a `BatchPayload`.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        #: Number of tasks.
        self.size = sum(plain or 1 for *_, plain in rows)
        self._rows = deque(rows)
        # What is left of the plain tasks that are being run.
        self._calls: deque[tuple[Any, ...]] = deque()
        # Index of the first task of the row that is being run, and how many plain ones
        # it has that are not taken back.
        self._first = -1
        self._plain = 0
        self._begun = False
        self._taken = 0
        self._lock = threading.Lock()

    def begin_row(self) -> Row | None:
        """Return the next row; None if there is none."""
        try:
            row = self._rows.popleft()
        except IndexError:
            return None
        self._begun = True
        self._first, self._plain = row[0], 0
        return row

    def begin_calls(
        self, calls: Iterable[tuple[Any, ...]]
    ) -> tuple[tuple[Any, ...], Callable[[], tuple[Any, ...]]]:
        """Return the first of the plain tasks of a row, and what returns the next.

        That raises `IndexError` if there is none. Until this is called none of them can
        be taken back: they count as begun, and are not run if the time is over.
        """
        queue = deque(calls)
        self._plain = len(queue)
        first = queue.popleft()
        self._calls = queue
        return first, queue.popleft

    def recall(self) -> None:
        """Take back what has not begun: from the end, in its order.

        1. Rows first. The runner may get the last of them meanwhile: it then keeps it.
        2. Then what is left of the row that it has.
        """
        with self._lock:  # several workers of one process may be told
            if not self._begun:
                return
            for queue in (self._rows, self._calls):
                try:
                    while True:
                        self._taken += _size(queue.pop(), queue is self._rows)
                        self._plain -= queue is self._calls
                except IndexError:
                    pass

    @property
    def current(self) -> int:
        """Index of the task that is being run; -1 before the first."""
        return self._first + max(0, self._plain - len(self._calls) - 1)

    @property
    def kept(self) -> int:
        """How many tasks are not given back; 0 if none has begun."""
        return self.size - self._taken if self._begun else 0


def _size(popped: Sequence[Any], is_row: bool) -> int:
    return (popped[3] or 1) if is_row else 1


#: Says how many tasks of an attempt that runs here are kept, and since how many seconds
#: it has been at the last that it began; None if it has begun none.
Answer = Callable[[], "tuple[int, float] | None"]

_running: dict[str, Answer] = {}


def note_running(attempt: str, answer: Answer) -> None:
    """Have an attempt answer to `recall`, until `note_ended`."""
    if attempt:
        _running[attempt] = answer


def note_ended(attempt: str, answer: Answer) -> None:
    """Forget an attempt, unless another worker of this process is running it anew."""
    if _running.get(attempt) == answer:
        _running.pop(attempt, None)


def recall(attempts: Iterable[str]) -> dict[str, tuple[int, float]]:
    """Have attempts give back what they have not begun though their time is over.

    Parameters
    ----------
    attempts : iterable of str
        Their keys. Those that have begun nothing here are passed over.

    Returns
    -------
    dict
        For each attempt how many of its tasks it keeps, the first ones, and for how many
        seconds at least it has been at the last of these that it began. The same however
        often it is asked, but for the time.
    """
    answers = {attempt: _running.get(attempt) for attempt in attempts}
    told = {attempt: answer() for attempt, answer in answers.items() if answer}
    return {attempt: given for attempt, given in told.items() if given is not None}
