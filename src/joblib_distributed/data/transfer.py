"""A buffer that comes to this host in chunks.

See Also
--------
joblib_distributed.worker.supplies : both ends of the way between two workers.
joblib_distributed.driver.supplier : the driver's end.
"""

from __future__ import annotations

import enum
import threading

from joblib_distributed.data.buffers import name_of, size_of
from joblib_distributed.data.host import HostStore
from joblib_distributed.data.mapping import map_file
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.writing import NoRoomError, Part

#: Bytes that travel at a time. Whoever relays them, the scheduler say, holds a few of
#: them for each transfer. A guess: 4 MiB cost much more than a message, about 1 ms, does.
CHUNK = 2**22

#: Seconds in which an answer about a chunk is expected: longer, and whoever was to send
#: or to take it counts as gone. A worker that died is noticed at once; this is for one
#: that is frozen. A guess: the driver's eight chunks at 3 Mbit/s.
CHUNK_TIMEOUT = 120.0

#: The same between two workers: less, so that the driver hears whose fault it was.
SOURCE_TIMEOUT = 60.0


class Arrival(str, enum.Enum):
    """What became of a chunk at the host that it was for."""

    #: More chunks are to come.
    PART = "part"
    #: It was the last one, and the buffer is there, as its name says.
    WHOLE = "whole"
    #: It was the last one, and the buffer is not what its name says.
    CORRUPT = "corrupt"
    NO_ROOM = "no room"
    #: Who was to give it did not.
    NO_SOURCE = "no source"
    #: It was expected by a process that is no more, or waited too long.
    UNEXPECTED = "unexpected"


def pieces(nbytes: int) -> list[tuple[int, int]]:
    """Return start and end, in bytes, of each chunk of a buffer."""
    return [(start, min(start + CHUNK, nbytes)) for start in range(0, nbytes, CHUNK)]


class Incoming:
    """A buffer some of whose chunks are here.

    Thread-safe.

    Parameters
    ----------
    store : HostStore
    name : str
        Of the buffer.

    Raises
    ------
    NoRoomError
        If no store of this host has room for it.
    """

    def __init__(self, store: HostStore, name: str) -> None:
        self.name = name
        self._part = _reserve(store, name)
        self._lock = threading.Lock()
        self._left = size_of(name)
        # While a chunk is written, the descriptor must stay that of this file.
        self._users = 0
        self._closed = False
        #: Once it is whole.
        self.buffer: Buffer | None = None

    def take(self, start: int, content: memoryview) -> Arrival:
        """Write a chunk to its place; each is to come once."""
        with self._lock:
            if self._closed:
                return Arrival.UNEXPECTED
            self._users += 1
        try:
            self._part.write(content, start)
            with self._lock:
                self._left -= content.nbytes
                if self._left:
                    return Arrival.PART
            return self._finish()
        finally:
            self._leave()

    def _finish(self) -> Arrival:
        view = map_file(self._part.descriptor, size_of(self.name))
        if name_of(view) != self.name:
            self.close()
            return Arrival.CORRUPT
        del view
        self.buffer = self._part.publish()
        self.close()
        # Unless it was evicted, or replaced by one of the same name, at once.
        return Arrival.WHOLE if self.buffer else Arrival.UNEXPECTED

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._closed and not self._users:
                self._part.close()

    def close(self) -> None:
        """Let go, once nothing is being written; what is not whole is removed."""
        with self._lock:
            self._closed = True
            if not self._users:
                self._part.close()


def _reserve(store: HostStore, name: str) -> Part:
    for one in store.stores:
        part = Part(one, name)
        try:
            part.reserve(size_of(name))
        except NoRoomError:
            part.close()
        except BaseException:
            part.close()
            raise
        else:
            return part
    raise NoRoomError(f"no store has room for {size_of(name)} bytes")
