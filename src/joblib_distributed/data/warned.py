"""Warnings as data, and the filters that decide about them.

A task's warning is sent to the driver and issued there again, where the user's own
filters, and whoever catches warnings, can see it. What the filters say is done where the
task runs, too: one that makes an error of a warning ends the task.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import pickle
import re
import threading
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from joblib_distributed.data.buffers import pack
from joblib_distributed.data.payload import text_of
from joblib_distributed.data.process import process_token

#: An entry of ``warnings.filters``: action, pattern of the text, class, pattern of the
#: module, line.
Filter = tuple[Any, ...]

#: Modules whose warnings never are errors in a worker: it would be the worker's end.
_ENGINE = re.compile(r"(distributed|dask|tornado|asyncio)(\.|$)")

_EXEMPT: Filter = ("default", None, Warning, _ENGINE, 0)


class Warned(NamedTuple):
    """A warning of a task."""

    #: Pickle of it; empty if it has none.
    packed: bytes
    #: Of its class, with the module.
    name: str
    text: str
    filename: str
    lineno: int
    #: Name of the module that it comes from; empty if that is not known.
    module: str = ""


def pack_warning(
    message: Warning, category: type[Warning], filename: str, lineno: int, module: str
) -> Warned:
    """Pack a warning, whatever it is made of."""
    packed = b""
    with contextlib.suppress(Exception):  # whatever the user's __reduce__ raises
        packed = pack(message)
    name = f"{category.__module__}.{category.__qualname__}"
    return Warned(packed, name, text_of(message), filename, lineno, module)


def unpack_warning(warned: Warned) -> Warning:
    """Rebuild a warning; of a class that cannot be, a `UserWarning` that says so."""
    with contextlib.suppress(Exception):  # what it takes may not be installed here
        found = pickle.loads(warned.packed)
        if isinstance(found, Warning):
            return found
    return UserWarning(f"{warned.name}: {warned.text}")


#: Name of the module whose warning this thread issues again.
issuing: contextvars.ContextVar[str] = contextvars.ContextVar("issuing", default="")

#: What has been issued once for each line of a file, as modules have it of their own.
_registries: dict[str, dict[Any, Any]] = {}
_lock = threading.Lock()


def issue(warned: Warned) -> None:
    """Issue a warning again, as if it came from its own line here.

    Raises
    ------
    Warning
        If a filter of this process says that it is an error.
    """
    with _lock:
        registry = _registries.setdefault(warned.filename, {})
    message = unpack_warning(warned)
    # With no module at all Python says nothing.
    module = warned.module or warned.filename.removesuffix(".py")
    token = issuing.set(module)
    try:
        warnings.warn_explicit(
            message, type(message), warned.filename, warned.lineno, module, registry
        )
    finally:
        issuing.reset(token)


def pack_filters(filters: Iterable[Filter]) -> tuple[bytes, ...]:
    """Pack the filters of this process.

    Each apart, as the classes in one may be unknown elsewhere; and first, whose they are.
    """
    return process_token(), *_pack_filters(tuple(filters))


def are_of_this_process(packed: Sequence[bytes]) -> bool:
    """Whether filters were packed here, so that they are in force."""
    return packed[:1] == (process_token(),)


@functools.lru_cache(maxsize=8)  # calls come one after the other with the same
def _pack_filters(filters: tuple[Filter, ...]) -> tuple[bytes, ...]:
    packed = []
    for entry in filters:
        with contextlib.suppress(Exception):
            packed.append(pack(entry))
    return tuple(packed)


def unpack_filters(packed: Sequence[bytes]) -> list[Filter]:
    """Rebuild filters, but for those whose classes are unknown here."""
    return list(_unpack_filters(tuple(packed)))


@functools.lru_cache(maxsize=8)  # batches come one after the other with the same
def _unpack_filters(packed: tuple[bytes, ...]) -> list[Filter]:
    found: list[Filter] = []
    for entry in packed[1:]:
        with contextlib.suppress(Exception):
            found.append(pickle.loads(entry))
    return [_EXEMPT, *found] if any(f[0] == "error" for f in found) else found
