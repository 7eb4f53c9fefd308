"""Objects as bytes and references to their large buffers.

The large pieces of data in an object, at any depth, stay out of its pickle: they are
handed over as buffers, to be stored or sent once however often they are used.

See Also
--------
joblib_distributed.data.store : where buffers lie.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import pickle
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import cloudpickle

from joblib_distributed.data.arrays import nbytes_of, reduce_array, reduce_arrow

try:
    import xxhash
except ImportError:  # a worker that this package was sent to
    xxhash = None  # type: ignore[assignment]

#: Pickle protocol of everything we send: the newest that Python 3.10 to 3.13 share.
PROTOCOL = 5

#: Persistent ids are ``(one of these, position)``; of large bytes, type, place and seal.
_SCATTERED = "scattered"
_INPUT = "input"

#: Tells where an object is referred to; None if it is to be packed.
Positions = Callable[[Any], "int | None"]

#: Bytes of a buffer that is worth being sent once, rather than with each task that has
#: it, though it is not large: of a search whose fits each have 0.9 MB, that saved driver
#: and workers 9 ms for each fit, measured. A guess.
LEAST_AGAIN = 2**16

#: How many of these are remembered. A guess.
_REMEMBERED = 1000

_NOTHING: Mapping[int, int] = MappingProxyType({})


class _InputFound(Exception):  # noqa: N818 - no error
    """There is an input in what is pickled."""


class Again:
    """Knows which buffers have come before, of those that are not large.

    By their content: what is made anew for each task, or has changed, comes for the first
    time.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._now: list[str] = []

    def has_come(self, view: memoryview) -> bool:
        """Whether a buffer has come with something else before."""
        if view.nbytes < LEAST_AGAIN:
            return False
        name = name_of(view)
        if name in self._seen:
            self._seen.move_to_end(name)
            return True
        self._now.append(name)
        return False

    def settle(self) -> None:
        """Take note that what was asked about has come."""
        self._seen.update(dict.fromkeys(self._now))
        self._now.clear()
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)


class EveryTime(Again):
    """Says of all buffers that are not small that they have come before."""

    def has_come(self, view: memoryview) -> bool:
        """Whether a buffer is not small."""
        return view.nbytes >= LEAST_AGAIN


def _offer(
    found: list[memoryview], least: int, again: Again | None, buffer: pickle.PickleBuffer
) -> bool:
    """Return whether pickle is to keep a buffer in its own bytes."""
    view = buffer.raw()
    if view.nbytes < least and (again is None or not again.has_come(view)):
        return True
    found.append(view)
    return False


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves buffers of at least `least` bytes out, and lists them in `found`."""

    def __init__(
        self, file: io.BytesIO, least: int, inputs: Positions, again: Again | None
    ) -> None:
        self.found: list[memoryview] = []
        # No method: in a cycle with itself, a pickler would keep what it has pickled.
        offer = functools.partial(_offer, self.found, least, again)
        super().__init__(file, protocol=PROTOCOL, buffer_callback=offer)
        self._least = least
        self._inputs = inputs
        self._again = again

    def reducer_override(self, value: Any) -> Any:
        """Have large arrays hand over their memory, also where numpy would copy it.

        Raises
        ------
        _InputFound
            If `value` is to be referred to: this pickler cannot.
        """
        if self._inputs(value) is not None:
            raise _InputFound
        reduced = reduce_array(value, self._least)
        if reduced is NotImplemented and self._again is not None:
            reduced = self._reduce_again(value, self._again)
        if reduced is NotImplemented:
            reduced = reduce_arrow(value, self._least)
        return super().reducer_override(value) if reduced is NotImplemented else reduced

    def _reduce_again(self, value: Any, again: Again) -> Any:
        """Have an array that comes again hand over the memory that numpy would copy.

        Of those alone that are rebuilt as numpy would: of its own class, and writable.
        """
        if not LEAST_AGAIN <= nbytes_of(value) < self._least:
            return NotImplemented
        reduced = reduce_array(value, LEAST_AGAIN)
        if reduced is NotImplemented or not again.has_come(reduced[1][0].raw()):
            return NotImplemented
        return reduced


class _AskedPickler(_Pickler):
    """Leaves large ``bytes``, scattered objects and inputs out, too.

    Slower, as it is asked about every object.
    """

    def __init__(
        self,
        file: io.BytesIO,
        least: int,
        scattered: Mapping[int, int],
        inputs: Positions,
        again: Again | None,
    ) -> None:
        super().__init__(file, least, inputs, again)
        self.large: list[memoryview] = []
        self._places: dict[int, tuple[str, int, bytes]] = {}
        self.scattered: set[int] = set()
        self.inputs: set[int] = set()
        self._scattered = scattered

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        """Refer to scattered objects and inputs, and to large bytes by their place."""
        scattered = self._scattered.get(id(value))
        if scattered is not None:
            self.scattered.add(scattered)
            return _SCATTERED, scattered
        given = self._inputs(value)
        if given is not None:
            self.inputs.add(given)
            return _INPUT, given
        if type(value) not in (bytes, bytearray) or len(value) < self._least:
            return None
        if id(value) not in self._places:
            place = type(value).__name__, len(self.large), _seal_of(value)
            self._places[id(value)] = place
            self.large.append(memoryview(value))
        return self._places[id(value)]


class _AskedUnpickler(pickle.Unpickler):
    def __init__(
        self,
        packed: bytes | memoryview,
        large: Sequence[Any],
        buffers: Sequence[Any],
        scattered: Callable[[int], object],
        inputs: Mapping[int, object],
    ) -> None:
        super().__init__(io.BytesIO(packed), buffers=buffers)
        self._inputs = inputs
        self._large = large
        self._loaded: dict[int, bytes | bytearray] = {}
        self._scattered = scattered

    def persistent_load(self, pid: tuple[Any, ...]) -> object:
        kind, place, *sealed = pid
        if kind == _SCATTERED:
            return self._scattered(place)
        if kind == _INPUT:
            return self._inputs[place]
        if place not in self._loaded:  # one object stays one
            made = bytearray if kind == "bytearray" else bytes
            self._loaded[place] = copied = made(self._large[place])
            check(copied, *sealed)  # whoever owns it may unpickle it
        return self._loaded[place]


def pack(value: object) -> bytes:
    """Pickle any object, also what only exists in the caller's ``__main__``."""
    return bytes(cloudpickle.dumps(value, protocol=PROTOCOL))


class Apart(NamedTuple):
    """An object as a pickle and the large buffers that it refers to."""

    packed: bytes
    #: Of bytes; the memory of the objects themselves.
    buffers: Sequence[memoryview]
    #: How many of the first of them are whole ``bytes`` or ``bytearray`` objects.
    strings: int = 0
    #: Positions of the scattered objects that it refers to.
    scattered: tuple[int, ...] = ()
    #: Positions of the inputs that it refers to.
    inputs: tuple[int, ...] = ()


def no_input(value: object) -> int | None:  # noqa: ARG001
    """Say of no object that it is an input."""
    return None


def pack_apart(
    value: object,
    least: int | None,
    scattered: Mapping[int, int] = _NOTHING,
    inputs: Positions = no_input,
    again: Again | None = None,
) -> Apart:
    """Pickle any object without its large buffers.

    Parameters
    ----------
    value : object
    least : int or None
        Size in bytes from which a buffer is large; None if none is.
    scattered : mapping, optional
        Positions, by id, of the objects that are to be referred to rather than packed.
    inputs : callable, optional
        Returns the position of an object that is the engine's to bring, None for others.
    again : Again, optional
        Has buffers that come again and again be handed over, too, though not large.
    """
    most = sys.maxsize if least is None else least
    if not scattered:
        with contextlib.suppress(_InputFound):
            file = io.BytesIO()
            pickler = _Pickler(file, most, inputs, again)
            pickler.dump(value)
            if file.tell() < most:
                return Apart(file.getvalue(), pickler.found)
            # What is large in there may be `bytes`, which pickle shows to who asks.
    file = io.BytesIO()
    asked = _AskedPickler(file, most, scattered, inputs, again)
    asked.dump(value)
    return Apart(
        file.getvalue(),
        [*asked.large, *asked.found],
        len(asked.large),
        tuple(sorted(asked.scattered)),
        tuple(sorted(asked.inputs)),
    )


def unpack_apart(
    packed: bytes | memoryview,
    buffers: Sequence[Any],
    strings: int = 0,
    scattered: Callable[[int], object] | None = None,
    inputs: Mapping[int, object] = _NOTHING,
) -> Any:
    """Rebuild what `pack_apart` took apart.

    Arrays are made of the buffers without a copy, and are read-only where those are.
    `scattered` returns the object at a position, `inputs` has them; needed if the pickle
    refers to any.
    """
    if strings or scattered is not None or inputs:
        return _AskedUnpickler(
            packed,
            buffers[:strings],
            buffers[strings:],
            scattered or _none_scattered,
            inputs,
        ).load()
    return pickle.loads(packed, buffers=buffers)


def _none_scattered(position: int) -> object:
    raise pickle.UnpicklingError(f"scattered object {position} did not come along")


def seal(content: bytes | bytearray) -> bytes:
    """Return what tells bytes from any that somebody else may put in their place."""
    return hashlib.sha256(content).digest()


#: Seals that are remembered: the same content goes to many tasks. A guess.
_SEALS = 64

_seals: dict[str, bytes] = {}
_seals_lock = threading.Lock()


def _seal_of(content: bytes | bytearray) -> bytes:
    """Return a seal, looked up by name: SHA-256 takes ten times as long, measured."""
    name = name_of(memoryview(content))
    with _seals_lock:
        found = _seals.get(name)
    if found is None:
        found = seal(content)
        with _seals_lock:
            _seals[name] = found
            if len(_seals) > _SEALS:
                del _seals[next(iter(_seals))]
    return found


def unseal(stored: memoryview, seal: bytes) -> bytes:
    """Return a pickle that has lain in a store, if it is the one that was sealed.

    Raises
    ------
    pickle.UnpicklingError
        If it is not.
    """
    packed = bytes(stored)  # a copy: the file may change after it was looked at
    check(packed, seal)
    return packed


def check(copied: bytes | bytearray, sealed: bytes) -> None:
    """Make sure that bytes which have lain in a store are those that were sealed.

    The seal comes over the cluster's own connections; whoever writes to a store, which
    they do not guard, can change data but not have code run.

    Raises
    ------
    pickle.UnpicklingError
        If they are not.
    """
    if seal(copied) != sealed:
        raise pickle.UnpicklingError(
            f"an object of {len(copied)} bytes, in a file of the host's store, is not "
            "what was put there: another program of this user, or root, has written to "
            "the folder joblib-distributed-UID in /dev/shm or in temp_folder; or another "
            "thread has changed a bytearray while it was packed. Find out which, remove "
            "the folder, and call again."
        )


def name_of(view: memoryview) -> str:
    """Name a buffer after its content: equal names, equal bytes.

    128 bits of xxh3 and the size. Where that is not installed, of BLAKE2: the same
    content then has two names, if hosts of both kinds name it. Not safe against somebody
    who looks for two contents of one name: buffers are data, and a pickle that lies in
    one is sealed.
    """
    digest = Digest()
    digest.update(view)
    return digest.name


class Digest:
    """The name of a buffer that comes in pieces."""

    def __init__(self) -> None:
        self._hash: Any = hashlib.blake2b(digest_size=16)
        self._prefix = "b"
        if xxhash is not None:
            self._hash, self._prefix = xxhash.xxh3_128(), ""
        self._nbytes = 0

    def update(self, piece: memoryview) -> None:
        """Add the next piece."""
        self._hash.update(piece)
        self._nbytes += piece.nbytes

    @property
    def name(self) -> str:
        """What `name_of` returns for all of them together."""
        return f"{self._prefix}{self._hash.hexdigest()}-{self._nbytes}"


def size_of(name: str) -> int:
    """Return the size in bytes of the buffer with this name."""
    return int(name.rpartition("-")[2])
