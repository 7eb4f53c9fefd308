"""The user's own modules, as bytes.

See Also
--------
joblib_distributed.driver.own_modules : which they are.
joblib_distributed.worker.importing : imports them.
"""

from __future__ import annotations

import hashlib
import pickle
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from joblib_distributed.data.buffers import PROTOCOL


class Source(NamedTuple):
    """The source of one module."""

    #: Its name, with those of the packages that it is in.
    name: str
    is_package: bool
    #: Where the driver has it.
    filename: str
    text: bytes

    def is_same(self, other: Source) -> bool:
        """Whether it is the same code, wherever each was found."""
        return (self.is_package, self.text) == (other.is_package, other.text)


class Modules(NamedTuple):
    """Where a worker finds the sources that its batch may need."""

    #: What tells them from any others, and their name in the store; empty for none.
    name: str = ""
    #: Of the process whose they are; see `data.process`.
    process: bytes = b""
    #: The packed sources themselves, if no store has them.
    content: bytes = b""


def pack_sources(sources: Iterable[Source]) -> bytes:
    """Pack sources; the same bytes for the same ones."""
    rows = sorted(tuple(source) for source in sources)
    return zlib.compress(pickle.dumps(rows, protocol=PROTOCOL), 1)


def unpack_sources(packed: bytes | memoryview) -> Mapping[str, Source]:
    """Return what `pack_sources` was given, by name."""
    rows = pickle.loads(zlib.decompress(packed))
    return {row[0]: Source(*row) for row in rows}


def name_of(packed: bytes) -> str:
    """Return what tells packed sources from others, where no store names them."""
    return hashlib.blake2b(packed, digest_size=16).hexdigest()
