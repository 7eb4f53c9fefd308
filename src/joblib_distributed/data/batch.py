"""What a worker is sent: tasks as bytes, and what they find around themselves."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from joblib_distributed.data.modules import Modules
from joblib_distributed.data.printed import Wanted
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import References, Sharing
from joblib_distributed.data.variables import Variable


class BatchPayload(NamedTuple):
    """All that a worker needs to run a batch; holds only bytes and numbers."""

    #: Identifies the call; what `worker.interrupt` is told to stop.
    call: str
    #: Pickle of the `CallContext`.
    context: bytes
    #: The packed functions that `tasks` refer to.
    functions: dict[bytes, bytes]
    #: ``(index, function key, arguments, plain)`` of each task; those of `PlainTasks`
    #: are one row, and `plain` is their number. It is 0 for a `PackedTask`.
    tasks: tuple[tuple[int, bytes, bytes, int], ...]
    #: Buffers that arguments refer to, by index, and functions, by key.
    references: dict[int | bytes, References] = {}  # noqa: RUF012 - never changed
    #: The scattered objects that those refer to, by position: the fields of `Scattered`.
    scattered: dict[int, tuple[bytes, References, bytes]] = {}  # noqa: RUF012 - never changed
    #: None if nothing is shared.
    sharing: Sharing | None = None
    #: Buffers that are sent along, by name, because a host has not got them.
    buffers: dict[str, bytes] = {}  # noqa: RUF012 - never changed
    #: Inputs that arguments refer to, by position: on the way, a place for each.
    inputs: dict[int, Any] = {}  # noqa: RUF012 - never changed
    #: Seconds after which the tasks not begun are given back, if any has been run.
    box: float = math.inf
    #: Key of the attempt; what `worker.recall` and `worker.interrupt` are told.
    attempt: str = ""
    #: The packed filters of the caller's warnings.
    filters: tuple[bytes, ...] = ()
    #: Pickle of what each process is to call first, with its arguments; empty for none.
    initializer: bytes = b""
    #: The user's own modules.
    modules: Modules = Modules()
    #: What of the tasks' output is wanted.
    output: Wanted = Wanted()
    #: Context variables of the caller.
    variables: tuple[Variable, ...] = ()


class Surroundings(NamedTuple):
    """What all tasks of a call find around themselves, packed."""

    #: Pickle of the `CallContext`.
    context: bytes = b""
    #: The packed filters of the caller's warnings.
    filters: tuple[bytes, ...] = ()
    #: Pickle of what each process is to call first, with its arguments; empty for none.
    initializer: bytes = b""
    #: The user's own modules; and the buffer that has them, if they are shared as one.
    modules: Modules = Modules()
    stored: Buffer | None = None
    #: What of the tasks' output is wanted.
    output: Wanted = Wanted()
    #: Context variables of the caller.
    variables: tuple[Variable, ...] = ()


class CallContext(NamedTuple):
    """What every task of a call finds around itself on the worker."""

    #: Backend of nested calls, a joblib `ParallelBackendBase`.
    nested_backend: Any
    #: ``n_jobs`` of nested calls that do not name one.
    nested_n_jobs: int | None
    #: Limit on the threads of BLAS and OpenMP libraries, if any.
    inner_max_num_threads: int | None
