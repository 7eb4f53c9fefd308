"""Objects as bytes and references to their large buffers.

The large pieces of data in an object, at any depth, stay out of its pickle: they are
handed over as buffers, to be stored or sent once however often they are used.

See Also
--------
joblib_distributed.data.store : where buffers lie.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import cloudpickle
import xxhash

from joblib_distributed.data.arrays import reduce_array

#: Pickle protocol of everything we send: the newest that Python 3.10 to 3.13 share.
PROTOCOL = 5

#: Persistent ids are ``(this, position)``, or of the type and place of large bytes.
_SCATTERED = "scattered"

_NOTHING: Mapping[int, int] = MappingProxyType({})


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves buffers of at least `least` bytes out, and lists them in `found`."""

    def __init__(self, file: io.BytesIO, least: int) -> None:
        super().__init__(file, protocol=PROTOCOL, buffer_callback=self._offer)
        self.found: list[memoryview] = []
        self._least = least

    def _offer(self, buffer: pickle.PickleBuffer) -> bool:
        """Return whether pickle is to keep the buffer in its own bytes."""
        view = buffer.raw()
        if view.nbytes < self._least:
            return True
        self.found.append(view)
        return False

    def reducer_override(self, value: Any) -> Any:
        """Have large arrays hand over their memory, also where numpy would copy it."""
        reduced = reduce_array(value, self._least)
        return super().reducer_override(value) if reduced is NotImplemented else reduced


class _AskedPickler(_Pickler):
    """Leaves large ``bytes`` and scattered objects out, too.

    Slower, as it is asked about every object.
    """

    def __init__(
        self, file: io.BytesIO, least: int, scattered: Mapping[int, int]
    ) -> None:
        super().__init__(file, least)
        self.large: list[memoryview] = []
        self._places: dict[int, int] = {}
        self.met: set[int] = set()
        self._scattered = scattered

    def persistent_id(self, value: Any) -> tuple[str, int] | None:
        """Refer to large bytes by their place in `large`, or to a scattered object."""
        scattered = self._scattered.get(id(value))
        if scattered is not None:
            self.met.add(scattered)
            return _SCATTERED, scattered
        if type(value) not in (bytes, bytearray) or len(value) < self._least:
            return None
        place = self._places.setdefault(id(value), len(self.large))
        if place == len(self.large):
            self.large.append(memoryview(value))
        return type(value).__name__, place


class _AskedUnpickler(pickle.Unpickler):
    def __init__(
        self,
        packed: bytes | memoryview,
        large: Sequence[Any],
        buffers: Sequence[Any],
        scattered: Callable[[int], object],
    ) -> None:
        super().__init__(io.BytesIO(packed), buffers=buffers)
        self._large = large
        self._loaded: dict[int, bytes | bytearray] = {}
        self._scattered = scattered

    def persistent_load(self, pid: tuple[str, int]) -> object:
        kind, place = pid
        if kind == _SCATTERED:
            return self._scattered(place)
        if place not in self._loaded:  # one object stays one
            made = bytearray if kind == "bytearray" else bytes
            self._loaded[place] = made(self._large[place])
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


def pack_apart(
    value: object, least: int | None, scattered: Mapping[int, int] = _NOTHING
) -> Apart:
    """Pickle any object without its large buffers.

    Parameters
    ----------
    value : object
    least : int or None
        Size in bytes from which a buffer is large; None if none is.
    scattered : mapping, optional
        Positions, by id, of the objects that are to be referred to rather than packed.
    """
    if not scattered:
        if least is None:
            return Apart(pack(value), ())
        file = io.BytesIO()
        pickler = _Pickler(file, least)
        pickler.dump(value)
        if file.tell() < least:
            return Apart(file.getvalue(), pickler.found)
        # What is large in there may be `bytes`, which pickle shows only to who asks.
    file = io.BytesIO()
    asked = _AskedPickler(file, sys.maxsize if least is None else least, scattered)
    asked.dump(value)
    return Apart(
        file.getvalue(),
        [*asked.large, *asked.found],
        len(asked.large),
        tuple(sorted(asked.met)),
    )


def unpack_apart(
    packed: bytes | memoryview,
    buffers: Sequence[Any],
    strings: int = 0,
    scattered: Callable[[int], object] | None = None,
) -> Any:
    """Rebuild what `pack_apart` took apart.

    Arrays are made of the buffers without a copy, and are read-only where those are.
    `scattered` returns the object at a position; needed if the pickle refers to any.
    """
    if strings or scattered is not None:
        large, rest = buffers[:strings], buffers[strings:]
        return _AskedUnpickler(packed, large, rest, scattered or _none_scattered).load()
    return pickle.loads(packed, buffers=buffers)


def _none_scattered(position: int) -> object:
    raise pickle.UnpicklingError(f"scattered object {position} did not come along")


def name_of(view: memoryview) -> str:
    """Name a buffer after its content: equal names, equal bytes.

    128 bits of xxh3 and the size. Not safe against somebody who looks for two contents
    of one name; whoever can send us data can run code anyway.
    """
    return f"{xxhash.xxh3_128_hexdigest(view)}-{view.nbytes}"


def size_of(name: str) -> int:
    """Return the size in bytes of the buffer with this name."""
    return int(name.rpartition("-")[2])
