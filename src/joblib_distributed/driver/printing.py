"""Shows what tasks have printed and logged, in the thread that waits for their results.

So it goes where that thread's own output goes: to the cell of a notebook, to whatever
has taken the place of `sys.stdout`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import weakref
import zlib
from typing import Any, Protocol

from joblib_distributed.data.printed import (
    LOG,
    STDOUT,
    Chunk,
    Printed,
    Wanted,
    unpack_chunk,
    unpack_record,
)
from joblib_distributed.data.process import process_token

#: Topics among which all clients of a scheduler are shared out. It keeps the last
#: thousand messages of each, for ever; who hears of another's call, drops that. A guess.
TOPICS = 16


class Listener(Protocol):
    """What is told what the tasks of a call print."""

    def note_printed(self, chunk: Chunk) -> None:
        """Take note of it, on the client's event loop."""


def wanted(topic: str) -> Wanted:
    """Return what is wanted of the output of the tasks of this process's calls."""
    return Wanted(topic, process_token(), logging.getLogger().level)


class Listeners:
    """The calls on one client's cluster that show what their tasks print."""

    def __init__(self) -> None:
        # By call; they are gone with it.
        self._tallies: weakref.WeakValueDictionary[str, Listener] = (
            weakref.WeakValueDictionary()
        )
        # The connection over which the scheduler was told that we listen.
        self._connection: Any = None

    def add(self, client: Any, call: str, tally: Listener) -> str:
        """Have a call be told what its tasks print; return the topic to send it by."""
        topic = f"joblib-distributed-{zlib.crc32(client.id.encode()) % TOPICS}"
        connection = client.scheduler_comm
        if self._connection is not connection:
            # Of a client that is closed the call itself will hear.
            with contextlib.suppress(Exception):
                client.subscribe_topic(topic, self.hear)
                self._connection = connection
        self._tallies[call] = tally
        return topic

    def hear(self, event: tuple[float, Any]) -> None:
        """Take note of a message, if it is of one of these calls."""
        _, message = event
        call, packed = message
        tally = self._tallies.get(call)
        if tally is not None:
            tally.note_printed(unpack_chunk(packed))


class Screen:
    """Shows what the tasks of one call have printed.

    Parameters
    ----------
    has_prefix : bool
        Whether each line says of which task it is.
    """

    def __init__(self, has_prefix: bool = False) -> None:
        self._has_prefix = has_prefix
        # For each stream the task whose line has no end yet.
        self._open: dict[int, int] = {}

    def show(self, printed: Printed) -> None:
        """Show one piece; where that fails, go on without."""
        if printed.kind == LOG:
            _log(printed.what)
            return
        stream = sys.stdout if printed.kind == STDOUT else sys.stderr
        text = self._prefixed(printed) if self._has_prefix else printed.what
        # It may be closed, or broken, or None; no call fails for that.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            _write(stream, text)

    def _prefixed(self, printed: Printed) -> str:
        lines = printed.what.splitlines(keepends=True)
        prefix = f"[task {printed.task}] "
        goes_on = self._open.get(printed.kind) == printed.task
        text = "".join(
            line if goes_on and not number else prefix + line
            for number, line in enumerate(lines)
        )
        if printed.kind in self._open and not goes_on:
            text = f"\n{text}"
        self._open.pop(printed.kind, None)
        if not printed.what.endswith("\n"):
            self._open[printed.kind] = printed.task
        return text


def _write(stream: Any, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _log(packed: bytes) -> None:
    record = unpack_record(packed)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
