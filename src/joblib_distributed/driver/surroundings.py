"""What all tasks of a call find around themselves, made ready to be sent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from joblib_distributed.data.batch import CallContext, Surroundings
from joblib_distributed.data.buffers import pack
from joblib_distributed.data.host import host_store
from joblib_distributed.data.modules import Modules, name_of
from joblib_distributed.data.process import process_token
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import Sharing
from joblib_distributed.data.variables import pack_variables
from joblib_distributed.data.warned import pack_filters
from joblib_distributed.driver.own_modules import OWN_MODULES
from joblib_distributed.errors import OptionValueError
from joblib_distributed.options import Options

#: Bytes of an initializer with its arguments, at most. A guess: little beside a batch.
MOST_INITARGS = 2**20


def surroundings(
    options: Options,
    make_context: Callable[[], CallContext],
    sharing: Sharing | None = None,
) -> Surroundings:
    """Return what is to be sent of a call's options, of this thread and this process.

    Raises
    ------
    OptionValueError
        If the initializer cannot be pickled, or is large; if a module cannot be sent.
    """
    # First, as the context has it, too: this says what is wrong with it.
    initializer = b""
    if options.initializer is not None:
        initializer = _pack_initializer(options.initializer, options.initargs)
    filters = pack_filters(warnings.filters)
    modules, stored = _own_modules(options, sharing)
    return Surroundings(
        pack(make_context()),
        filters,
        initializer,
        modules,
        stored,
        variables=pack_variables(),
    )


def _own_modules(
    options: Options, sharing: Sharing | None
) -> tuple[Modules, Buffer | None]:
    if options.modules is False:
        return Modules(), None
    packed = OWN_MODULES.packed(() if options.modules is True else options.modules)
    if not packed:
        return Modules(), None
    if sharing is None:
        return Modules(name_of(packed), process_token(), packed), None
    stored, _ = host_store(sharing.temp_folder).put(memoryview(packed))
    return Modules(stored.name, process_token()), stored


def _pack_initializer(
    initializer: Callable[..., object], arguments: Sequence[Any]
) -> bytes:
    try:
        packed = pack((initializer, tuple(arguments)))
    except Exception as error:  # whatever the user's __reduce__ raises
        raise OptionValueError(
            f"initializer={initializer!r} cannot be sent to workers with "
            f"initargs={arguments!r}: {type(error).__name__}: {error}. Give a function, "
            "and data instead of handles such as locks or files."
        ) from error
    if len(packed) > MOST_INITARGS:
        raise OptionValueError(
            f"initializer= and initargs= take {len(packed) / 1e6:.1f} MB, which would be "
            "sent with each batch. Have the initializer read a file, or give what is "
            "large to the tasks, with scatter=."
        )
    return packed
