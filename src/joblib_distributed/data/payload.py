"""Tasks as bytes.

Each task packs apart from its neighbours, so that one bad argument fails one task,
and a batch can be split and sent again without packing anew. The function is packed
apart from the arguments, once per call where that is safe.

Large buffers stay out of the bytes: they are put into the store of this host, and the
task refers to them by name.

See Also
--------
joblib_distributed.data.outcome : the way back.
joblib_distributed.data.buffers : which buffers are large.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import itertools
import pickle
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from joblib_distributed.data.buffers import (
    PROTOCOL,
    Again,
    Apart,
    Positions,
    no_input,
    pack,
    pack_apart,
    seal,
)
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import (
    NOTHING_SHARED,
    PLAIN_NUMBERS,
    PackedTask,
    PlainTasks,
    Scattered,
    Shared,
    Tasks,
    is_plain,
)
from joblib_distributed.errors import NotATaskError, TaskPackingError

#: Callables that joblib, too, packs once per call. Anything else, a bound method say,
#: carries state that the user's generator may change between two tasks: it is packed
#: for each task, and equal content is sent once.
_STATELESS = (types.FunctionType, types.BuiltinFunctionType, type)


class _Invocation:
    """Pickles as the call ``function(*args)``, made by whoever unpickles it."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._reduced = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reduced


def pack_invocation(function: Callable[..., Any], *args: Any) -> bytes:
    """Return bytes whose ``pickle.loads`` calls ``function(*args)``.

    The engine's scheduler unpickles the function of every task. Given
    ``pickle.loads`` and these bytes it needs nothing of ours, and looks at nothing
    of the user's.

    Whatever `pickle.loads` is given as ``buffers`` takes the places, in their order, of
    each `place` among the arguments: that is how values come in that the engine brings.
    """
    invocation = _Invocation(_invoke, (function.__module__, function.__name__, *args))
    if function.__module__.partition(".")[0] != _invoke.__module__:
        invocation = _Invocation(function, args)
    return pickle.dumps(invocation, protocol=PROTOCOL, buffer_callback=_leave_out)


def _invoke(module: str, function: str, *args: object) -> object:
    """Call a function of ours where it is unpickled.

    By the name of the package alone. Two threads of a new process may unpickle at a time:
    one that begins to import a module of the package, which needs the package, would wait
    for another that imports the package, which needs the module.
    """
    return getattr(importlib.import_module(module), function)(*args)


_invoke.__module__ = __name__.partition(".")[0]


def _leave_out(buffer: pickle.PickleBuffer) -> None:
    """Keep a buffer out of the pickle."""


def place() -> pickle.PickleBuffer:
    """Return what stands for a value that comes with the invocation."""
    # Writable: of one that is not, pickle would ask for a view.
    return pickle.PickleBuffer(bytearray(1))


#: How many functions of a call `Packer` remembers. Few calls have more than one; a
#: generator that makes a new lambda for each task must not fill the memory. A guess.
REMEMBERED = 16


K = TypeVar("K")
V = TypeVar("V")


class _Recent(collections.OrderedDict[K, V]):
    """The last `REMEMBERED` items set."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        while len(self) > REMEMBERED:
            self.popitem(last=False)


class Packer:
    """Packs the tasks of one call, counting them.

    Not thread-safe: joblib dispatches one batch at a time.

    Parameters
    ----------
    least : int, optional
        Size in bytes from which a buffer is shared; nothing is by default.
    put : callable, optional
        Stores a buffer's bytes and returns it; needed with `least`.
    scatter : sequence, optional
        Objects that are packed once, for all tasks that refer to them.
    inputs : callable, optional
        See `pack_apart`.
    """

    def __init__(
        self,
        least: int | None = None,
        put: Callable[[memoryview], Buffer] | None = None,
        scatter: Sequence[object] = (),
        inputs: Positions = no_input,
    ) -> None:
        self._inputs = inputs
        self._least = least
        self._again = None if least is None else Again()
        self._put = put
        self._scatter = scatter
        self._positions = {id(value): place for place, value in enumerate(scatter)}
        #: What `scatter` became, with the first task.
        self.scattered: list[Scattered] = []
        # By id. The function is kept so that its id stays its own.
        self._known: _Recent[int, tuple[object, bytes, bytes, Shared]] = _Recent()
        # By digest, so that equal functions share their bytes.
        self._packed: _Recent[bytes, bytes] = _Recent()
        # Tasks read; of these, put together for a batch.
        self._count = 0
        self._gathered = 0
        # The stateless function packed last; and, once that was twice in a row, the one
        # whose plain tasks are left as they are. A lambda made for each task never is.
        self._last: object = self
        self._plain: object = self
        # What such tasks become, and the number of the first of them. Between those of
        # two functions there is at least one that was packed.
        self._plains: collections.deque[tuple[int, PlainTasks]] = collections.deque()

    @property
    def count(self) -> int:
        """Number of tasks read so far."""
        return self._count

    @property
    def gathered(self) -> int:
        """Number of tasks gathered so far."""
        return self._gathered

    def read(self, item: object) -> object:
        """Take a task as the iterable yields it; return it packed.

        Of one that is plain it returns the arguments alone: thousands may wait to be
        sent, and of what is kept each object costs the garbage collector's time.

        Raises
        ------
        NotATaskError, TaskPackingError
            See `pack_task`.
        """
        # For tens of thousands of tasks: no call of a function, but for texts.
        if type(item) is tuple and len(item) == 3 and item[0] is self._plain:
            _, args, kwargs = item
            if type(kwargs) is dict and not kwargs and type(args) is tuple:
                for value in args:
                    if type(value) not in PLAIN_NUMBERS and not is_plain(value):
                        break
                else:
                    self._count += 1
                    return args
        return self.pack_task(item)

    def gather(self, items: Sequence[Any]) -> list[Tasks]:
        """Put together plain tasks among what `read` returned next."""
        gathered: list[Tasks] = []
        for kind, group in itertools.groupby(items, type):
            some = list(group)
            if kind is tuple:
                gathered.append(self._plain_tasks(some))
            else:
                assert some[0].index == self._gathered, (
                    "tasks are gathered as they were read"
                )
                gathered.extend(some)
            self._gathered += len(some)
        return gathered

    def _plain_tasks(self, calls: list[tuple[Any, ...]]) -> PlainTasks:
        while len(self._plains) > 1 and self._plains[1][0] <= self._gathered:
            self._plains.popleft()
        plain = self._plains[0][1]
        return dataclasses.replace(plain, index=self._gathered, calls=calls)

    def pack_task(self, item: object) -> PackedTask:
        """Pack what ``delayed(f)(...)`` returned.

        Raises
        ------
        NotATaskError
            If `item` is no such thing.
        TaskPackingError
            If something in it cannot be pickled.
        """
        index, self._count = self._count, self._count + 1
        function, args, kwargs = _as_task(index, item)
        name = function_name(function)
        for position in range(len(self.scattered), len(self._scatter)):
            value = self._scatter[position]
            culprit = f"scatter[{position}] (of type {type(value).__name__})"
            with _naming(index, name, culprit):
                self.scattered.append(self._pack_scattered(value))
        key, packed, function_shared = self._pack_function(index, name, function)
        try:
            arguments, shared = self._pack((args, kwargs))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            culprit = _find_culprit(args, kwargs)
            raise _packing_error(index, name, culprit, error) from error
        self._expect_plain(name, function, (key, packed, function_shared))
        return PackedTask(index, name, key, packed, arguments, shared, function_shared)

    def _expect_plain(
        self, name: str, function: object, packed: tuple[bytes, bytes, Shared]
    ) -> None:
        is_known = function is self._last and id(function) in self._known
        if is_known and function is not self._plain:
            self._plain = function
            key, pickled, shared = packed
            plain = PlainTasks(0, name, key, pickled, (), shared)
            self._plains.append((self._count, plain))
        self._last = function

    def _pack(self, value: object) -> tuple[bytes, Shared]:
        apart = pack_apart(value, self._least, self._positions, self._inputs, self._again)
        if self._again is not None:
            self._again.settle()
        return apart.packed, self._share(apart)

    def _pack_scattered(self, value: object) -> Scattered:
        apart = pack_apart(value, self._least)
        if self._least is None or len(apart.packed) < self._least:
            return Scattered(apart.packed, self._share(apart))
        whole = apart._replace(buffers=[memoryview(apart.packed), *apart.buffers])
        return Scattered(b"", self._share(whole), seal(apart.packed))

    def _share(self, apart: Apart) -> Shared:
        if not apart.buffers and not apart.scattered and not apart.inputs:
            return NOTHING_SHARED
        assert self._put is not None or not apart.buffers, "nothing is large by default"
        buffers = tuple(self._put(view) for view in apart.buffers) if self._put else ()
        return Shared(buffers, apart.strings, apart.scattered, apart.inputs)

    def _pack_function(
        self, index: int, name: str, function: Any
    ) -> tuple[bytes, bytes, Shared]:
        known = self._known.get(id(function))
        if known is not None:
            return known[1:]
        with _naming(index, name, "its function"):
            packed, shared = self._pack(function)
        digest = hashlib.blake2b(packed, digest_size=16)
        if shared is not NOTHING_SHARED:
            digest.update(repr(shared.references).encode())
        key = digest.digest()
        packed = self._packed.setdefault(key, packed)
        if _is_stateless(function):
            self._known[id(function)] = (function, key, packed, shared)
        return key, packed, shared


def _is_stateless(function: Any) -> bool:
    # A method of a list is of the same type as `len`.
    bound_to = getattr(function, "__self__", None)
    return isinstance(function, _STATELESS) and (
        bound_to is None or isinstance(bound_to, (types.ModuleType, type))
    )


def function_name(function: Any) -> str:
    """Return a short name of any callable."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        name = getattr(function, "__name__", None)
    except Exception:  # a __getattr__ of the user's that raises
        name = None
    return name if isinstance(name, str) else type(function).__name__


def _as_task(
    index: int, item: object
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    if isinstance(item, tuple) and len(item) == 3:
        function, args, kwargs = item
        if (
            callable(function)
            and isinstance(args, (tuple, list))
            and isinstance(kwargs, dict)
        ):
            return function, tuple(args), kwargs
    raise NotATaskError.of(
        index,
        type(item).__name__,
        f"is no task: the iterable yielded {_shorten(item)}. Write "
        "delayed(function)(arguments) for each task.",
    )


def _find_culprit(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Name the first argument that does not pack by itself."""
    named = [(f"argument {position}", arg) for position, arg in enumerate(args)]
    named += [(f"argument {name!r}", arg) for name, arg in kwargs.items()]
    for name, arg in named:
        try:
            pack(arg)
        except KeyboardInterrupt:
            raise
        except BaseException:
            return f"{name} (of type {type(arg).__name__})"
    return "its arguments"


@contextlib.contextmanager
def _naming(index: int, name: str, culprit: str) -> Iterator[None]:
    """Name the culprit in whatever is raised."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _packing_error(index, name, culprit, error) from error


def _packing_error(
    index: int, name: str, culprit: str, error: BaseException
) -> Exception:
    return TaskPackingError.of(
        index,
        name,
        f"could not be pickled: could not pickle the task to send to the workers "
        f"because of {culprit}: {type(error).__name__}: {_shorten_text(text_of(error))}. "
        "Pass data instead of handles such as locks, files or connections, and open "
        "those inside the task.",
    )


def _shorten(value: object) -> str:
    try:
        text = repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a repr of the user's that raises must not hide our message
        text = "an object whose repr fails"
    return f"{_shorten_text(text)} ({type(value).__name__})"


def text_of(error: BaseException) -> str:
    """Return an exception's text, also of one that does not want to give it."""
    try:
        # The text may be of a class of the user's: what is sent is plain.
        return "".join((str(error),))
    except BaseException:  # a __str__ of the user's that raises
        return "(its text could not be made)"


def _shorten_text(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
