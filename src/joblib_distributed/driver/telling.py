"""Tells the user what goes on, where joblib itself writes to."""

from __future__ import annotations

import contextlib
import sys


def tell(line: str, to_stdout: bool = False) -> None:
    """Write a line to stderr, or to stdout; if it cannot be, go on without.

    A program may have no such stream, may have closed it, may have put anything in its
    place, or nobody may read it any more. What is told is a courtesy: it must not end a
    call, nor keep a client from looking for its scheduler.
    """
    with contextlib.suppress(Exception):
        stream = sys.stdout if to_stdout else sys.stderr
        stream.write(f"{line}\n")
        stream.flush()
