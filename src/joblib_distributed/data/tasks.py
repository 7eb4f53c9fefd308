"""What a task is when it is packed, and what it refers to.

Tasks whose arguments are plain values, numbers and short texts, are thousands a call, and
take less time to run than a pickler takes to start. Nothing can go wrong with such an
argument, and nobody can change it: neighbours are kept as they are, and packed together
whenever they are sent.

See Also
--------
joblib_distributed.data.payload : packs them.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

from joblib_distributed.data.buffers import PROTOCOL
from joblib_distributed.data.store import Buffer


class References(NamedTuple):
    """What a pickle refers to."""

    #: Of buffers, in the order in which it does.
    names: tuple[str, ...]
    #: How many of the first are whole ``bytes`` objects.
    strings: int
    #: Positions of scattered objects, and of inputs.
    scattered: tuple[int, ...]
    inputs: tuple[int, ...] = ()


class Shared(NamedTuple):
    """A pickle's buffers as the driver has them: stored, and in use while it is."""

    buffers: tuple[Buffer, ...] = ()
    strings: int = 0
    scattered: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()

    @property
    def references(self) -> References:
        """What the worker is told of them."""
        names = tuple(buffer.name for buffer in self.buffers)
        return References(names, self.strings, self.scattered, self.inputs)


NOTHING_SHARED = Shared()


class Scattered(NamedTuple):
    """An object of ``scatter=``, packed once for the whole call."""

    #: Empty if the pickle is large: it is then the first buffer.
    packed: bytes
    shared: Shared
    #: What `buffers.seal` said of it then; empty if it is not.
    seal: bytes = b""


class Sharing(NamedTuple):
    """How large data is shared; what the worker is told of it."""

    #: Size in bytes from which a buffer is shared.
    least: int
    #: joblib's: ``"r"``, ``"c"`` or None.
    mmap_mode: str | None
    #: joblib's folder for the store, if the user named one.
    temp_folder: str | None
    #: Identity of the driver's store, and the name under which it wants results there.
    host: str
    owner: str


@dataclasses.dataclass(frozen=True, slots=True)
class PackedTask:
    """One task, ready to be sent any number of times."""

    #: Position in the call, from 0.
    index: int
    #: Name of the function, for people.
    name: str
    #: Digest of `function`.
    function_key: bytes
    #: Pickle of the function, the same object for all tasks that share it.
    function: bytes
    #: Pickle of ``(args, kwargs)``.
    arguments: bytes
    #: Large buffers of the arguments, and of the function.
    shared: Shared = NOTHING_SHARED
    function_shared: Shared = NOTHING_SHARED

    @property
    def size(self) -> int:
        """Number of tasks."""
        return 1

    @property
    def plain(self) -> int:
        """Number of plain tasks."""
        return 0

    @property
    def nbytes(self) -> int:
        """Size of the packed arguments in bytes."""
        return len(self.arguments)

    def part(self, start: int, size: int) -> PackedTask:
        """Return the only part there is."""
        assert (start, size) == (0, 1), "a task has no parts"
        return self


#: Types of which an argument, or a result, is plain. Their values cannot be changed, they
#: always pickle and unpickle, and that runs no code of the user's.
PLAIN = frozenset({int, float, complex, bool, type(None), str})

#: Those that need no further look.
PLAIN_NUMBERS = PLAIN - {str}

#: Characters of a text that is plain, at most. A guess: far below what is worth sharing.
PLAIN_TEXT = 1000

#: Of how many plain tasks the size is looked at. A guess.
_SAMPLE = 8


def is_plain(value: object) -> bool:
    """Whether a value can be packed together with those of other tasks."""
    kind = type(value)
    return kind in PLAIN and (kind is not str or len(value) <= PLAIN_TEXT)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, slots=True)
class PlainTasks:
    """Neighbours in a call: tasks of one function, whose arguments are plain."""

    #: Position of the first in the call, from 0.
    index: int
    #: The function, as in a `PackedTask`.
    name: str
    function_key: bytes
    function: bytes
    #: Arguments of each, all by position.
    calls: Sequence[tuple[Any, ...]]
    function_shared: Shared = NOTHING_SHARED

    @property
    def size(self) -> int:
        """Number of tasks."""
        return len(self.calls)

    @property
    def plain(self) -> int:
        """Number of plain tasks."""
        return len(self.calls)

    @property
    def nbytes(self) -> int:
        """Size of the packed arguments in bytes, about: that of a few times all."""
        sample = self.calls[:: len(self.calls) // _SAMPLE + 1]
        nbytes = len(pickle.dumps(sample, protocol=PROTOCOL))
        return nbytes * len(self.calls) // max(1, len(sample))

    @property
    def arguments(self) -> bytes:
        """Pickle of `calls`."""
        return pickle.dumps(self.calls, protocol=PROTOCOL)

    @property
    def shared(self) -> Shared:
        """Large buffers of the arguments: none."""
        return NOTHING_SHARED

    def part(self, start: int, size: int) -> PlainTasks:
        """Return some of the tasks, counted from the first."""
        calls = self.calls[start : start + size]
        return dataclasses.replace(self, index=self.index + start, calls=calls)


#: What is dispatched, sent and delivered: a task, or neighbours that can be parted.
Tasks = PackedTask | PlainTasks
