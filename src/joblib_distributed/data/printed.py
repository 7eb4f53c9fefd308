"""What tasks print and log, as data."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from joblib_distributed.data.buffers import PROTOCOL
from joblib_distributed.data.payload import text_of
from joblib_distributed.data.tasks import PLAIN

#: What each is for.
STDOUT, STDERR, LOG = range(3)

#: What of a record of `logging` is told beside its message.
_OF_RECORD = (
    "name", "levelno", "levelname", "pathname", "filename", "module", "lineno",
    "funcName", "created", "msecs", "relativeCreated", "process", "processName", "thread",
    "threadName",
)  # fmt: skip


class Printed(NamedTuple):
    """What one task has printed without pause; or one record that it logged."""

    #: `STDOUT`, `STDERR` or `LOG`.
    kind: int
    #: Index of the task in its call; -1 if it is not known.
    task: int
    #: The text; of a record, a pickle.
    what: Any


class Wanted(NamedTuple):
    """What of it the driver wants to have."""

    #: By which it is sent; empty if nothing is wanted.
    topic: str = ""
    #: Of the driver; see `data.process`.
    process: bytes = b""
    #: Of the records of `logging`, at least.
    level: int = logging.WARNING


class Chunk(NamedTuple):
    """What an attempt has printed, as it is sent."""

    call: str
    attempt: str
    #: How many chunks of the same attempt came before.
    number: int
    printed: Sequence[Printed]
    #: Whether there are no more.
    is_last: bool


def pack_record(record: logging.LogRecord) -> bytes:
    """Pack a record, its message made and its exception told."""
    try:
        message = record.getMessage()
    except Exception as error:  # arguments that do not fit, or whose __str__ raises
        message = f"{record.msg!r} (its arguments do not fit: {text_of(error)})"
    fields = {name: getattr(record, name, None) for name in _OF_RECORD}
    # What was given as ``extra=``, for formatters of the driver's.
    fields.update(
        (name, value)
        for name, value in vars(record).items()
        if name not in _OF_RECORD and type(value) in PLAIN
    )
    fields["msg"] = message
    if record.exc_info and not record.exc_text:
        with contextlib.suppress(Exception):  # the exception is the user's
            fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
    else:
        fields["exc_text"] = record.exc_text
    return pickle.dumps(fields, protocol=PROTOCOL)


def unpack_record(packed: bytes) -> logging.LogRecord:
    """Rebuild a record."""
    return logging.makeLogRecord(pickle.loads(packed))


def pack_chunk(chunk: Chunk) -> bytes:
    """Pack a chunk to be sent apart."""
    return pickle.dumps(plain(chunk), protocol=PROTOCOL)


def plain(chunk: Chunk) -> tuple[Any, ...]:
    """Return a chunk as plain tuples."""
    return (*chunk[:3], [tuple(each) for each in chunk.printed], chunk.is_last)


def chunk_of(fields: Sequence[Any]) -> Chunk:
    """Return what `plain` was given."""
    call, attempt, number, printed, is_last = fields
    return Chunk(call, attempt, number, [Printed(*each) for each in printed], is_last)


def unpack_chunk(packed: bytes) -> Chunk:
    """Return what `pack_chunk` was given."""
    return chunk_of(pickle.loads(packed))


class InOrder:
    """Puts the chunks of each attempt in order, however they come."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._early: dict[tuple[str, int], Chunk] = {}
        self._ended: set[str] = set()

    def put(self, chunk: Chunk) -> Iterable[Printed]:
        """Take note of a chunk; return what can be shown now."""
        if chunk.attempt in self._ended:
            return
        number = self._next.setdefault(chunk.attempt, 0)
        if chunk.number < number:
            return  # it has come twice
        self._early[chunk.attempt, chunk.number] = chunk
        while (chunk.attempt, number) in self._early:
            found = self._early.pop((chunk.attempt, number))
            number += 1
            self._next[chunk.attempt] = number
            yield from found.printed
            if found.is_last:
                del self._next[chunk.attempt]
                self._ended.add(chunk.attempt)

    def rest(self) -> Iterable[Printed]:
        """Return what came, but not what came before it: that is lost."""
        for key in sorted(self._early):
            yield from self._early[key].printed
        self._early.clear()
