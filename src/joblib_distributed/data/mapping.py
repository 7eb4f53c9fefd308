"""Files mapped into memory, without a file descriptor each.

Python's own `mmap` keeps a descriptor open for every mapping before 3.13; a call may
give thousands of large results, and a process may have a thousand descriptors.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref

_FAILED = ctypes.c_void_p(-1).value


def _prototypes() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


_libc = _prototypes()


def map_file(descriptor: int, nbytes: int, private: bool = False) -> memoryview:
    """Map a whole file; it is unmapped once nothing refers to the view or its slices.

    The mapping keeps the open file description, and with it any ``flock`` taken through
    it: also after the descriptor is closed, and no longer than the process lives.

    Parameters
    ----------
    descriptor : int
        Open for reading.
    nbytes : int
        Size of the file, at least 1.
    private : bool
        Whether the view is writable, to a copy of this process of the pages written.

    Returns
    -------
    memoryview
        Of bytes, aligned to a page.

    Raises
    ------
    OSError
        If the file cannot be mapped.
    """
    if _libc is None:
        access = mmap.ACCESS_COPY if private else mmap.ACCESS_READ
        return memoryview(mmap.mmap(descriptor, nbytes, access=access))
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if private else 0)
    flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
    address = _libc.mmap(None, nbytes, protection, flags, descriptor, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    owner = (ctypes.c_ubyte * nbytes).from_address(address)
    # Not at exit: views may still be in use while the interpreter ends.
    weakref.finalize(owner, _libc.munmap, address, nbytes).atexit = False
    view = memoryview(owner).cast("B")
    return view if private else view.toreadonly()
