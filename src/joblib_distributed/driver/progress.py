"""One line or bar for each live call that says how far it is.

Drawn in the thread that waits for results, so that it never comes between lines of the
user's own; by tqdm, in a terminal, in a notebook, and as plain lines in a log.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

#: Seconds after which a call is long enough to be shown, if that is left to us.
LONG = 2.0

#: Seconds between two looks of a bar, and between two lines of a log. Guesses.
INTERVAL, LINE_INTERVAL = 0.2, 10.0


class _Lines:
    """What a bar is written to where nothing can be drawn: each look becomes a line."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            self._tell(line)

    def flush(self) -> None:
        """Do nothing: lines are flushed when they are told."""


def in_notebook() -> bool:
    """Whether this process is a notebook's, with widgets to draw with."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    is_one = type(shell).__name__ == "ZMQInteractiveShell"
    return is_one and importlib.util.find_spec("ipywidgets") is not None


def is_terminal() -> bool:
    """Whether what is written to stderr can be overwritten."""
    return bool(getattr(sys.stderr, "isatty", bool)())


class Progress:
    """Of one call.

    Parameters
    ----------
    wanted : bool or "auto"
        "auto" for calls that take long, if somebody is looking.
    tell : callable
        Writes a line where nothing can be drawn.
    clock : callable, optional
        Returns seconds.
    """

    def __init__(
        self,
        wanted: bool | str,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._tell = tell
        self._draws = in_notebook() or is_terminal()
        delay = LONG if wanted == "auto" else 0.0
        self._is_wanted = bool(wanted) and (wanted != "auto" or self._draws)
        self._next = clock() + delay
        self._bar: Any = None

    def show(self, name: str, done: int, total: int | None, threads: int) -> None:
        """Show how far the call is, if it is time to.

        Parameters
        ----------
        name : str
            Of its function.
        done : int
            Tasks that have ended.
        total : int or None
            All of them, if that is known.
        threads : int
            How many may run at a time.
        """
        if self._is_wanted and self._clock() >= self._next:
            self._show(name, done, total, threads)

    def _show(self, name: str, done: int, total: int | None, threads: int) -> None:
        if self._bar is None:
            self._bar = self._make(name)
        self._next = self._clock() + (INTERVAL if self._draws else LINE_INTERVAL)
        self._bar.total = total
        self._bar.set_postfix_str(f"{threads} threads", refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()

    def _make(self, name: str) -> Any:
        if in_notebook():
            from tqdm.notebook import tqdm
        else:
            from tqdm.std import tqdm

        class Bar(tqdm):  # type: ignore[type-arg,misc,unused-ignore]
            # No thread that looks after bars: they are looked after here.
            monitor_interval = 0

        file = sys.stderr if self._draws else _Lines(self._tell)
        # Drawn when it is told to, not by itself.
        return Bar(
            desc=name,
            unit=" tasks",
            file=file,
            leave=self._draws,  # the last line of a log stays anyway
            mininterval=float("inf"),
            delay=1e-9,
        )

    def clear(self) -> None:
        """Make room for lines of others; what is shown comes back with the next look."""
        if self._bar is not None and self._draws:
            self._bar.clear()
            self._next = 0.0

    def close(self, name: str, done: int, total: int | None, threads: int) -> None:
        """Show how far it came, and leave that."""
        if self._bar is not None:
            self._show(name, done, total, threads)
            self._bar.close()
            self._bar = None
