"""Catches what tasks print and log, which the driver is to show.

What is printed in a task's thread goes to its attempt; anything else to where it went
before. What comes while a task goes on is sent in chunks; the rest with its report.
"""

from __future__ import annotations

import codecs
import contextlib
import contextvars
import io
import logging
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib_distributed.data.printed import (
    LOG,
    STDERR,
    STDOUT,
    Chunk,
    Printed,
    Wanted,
    pack_chunk,
    pack_record,
)
from joblib_distributed.data.process import process_token
from joblib_distributed.worker.buffers import current_worker

#: Characters after which a chunk is sent, and that it has at most: the scheduler keeps
#: the last thousand of them. A guess.
CHUNK = 2**13

#: Chunks that are sent of one attempt before it ends; the rest comes with its report. A
#: guess.
MOST_CHUNKS = 64

#: Seconds after which what was printed is sent. A guess: people watch.
INTERVAL = 0.2

#: Characters that one attempt may print. A guess: nobody reads more.
MOST = 2**23

#: Those without an end of line that are kept for one. A guess.
LONGEST = 2**13


class Output:
    """What the tasks of one attempt print."""

    def __init__(
        self,
        call: str,
        attempt: str,
        where: Callable[[], int],
        send: Callable[[Chunk], None],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        # Its own name, as the engine may run an attempt again, under the same key.
        self._names = (call, f"{attempt} {secrets.token_hex(4)}")
        self._where = where
        self._send = send
        self._later = later
        self._lock = threading.RLock()
        self._pieces: list[Printed] = []
        self._size = 0
        self._total = 0
        self._sent = 0
        self._is_due = False
        self._has_ended = False

    def add(self, kind: int, what: str | bytes) -> None:
        """Take what a task has printed."""
        with self._lock:
            if self._has_ended or not what:
                return
            room = MOST - self._total
            self._total += len(what)
            if len(what) > room:
                if isinstance(what, bytes) or room <= 0:
                    return
                what = what[:room]
            index = self._where()
            last = self._pieces[-1] if self._pieces else None
            if kind != LOG and last is not None and last[:2] == (kind, index):
                self._pieces[-1] = last._replace(what=last.what + what)
            else:
                self._pieces.append(Printed(kind, index, what))
            self._size += len(what)
            if self._sent >= MOST_CHUNKS:
                return
            if self._size >= CHUNK:
                self._flush()
            elif not self._is_due:
                self._is_due = True
                self._later(INTERVAL, self._flush_in_time)

    def _flush_in_time(self) -> None:
        with self._lock:
            self._is_due = False
            if not self._has_ended:
                self._flush()

    def _flush(self) -> None:
        """Send whole lines; what has no end yet waits for it, if it is not too long."""
        pieces, self._pieces = self._pieces, []
        last = pieces[-1] if pieces else None
        if last is not None and last.kind != LOG:
            end = last.what.rfind("\n") + 1
            if len(last.what) - end < LONGEST:
                if end < len(last.what):
                    self._pieces = [last._replace(what=last.what[end:])]
                pieces[-1:] = [last._replace(what=last.what[:end])] if end else []
        self._size = sum(len(piece.what) for piece in self._pieces)
        for few in _in_chunks(pieces):
            if self._sent >= MOST_CHUNKS:
                self._pieces[:0] = few
                continue
            self._send(Chunk(*self._names, self._sent, few, False))
            self._sent += 1

    def end(self) -> Chunk | None:
        """Return the rest; None if nothing was printed at all."""
        with self._lock:
            self._has_ended = True
            left = self._total - MOST
            if left > 0:
                text = (
                    f"\njoblib_distributed: {left} more characters that tasks have "
                    "printed are not shown. Write that much to a file.\n"
                )
                self._pieces.append(Printed(STDERR, -1, text))
            if not self._total:
                return None
            return Chunk(*self._names, self._sent, self._pieces, True)


def _in_chunks(pieces: Sequence[Printed]) -> Iterator[list[Printed]]:
    """Part pieces into lists of at most `CHUNK` characters; a record stays whole."""
    few: list[Printed] = []
    room = CHUNK
    for piece in pieces:
        whole = piece.kind == LOG
        step = max(1, len(piece.what)) if whole else CHUNK
        for start in range(0, len(piece.what), step):
            part = piece._replace(what=piece.what[start : start + step])
            if few and len(part.what) > room:
                yield few
                few, room = [], CHUNK
            few.append(part)
            room -= len(part.what)
    if few:
        yield few


_output: contextvars.ContextVar[Output | None] = contextvars.ContextVar(
    "output", default=None
)


class _Catching:
    """What the process does with what is printed, while tasks run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.outputs: list[Output] = []
        # By name: what was there before, and what takes its place; made once, so that
        # what a task puts around it goes on to work.
        self._streams: dict[str, tuple[Any, _Stream]] = {}
        self._handler = _Handler()
        # The level of the root logger before, and that it was given; 0 for none.
        self._level = self._given = 0

    def begin(self, output: Output, level: int) -> None:
        with self._lock:
            if not self.outputs:
                for kind, name in ((STDOUT, "stdout"), (STDERR, "stderr")):
                    now = getattr(sys, name)
                    before, stream = self._streams.get(name, (None, None))
                    if stream is None or now is not before:
                        if stream is not None and _leads_to(now, stream):
                            continue
                        stream = _Stream(kind, now)
                        self._streams[name] = (now, stream)
                    setattr(sys, name, stream)
                # No handler of the root: with one there, `basicConfig` does nothing.
                self._handler.before = logging.lastResort
                logging.lastResort = self._handler
                self._level, self._given = logging.getLogger().level, 0
            root = logging.getLogger()
            if level < root.level:  # drivers want more or less: each passes over the rest
                self._given = level
                root.setLevel(level)
            self.outputs.append(output)

    def end(self, output: Output) -> None:
        with self._lock:
            self.outputs.remove(output)
            if not self.outputs:
                for name, (before, stream) in self._streams.items():
                    if getattr(sys, name) is stream:  # else a task has put its own there
                        setattr(sys, name, before)
                if logging.lastResort is self._handler:
                    logging.lastResort = self._handler.before
                root = logging.getLogger()
                if self._given and root.level == self._given:  # else a task has set it
                    root.setLevel(self._level)


def _leads_to(stream: Any, ours: _Stream) -> bool:
    """Whether what a task has put in the place of a stream writes to ours."""
    with contextlib.suppress(Exception):  # it may be anything
        return any(value is ours for value in vars(stream).values())
    return False


def _current() -> Output | None:
    """Return where to put what this thread prints.

    A thread that a task has started is not known to be its; but if only one attempt runs
    here, whose else could it be.
    """
    output = _output.get()
    if output is not None:
        return output
    is_engines = threading.current_thread() is threading.main_thread()
    outputs = list(_catching.outputs)
    return outputs[0] if len(outputs) == 1 and not is_engines else None


class _Stream:
    """Takes the place of `sys.stdout` or `sys.stderr`."""

    def __init__(self, kind: int, before: Any) -> None:
        self._kind = kind
        self._before = before
        self.buffer = _Buffer(self)

    def write(self, text: str) -> int:
        output = _current()
        if output is None:
            return int(self._before.write(text))
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        # Plain, as it is pickled: it may be of a class of the user's.
        output.add(self._kind, "".join((text,)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if _current() is None:
            self._before.flush()

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)


class _Buffer(io.BufferedIOBase):
    """The bytes beneath a stream."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._stream.write(self._decoder.decode(data))
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: whoever wraps this does not own it."""


class _Handler(logging.Handler):
    """Takes what tasks log and nobody else handles."""

    #: What was Python's last resort.
    before: logging.Handler | None = None

    def handle(self, record: logging.LogRecord) -> bool:
        # Without a lock: a task that is interrupted here would leave it locked.
        output = _current()
        before = self.before
        if output is not None:
            with contextlib.suppress(Exception):
                output.add(LOG, pack_record(record))
        elif before is not None and record.levelno >= before.level:
            before.handle(record)
        return True


_catching = _Catching()


@contextlib.contextmanager
def printing(
    wanted: Wanted, call: str, attempt: str, where: Callable[[], int]
) -> Iterator[Callable[[], Chunk | None]]:
    """Have what this thread prints be sent to the driver.

    Parameters
    ----------
    wanted : Wanted
        If the driver is this process, there is nothing to be sent.
    call, attempt : str
        Which it is of.
    where : callable
        Returns the index of the task that is running.

    Yields
    ------
    callable
        Returns what is left to be sent with the report, once all has ended.
    """
    # Of a nested call that has come back to its process, it is the outer task's.
    is_here = wanted.process == process_token() and not _catching.outputs
    if not wanted.topic or is_here:
        yield lambda: None
        return
    worker = current_worker()

    def send(chunk: Chunk) -> None:
        if worker is not None:
            worker.loop.add_callback(
                worker.log_event, wanted.topic, (chunk.call, pack_chunk(chunk))
            )

    def later(seconds: float, act: Callable[[], None]) -> None:
        if worker is not None:
            worker.loop.add_callback(worker.loop.call_later, seconds, act)

    output = Output(call, attempt, where, send, later)
    token = _output.set(output)
    _catching.begin(output, wanted.level)
    try:
        yield output.end
    finally:
        _catching.end(output)
        _output.reset(token)
