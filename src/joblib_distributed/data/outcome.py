"""Outcomes as bytes: what each task of an attempt gave.

The worker packs them, never raising; the driver reads their kinds and durations
without touching the user's values, and unpacks the values on its own thread.
"""

from __future__ import annotations

import contextlib
import enum
import pickle
import struct
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from joblib_distributed.data.buffers import PROTOCOL, pack, unpack_apart
from joblib_distributed.data.payload import text_of
from joblib_distributed.data.printed import Chunk, chunk_of, plain
from joblib_distributed.data.warned import Warned
from joblib_distributed.errors import (
    ErrorTransferError,
    RemoteTraceback,
    ResultTransferError,
    TaskExitError,
)


class Kind(enum.IntEnum):
    """What a task of an attempt gave."""

    VALUE = 0
    ERROR = 1
    NOT_RUN = 2
    #: The worker's host has not got a buffer that the task needs.
    MISSING = 3


class Stage(enum.IntEnum):
    """Where in a task's life its error was raised."""

    UNPACK = 0
    RUN = 1
    PACK_RESULT = 2
    #: Before it: the initializer of its worker has failed.
    INITIALIZE = 3


class Outcome(NamedTuple):
    """What one task of an attempt gave, or what plain neighbours gave together."""

    kind: Kind
    #: Seconds the worker spent on the task: unpacking, running, packing.
    duration: float
    #: Pickle of the value, or of a `Failure`; empty if not run.
    packed: bytes | memoryview = b""
    #: Names of large buffers of the value in the driver's store, then the buffers.
    buffers: Sequence[str | memoryview] = ()
    #: How many of the first are whole ``bytes`` objects.
    strings: int = 0
    #: Number of the tasks, if it is not one: then `packed` has the list of their values.
    plain: int = 0

    @property
    def size(self) -> int:
        """Number of tasks."""
        return self.plain or 1


class Failure(NamedTuple):
    """An exception of a task, as data that always unpickles."""

    stage: Stage
    #: Pickle of the exception, or None where it has none.
    exception: bytes | None
    #: Why it has none.
    obstacle: str
    type_name: str
    text: str
    traceback: str
    #: Where it was raised: address and process id of the worker.
    worker: str
    #: Whether it would end a process: SystemExit and the like.
    exits: bool


class Missing(NamedTuple):
    """Buffers that the tasks of an attempt need, and its host has not got."""

    #: Identity of the host's store; empty if it has none.
    host: str
    #: Of the worker.
    address: str
    names: tuple[str, ...]


class Report(NamedTuple):
    """What an attempt gave: outcomes of all its tasks, in their order."""

    worker: str
    outcomes: list[Outcome]
    #: What they warned of.
    warned: Sequence[Warned] = ()
    #: The rest of what they have printed.
    printed: Chunk | None = None


def not_run(count: int) -> Outcome:
    """Return the outcome of so many neighbours that were not begun."""
    return Outcome(Kind.NOT_RUN, 0.0, plain=count)


def pack_plain(values: Sequence[object], duration: float) -> Outcome:
    """Make the outcome of neighbours whose values are plain."""
    packed = pickle.dumps(values, protocol=PROTOCOL)
    return Outcome(Kind.VALUE, duration, packed, plain=len(values))


def unpack_plain(outcome: Outcome) -> list[object]:
    """Return what `pack_plain` was given."""
    values: list[object] = pickle.loads(outcome.packed)
    return values


def first_of(outcomes: Sequence[Outcome], size: int) -> list[Outcome]:
    """Return those of the first tasks, so many; what neighbours gave together is cut."""
    found: list[Outcome] = []
    for outcome in outcomes:
        if size <= 0:
            break
        found.append(outcome if outcome.size <= size else _cut(outcome, size))
        size -= outcome.size
    return found


def _cut(outcome: Outcome, size: int) -> Outcome:
    if outcome.kind is not Kind.VALUE:
        return outcome._replace(plain=size)
    duration = outcome.duration * size / outcome.size
    return pack_plain(unpack_plain(outcome)[:size], duration)


_LENGTH = struct.Struct("<Q")


def pack_report(
    worker: str,
    outcomes: Sequence[Outcome],
    warned: Sequence[Warned] = (),
    printed: Chunk | None = None,
) -> bytes:
    """Join outcomes into one piece: header length, header, then the packed values."""
    header = pickle.dumps(
        (
            worker,
            [
                (int(o.kind), o.duration, len(o.packed), o.buffers, o.strings, o.plain)
                for o in outcomes
            ],
            list(map(tuple, warned)),
            None if printed is None else plain(printed),
        ),
        protocol=PROTOCOL,
    )
    return b"".join(
        [_LENGTH.pack(len(header)), header, *(outcome.packed for outcome in outcomes)]
    )


def unpack_report(packed: bytes) -> Report:
    """Split what `pack_report` joined, copying nothing and unpickling no value."""
    view = memoryview(packed)
    (length,) = _LENGTH.unpack_from(view)
    start = _LENGTH.size + length
    worker, rows, warned, printed = pickle.loads(view[_LENGTH.size : start])
    outcomes = []
    for kind, duration, size, *rest in rows:
        value = view[start : start + size]
        outcomes.append(Outcome(Kind(kind), duration, value, *rest))
        start += size
    return Report(
        worker,
        outcomes,
        tuple(Warned(*fields) for fields in warned),
        None if printed is None else chunk_of(printed),
    )


def pack_missing(missing: Missing) -> Outcome:
    """Make the outcome of a task that was not run for lack of its buffers."""
    return Outcome(Kind.MISSING, 0.0, pickle.dumps(tuple(missing), protocol=PROTOCOL))


def unpack_missing(outcome: Outcome) -> Missing:
    """Return what `pack_missing` was given."""
    return Missing(*pickle.loads(outcome.packed))


def pack_failure(error: BaseException, stage: Stage, worker: str) -> bytes:
    """Pack an exception, whatever it is made of; it loses its traceback."""
    story = _traceback_of(error)
    obstacle = ""
    exception: bytes | None = None
    try:
        _drop_tracebacks(error)
        exception = pack(error)
    except BaseException as reason:  # whatever the user's __reduce__ raises
        obstacle = f"{type(reason).__name__}: {text_of(reason)}"
    failure = (
        int(stage),
        exception,
        obstacle,
        f"{type(error).__module__}.{type(error).__qualname__}",
        text_of(error),
        story,
        worker,
        not isinstance(error, Exception),
    )
    return pickle.dumps(failure, protocol=PROTOCOL)


def _drop_tracebacks(error: BaseException) -> None:
    """Keep tracebacks out of the pickle of an exception and those it refers to.

    distributed has tblib pickle them, frame by frame: a thousand frames are more than
    a pickler can descend.
    """
    found: dict[int, BaseException] = {}
    left = [error]
    while left:
        current = left.pop()
        if id(current) not in found:
            found[id(current)] = current
            # Not by assignment, which a class of the user's may refuse.
            BaseException.with_traceback(current, None)
            # A group (Python 3.11) has its members, too.
            relatives = [current.__cause__, current.__context__]
            relatives.extend(getattr(current, "exceptions", ()))
            left.extend(e for e in relatives if isinstance(e, BaseException))


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(
            traceback.format_exception(type(error), error, error.__traceback__)
        )
    except BaseException:  # as above: formatting calls the user's __str__
        return "".join(traceback.format_tb(error.__traceback__))


def unpack_value(
    packed: bytes | memoryview,
    index: int,
    function: str,
    buffers: Sequence[Any] = (),
    strings: int = 0,
) -> Any:
    """Rebuild a task's result, of its pickle and its large buffers.

    Raises
    ------
    ResultTransferError
        If it cannot be rebuilt.
    """
    try:
        return unpack_apart(packed, buffers, strings)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ResultTransferError.of(
            index,
            function,
            "ran to its end, but its result could not be unpickled here: "
            f"{type(error).__name__}: {text_of(error)}. Most often the result's class "
            "cannot be imported here, or its __reduce__ and __setstate__ do not agree. "
            "Return plain data, or define the class in a module both sides have.",
        ) from error


def unpack_error(packed: bytes | memoryview, index: int, function: str) -> Exception:
    """Rebuild the exception that `Parallel` is to raise for a failed task."""
    stage, *rest = pickle.loads(packed)
    failure = Failure(Stage(stage), *rest)
    cause = RemoteTraceback(_story(failure, index, function))
    error = _rebuild(failure, index, function)
    with contextlib.suppress(Exception):  # a class of the user's may refuse it
        error.__cause__ = cause
    return error


def _rebuild(failure: Failure, index: int, function: str) -> Exception:
    if failure.stage is Stage.PACK_RESULT:
        return ResultTransferError.of(
            index,
            function,
            f"ran to its end on worker {failure.worker}, but its result could not be "
            f"pickled: {failure.type_name}: {failure.text}. Return data instead of "
            "handles such as locks, files, generators or connections.",
        )
    if failure.exits:
        return TaskExitError.of(
            index,
            function,
            f"raised {failure.type_name} ({failure.text!r}) on worker "
            f"{failure.worker}. Tasks cannot end the program: raise an ordinary "
            "exception, or return a value that says to stop.",
        )
    return _rebuild_users(failure, index, function)


def _rebuild_users(failure: Failure, index: int, function: str) -> Exception:
    reason = f"it could not be pickled on the worker: {failure.obstacle}"
    if failure.exception is not None:
        try:
            error = pickle.loads(failure.exception)
        except KeyboardInterrupt:
            raise
        except BaseException as obstacle:
            reason = (
                f"it could not be unpickled here: {type(obstacle).__name__}: "
                f"{text_of(obstacle)}"
            )
        else:
            if isinstance(error, Exception):
                _annotate(error, failure, index, function)
                return error
            reason = f"it unpickled as a {type(error).__name__}"
    return ErrorTransferError.of(
        index,
        function,
        f"raised {failure.type_name}: {failure.text} on worker {failure.worker}. The "
        f"exception itself could not be brought here ({reason}); its traceback "
        f"follows.\n\n{failure.traceback}",
    )


def _annotate(error: Exception, failure: Failure, index: int, function: str) -> None:
    """Say on the exception itself what its own text cannot."""
    if failure.stage is not Stage.RUN or _lacks_module(failure):
        # Notes came with Python 3.11, and a class of the user's may refuse them.
        with contextlib.suppress(Exception):
            error.add_note(  # type: ignore[attr-defined]
                _story(failure, index, function, with_traceback=False)
            )


def _lacks_module(failure: Failure) -> bool:
    return failure.type_name == "builtins.ModuleNotFoundError"


def _story(
    failure: Failure, index: int, function: str, with_traceback: bool = True
) -> str:
    if failure.stage is Stage.INITIALIZE:
        story = (
            f"Task {index} ({function}) was not run: the initializer= of its call has "
            f"failed on worker {failure.worker}: {failure.type_name}: {failure.text}."
        )
    elif failure.stage is Stage.UNPACK or _lacks_module(failure):
        unpacking = failure.stage is Stage.UNPACK
        story = (
            f"Task {index} ({function}) "
            f"{'could not be unpickled' if unpacking else 'failed'} on worker "
            f"{failure.worker}: {failure.type_name}: {failure.text}. If a module is "
            "missing, install it on every worker, in the version used here; one of your "
            "own is sent if modules=[...] names it, unless it has compiled parts."
        )
    else:
        story = f"Task {index} ({function}) failed on worker {failure.worker}."
    return f"{story}\n\n{failure.traceback}" if with_traceback else story
