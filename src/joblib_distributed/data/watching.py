"""Names of buffers, without reading again what was not written to.

A buffer is named by a hash of its content, for every task that takes it: 15 ms for 256
MB. Linux can tell whether memory was written to since it was last asked: pages are
protected, and the first write to each notes that, without asking anybody. A buffer that
is named a second time is watched from then on, and its name stands while no page of it
was written to.

Races, and what settles them
----------------------------
- *A write while the hash is made*: 1. pages are protected; 2. they are hashed. What is
  written after 1 is noticed the next time, so a hash of torn content is not used twice.
- *Memory is given back and used for another array*: names belong to addresses, not to
  objects. The new content was written, which is noticed; a new mapping is not watched,
  which is noticed, too.
- *Two buffers have pages in common*: asking protects pages again, so that what was
  written is told once; the other buffer's record is told then, too.
- *Memory that others can write to*: files and shared memory are not watched. What a
  device writes, a graphics card say, goes past the protection of pages: a process that
  has mapped a device watches nothing.

Where the system cannot do this (Linux before 6.7, other systems, a container that forbids
``userfaultfd``), every buffer is read every time.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import struct
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from joblib_distributed.data.buffers import name_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Bytes from which a buffer is watched: for less, reading it takes 0.1 ms. A guess.
LEAST = 2**22

#: How many buffers are remembered. Each that is watched takes two of the 65530 mappings
#: that a process may have. A guess.
REMEMBERED = 256

#: How often a watched buffer may be found written to before it is left alone: a write to
#: a protected page takes half a microsecond, 30 ms for 256 MB. A guess.
WRITES_ALLOWED = 2

#: Seconds between two looks at which devices are mapped; one takes about 1 ms. A guess.
LOOK_INTERVAL = 1.0

#: What lies below ``/dev`` and is memory.
_MEMORY = ("/dev/shm/", "/dev/zero", "/dev/hugepages/")

#: Number of the system call, by machine.
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}

# Of <linux/userfaultfd.h>.
_USER_MODE_ONLY = 1
_API = 0xAA
_WP_UNPOPULATED, _WP_ASYNC = 1 << 13, 1 << 15
_MODE_WP = 2

# Of <linux/fs.h>: pages of a range that were written to or are a file's, protecting again
# those that were written to, if all of the range is watched.
_SCAN_WP_MATCHING, _SCAN_CHECK_WPASYNC = 1, 2
_IS_WRITTEN, _IS_FILE = 1 << 1, 1 << 2


def _request(kind: int, number: int, size: int, write: bool = True) -> int:
    """Make the number of an ``ioctl``, as ``_IOWR`` and ``_IOR`` do."""
    return ((3 if write else 2) << 30) | (size << 16) | (kind << 8) | number


_UFFDIO_API = _request(_API, 0x3F, 24)
_UFFDIO_REGISTER = _request(_API, 0x00, 32)
_UFFDIO_UNREGISTER = _request(_API, 0x01, 16, write=False)
_PAGEMAP_SCAN = _request(ord("f"), 16, 96)


#: Makes the name of a buffer.
NameIt = Callable[[memoryview], str]


class _Watch:
    """The system's means to tell whether memory of this process was written to.

    Raises
    ------
    OSError
        If it has none.
    """

    def __init__(self) -> None:
        number = _USERFAULTFD.get(platform.machine())
        if sys.platform != "linux" or number is None:
            raise OSError("no userfaultfd")
        libc = ctypes.CDLL(None, use_errno=True)
        flags = os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY
        self._faults = libc.syscall(number, flags)
        if self._faults < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        self._pages = -1
        try:
            features = _WP_ASYNC | _WP_UNPOPULATED
            self._tell(_UFFDIO_API, struct.pack("3Q", _API, features, 0))
            self._pages = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            self._try()
        except BaseException:
            self.close()
            raise

    def _try(self) -> None:
        """Make sure that a write is noticed, and no write is not."""
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, 2 * mmap.PAGESIZE, flags=private)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        memory[0] = 1
        pages = start, start + len(memory)
        self.begin(*pages)
        self.was_written(*pages)
        before = self.was_written(*pages)
        memory[mmap.PAGESIZE] = 1
        after = self.was_written(*pages)
        if (before, after) != (False, True):
            raise OSError("writes are not noticed")

    def _tell(self, request: int, argument: bytes) -> None:
        fcntl.ioctl(self._faults, request, bytearray(argument))

    def begin(self, first: int, end: int) -> None:
        """Watch whole pages, from one address up to another.

        Raises
        ------
        OSError
            If it is of a kind that cannot be watched.
        """
        self._tell(_UFFDIO_REGISTER, struct.pack("4Q", first, end - first, _MODE_WP, 0))

    def end(self, first: int, end: int) -> None:
        """Watch it no more."""
        with contextlib.suppress(OSError):  # it may be unmapped
            self._tell(_UFFDIO_UNREGISTER, struct.pack("2Q", first, end - first))

    def was_written(self, first: int, end: int) -> bool:
        """Whether a range may have been written to since this was last asked."""
        is_clean = True
        while first < end:
            found, first = self._scan(first, end)
            is_clean = is_clean and not found
        return not is_clean

    def _scan(self, first: int, end: int) -> tuple[int, int]:
        """Return how many stretches were found, and where the scan ended."""
        found = (ctypes.c_uint64 * 3 * 16)()
        masks = (0, _IS_WRITTEN | _IS_FILE, _IS_WRITTEN | _IS_FILE)
        how = _SCAN_WP_MATCHING | _SCAN_CHECK_WPASYNC
        argument = bytearray(
            struct.pack(
                "12Q",
                *(96, how, first, end, 0, ctypes.addressof(found), len(found), 0),
                *(0, *masks),
            )
        )
        number = fcntl.ioctl(self._pages, _PAGEMAP_SCAN, argument)
        return number, struct.unpack("12Q", argument)[4]

    def close(self) -> None:
        """Watch nothing any more."""
        for descriptor in (self._faults, self._pages):
            if descriptor >= 0:
                os.close(descriptor)
        self._faults = self._pages = -1


class _Record:
    """What is known of a range of memory.

    Parameters
    ----------
    view : memoryview
    start : int
        Its address.
    """

    def __init__(self, view: memoryview, start: int, name_it: NameIt) -> None:
        # Of whole pages: the first and the last it may share with others, such as the
        # head of its own object, which are written to all the time.
        self.first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        self.end = (start + view.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        self._head = self.first - start
        self._tail = self.end - start
        self.is_watched = False
        self.writes = 0
        self.renew(view, name_it)

    def renew(self, view: memoryview, name_it: NameIt) -> None:
        """Make the name anew; protect pages before."""
        self.edges = self._edges_of(view)
        self.name = name_it(view)
        self.stands = True

    def _edges_of(self, view: memoryview) -> bytes:
        return bytes(view[: self._head]) + bytes(view[self._tail :])

    def has_edges_of(self, view: memoryview) -> bool:
        """Whether what is not on whole pages is as it was."""
        return self._edges_of(view) == self.edges

    def overlaps(self, other: _Record) -> bool:
        """Whether they have pages in common."""
        return self.first < other.end and other.first < self.end


def _has_device() -> bool:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        return any(
            " /dev/" in line and not line.split(None, 5)[5].startswith(_MEMORY)
            for line in maps
        )


class Names:
    """Names of the buffers of this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._watch = _start()
        self._records: OrderedDict[tuple[int, int], _Record] = OrderedDict()
        self._has_device = False
        self._next_look = 0.0

    @property
    def can_watch(self) -> bool:
        """Whether the system can tell what was written to."""
        return self._watch is not None

    def name_of(self, view: memoryview, name_it: NameIt | None = None) -> str:
        """Return what `buffers.name_of` does.

        Parameters
        ----------
        view : memoryview
        name_it : callable, optional
            Makes the name, if that has to be; `buffers.name_of` by default.
        """
        name_it = name_it or name_of
        # A fork has the memory, and the records, but nothing is watched there.
        if (
            self._watch is None
            or view.nbytes < LEAST
            or self._process != os.getpid()
            or not view.contiguous
            or self._sees_device()
        ):
            return name_it(view)
        with self._lock:
            return self._look(self._watch, view, _address_of(view), name_it)

    def _sees_device(self) -> bool:
        """Whether this process has mapped a device; looks again after a while."""
        now = time.monotonic()
        if now > self._next_look:
            self._next_look = now + LOOK_INTERVAL
            try:
                self._has_device = _has_device()
            except OSError:  # no descriptors are left: it may have one
                self._has_device = True
        return self._has_device

    def _look(self, watch: _Watch, view: memoryview, start: int, name_it: NameIt) -> str:
        key = start, view.nbytes
        record = self._records.pop(key, None)
        if record is None:
            record = _Record(view, start, name_it)
        elif not self._stands(watch, record, view):
            record.renew(view, name_it)
        self._records[key] = record
        if len(self._records) > REMEMBERED:
            self._leave(watch, self._records.popitem(last=False)[1])
        return record.name

    def _stands(self, watch: _Watch, record: _Record, view: memoryview) -> bool:
        """Whether nothing was written since the name was made; watch from now on."""
        if record.writes > WRITES_ALLOWED:
            return False
        was_watched = record.is_watched
        try:
            if not was_watched:
                watch.begin(record.first, record.end)
                record.is_watched = True
            was_written = watch.was_written(record.first, record.end)
        except OSError:  # memory of another kind, or mapped anew
            self._leave(watch, record)
            self._tell_others(record)  # it may have got half-way
            record.writes += 1
            return False
        if was_written:
            self._tell_others(record)
        if was_watched and was_written:
            record.writes += 1
            if record.writes > WRITES_ALLOWED:
                self._leave(watch, record)
        return (
            was_watched
            and not was_written
            and record.stands
            and record.has_edges_of(view)
        )

    def _tell_others(self, record: _Record) -> None:
        """Note for others with the same pages what they will not be told any more."""
        for other in self._records.values():
            if other.overlaps(record):
                other.stands = False

    def _leave(self, watch: _Watch, record: _Record) -> None:
        if record.is_watched:
            watch.end(record.first, record.end)
            record.is_watched = False


def _address_of(view: memoryview) -> int:
    """Return where a buffer lies, also one that may not be written to."""
    buffer = _PyBuffer()
    _api.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    try:
        return int(buffer.buf or 0)
    finally:
        _api.PyBuffer_Release(ctypes.byref(buffer))


class _PyBuffer(ctypes.Structure):
    """``Py_buffer``; with some room behind it."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("rest", ctypes.c_char * 256),
    )


_api = ctypes.pythonapi
_api.PyObject_GetBuffer.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
_api.PyBuffer_Release.argtypes = [ctypes.c_void_p]


def _start() -> _Watch | None:
    try:
        return _Watch()
    except OSError:
        return None


_lock = threading.Lock()
_names: Names | None = None


def names() -> Names:
    """Return the names of this process's buffers."""
    global _names
    with _lock:
        if _names is None:
            _names = Names()
        return _names
