"""Context variables of the caller, which hold in tasks, too.

A `contextvars.ContextVar` is an object of one process. What it is elsewhere is found by
where it is kept: as an attribute of a module. One that is kept nowhere stays here, as
does one whose value cannot be pickled, or is large.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import pickle
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from joblib_distributed.data.buffers import pack

#: Bytes of a value, at most: it is sent with each batch. A guess.
MOST = 2**16

#: Packages whose variables mean something in the process that they are of, and no other.
_OF_PROCESS = frozenset(
    {
        "joblib_distributed", "joblib", "distributed", "dask", "tornado", "asyncio",
        "IPython", "ipykernel", "zmq", "tqdm", "_pytest", "pytest", "__main__",
    }
)  # fmt: skip


class Variable(NamedTuple):
    """A context variable with its value."""

    #: Where it is kept.
    module: str
    name: str
    #: Pickle of the value.
    packed: bytes


#: Where each is kept, by id; the variable itself, so that the id stays its own.
_places: dict[int, tuple[contextvars.ContextVar[Any], tuple[str, str] | None, int]] = {}


def pack_variables() -> tuple[Variable, ...]:
    """Pack the variables that are set in this context."""
    found = []
    for variable, value in contextvars.copy_context().items():
        place = _place_of(variable)
        if place is None:
            continue
        with contextlib.suppress(Exception):  # whatever the user's __reduce__ raises
            packed = pack(value)
            if len(packed) <= MOST:
                found.append(Variable(*place, packed))
    return tuple(sorted(found))


def _place_of(variable: contextvars.ContextVar[Any]) -> tuple[str, str] | None:
    modules = len(sys.modules)
    known = _places.get(id(variable))
    if known is None or (known[1] is None and known[2] != modules):
        known = _places[id(variable)] = (variable, _find(variable), modules)
    return known[1]


def _find(variable: contextvars.ContextVar[Any]) -> tuple[str, str] | None:
    for module, owner in list(sys.modules.items()):
        if module.partition(".")[0] in _OF_PROCESS:
            continue
        with contextlib.suppress(Exception):  # whatever is among the modules
            for name, value in list(vars(owner).items()):
                if value is variable:
                    return module, name
    return None


@contextlib.contextmanager
def holding(variables: Iterable[Variable]) -> Iterator[None]:
    """Have variables hold their values in this thread; those that are known here."""
    tokens: list[tuple[contextvars.ContextVar[Any], contextvars.Token[Any]]] = []
    for each in variables:
        # What it takes may not be installed here.
        with contextlib.suppress(Exception):
            variable = getattr(importlib.import_module(each.module), each.name)
            tokens.append((variable, variable.set(pickle.loads(each.packed))))
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)
