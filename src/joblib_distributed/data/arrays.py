"""Large numpy arrays that numpy itself pickles in-band.

Pickle protocol 5 hands over the memory of an ordinary array as it is. Of others, numpy
copies the bytes into the pickle: dates, strided views, memory maps, matrices, records,
masked arrays. `reduce_array` pickles those as a buffer and what it takes to rebuild
them.

Imports numpy only where it is in use already.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

#: Subclasses that are views of an array and nothing more, by name in their module.
_VIEWS = ("matrix", "recarray")


def reduce_array(value: Any, least: int) -> Any:
    """Return how to pickle an array of at least `least` bytes out of band.

    Returns
    -------
    tuple or NotImplemented
        As of ``__reduce__``; NotImplemented where the usual way is as good or the only
        one.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray):
        return NotImplemented
    if value.nbytes < least or value.dtype.hasobject:
        return NotImplemented
    kind = type(value)
    if kind is numpy.ma.MaskedArray:
        return _rebuild_masked, (
            value.data,
            value.mask,
            value.fill_value,
            value.hardmask,
        )
    contiguous = value.flags.c_contiguous or value.flags.f_contiguous
    if kind is numpy.ndarray and contiguous and value.dtype.kind not in "mM":
        return NotImplemented
    if kind is numpy.ndarray or kind is numpy.memmap:
        kind_name = ""
    elif any(kind is getattr(numpy, name) for name in _VIEWS):
        kind_name = kind.__name__
    else:
        return NotImplemented
    plain = numpy.asarray(value)
    order = "F" if plain.flags.f_contiguous and not plain.flags.c_contiguous else "C"
    if not contiguous:
        plain = numpy.ascontiguousarray(plain)
    raw = plain.ravel(order).view(numpy.uint8)
    buffer = pickle.PickleBuffer(raw)
    return _rebuild, (buffer, plain.dtype, plain.shape, order, kind_name)


def _rebuild(
    buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any, kind_name: str
) -> Any:
    numpy = sys.modules["numpy"]  # the dtype has imported it
    array: Any = numpy.ndarray(shape, dtype, buffer=buffer, order=order)
    return array.view(getattr(numpy, kind_name)) if kind_name else array


def _rebuild_masked(data: Any, mask: Any, fill_value: Any, hard: bool) -> Any:
    numpy = sys.modules["numpy"]
    return numpy.ma.MaskedArray(data, mask, fill_value=fill_value, hard_mask=hard)
