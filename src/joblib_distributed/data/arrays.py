"""Large arrays that do not pickle as their own memory, and no more.

Pickle protocol 5 hands over the memory of an ordinary array as it is. Of others, numpy
copies the bytes into the pickle: dates, strided views, memory maps, matrices, records,
masked arrays, subclasses of the user's. `reduce_array` pickles those as a buffer and
what it takes to rebuild them.

A slice of a pyarrow table or array hands over all of the memory that it is a slice of;
`reduce_arrow` copies what belongs to it.

Imports numpy and pyarrow only where they are in use already.
"""

from __future__ import annotations

import copyreg
import importlib
import pickle
import sys
from typing import Any

#: The share of a pyarrow object's memory, at least, that is handed over as it is. A
#: guess: a copy costs more than a few bytes more.
_OWN_SHARE = 0.9

#: Subclasses that are views of an array and nothing more, by name in their module.
_VIEWS = ("matrix", "recarray")

#: Methods that pickle an array, and make it of that.
_PICKLED_BY = ("__reduce__", "__reduce_ex__", "__setstate__")


def nbytes_of(value: Any) -> int:
    """Return the bytes of an ordinary array that is writable; 0 of anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray or not value.flags.writeable:
        return 0
    return int(value.nbytes)


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
    contiguous = value.flags.c_contiguous or value.flags.f_contiguous
    if kind is numpy.ndarray and contiguous and not _has_dates(value.dtype):
        return NotImplemented
    # As an attribute of numpy it would be imported, which takes 15 ms.
    masked = sys.modules.get("numpy.ma")
    if masked is not None and kind is masked.MaskedArray:
        return _rebuild_masked, (
            value.data,
            value.mask,
            value.fill_value,
            value.hardmask,
        )
    made_as: str | type = ""
    if any(kind is getattr(numpy, name) for name in _VIEWS):
        made_as = kind.__name__
    elif kind is not numpy.ndarray and kind is not numpy.memmap:
        if not _pickles_as_array(kind):
            return NotImplemented
        made_as = kind
    plain = numpy.asarray(value)
    order = "F" if plain.flags.f_contiguous and not plain.flags.c_contiguous else "C"
    if not contiguous:
        plain = numpy.ascontiguousarray(plain)
    raw = plain.ravel(order).view(numpy.uint8)
    buffer = pickle.PickleBuffer(raw)
    return _rebuild, (buffer, plain.dtype, plain.shape, order, made_as)


def _has_dates(dtype: Any) -> bool:
    """Whether there are dates or durations in it, which have no buffer protocol."""
    if dtype.subdtype is not None:
        return _has_dates(dtype.subdtype[0])
    fields = dtype.fields or {}
    return dtype.kind in "mM" or any(_has_dates(field) for field, *_ in fields.values())


def _pickles_as_array(kind: Any) -> bool:
    """Whether a subclass is pickled by numpy's own methods, as its data and no more."""
    array = sys.modules["numpy"].ndarray
    return kind not in copyreg.dispatch_table and all(
        getattr(kind, name) is getattr(array, name) for name in _PICKLED_BY
    )


def _rebuild(
    buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any, made_as: str | type
) -> Any:
    """Make an array of a class that is given, or of numpy's with this name."""
    numpy = sys.modules["numpy"]  # the dtype has imported it
    if isinstance(made_as, type):
        # Not as a view: for the class it comes from nowhere, as when numpy unpickles it.
        return numpy.ndarray.__new__(made_as, shape, dtype, buffer=buffer, order=order)
    array: Any = numpy.ndarray(shape, dtype, buffer=buffer, order=order)
    return array.view(getattr(numpy, made_as)) if made_as else array


def _rebuild_masked(data: Any, mask: Any, fill_value: Any, hard: bool) -> Any:
    numpy = sys.modules["numpy"]
    return numpy.ma.MaskedArray(data, mask, fill_value=fill_value, hard_mask=hard)


def reduce_arrow(value: Any, least: int) -> Any:
    """Return how to pickle a slice of a large pyarrow object without the rest of it.

    Returns
    -------
    tuple or NotImplemented
        As `reduce_array`.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is None or not isinstance(
        value, (arrow.Table, arrow.RecordBatch, arrow.ChunkedArray, arrow.Array)
    ):
        return NotImplemented
    held = value.get_total_buffer_size()
    if held < least or value.nbytes >= _OWN_SHARE * held:
        return NotImplemented
    if isinstance(value, arrow.Table):
        kind, table = "table", value
    elif isinstance(value, arrow.RecordBatch):
        kind, table = "batch", arrow.Table.from_batches([value])
    else:
        kind = "chunks" if isinstance(value, arrow.ChunkedArray) else "array"
        table = arrow.table({"": value})
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return _rebuild_arrow, (pickle.PickleBuffer(sink.getvalue()), kind)


def _rebuild_arrow(buffer: Any, kind: str) -> Any:
    arrow: Any = importlib.import_module("pyarrow")
    with arrow.ipc.open_stream(arrow.py_buffer(buffer)) as stream:
        table = stream.read_all()
    if kind == "table":
        return table
    if kind == "batch":
        # Of no rows there may be no chunk to make a batch of.
        columns = [column.combine_chunks() for column in table.columns]
        return arrow.RecordBatch.from_arrays(columns, schema=table.schema)
    chunks = table.column(0)
    return chunks if kind == "chunks" else chunks.combine_chunks()
