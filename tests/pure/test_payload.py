"""Tasks as bytes."""

from __future__ import annotations

import enum
import functools
import pickle
import pickletools
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from joblib_distributed.data import payload
from joblib_distributed.data.buffers import (
    Apart,
    name_of,
    pack_apart,
    unpack_apart,
    unseal,
)
from joblib_distributed.data.payload import (
    PROTOCOL,
    REMEMBERED,
    Packer,
    function_name,
    pack,
    pack_invocation,
    place,
)
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import (
    NOTHING_SHARED,
    PLAIN_TEXT,
    PackedTask,
    PlainTasks,
    References,
    Tasks,
    is_plain,
)
from joblib_distributed.errors import NotATaskError, TaskPackingError
from joblib_distributed.worker.interrupt import interrupt_call
from joblib_distributed.worker.probe import describe_worker


def task_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> object:
    """What ``joblib.delayed(function)(*args, **kwargs)`` returns."""
    return function, args, kwargs


def run(packed: PackedTask) -> Any:
    """Do with a task what a worker does."""
    args, kwargs = pickle.loads(packed.arguments)
    return pickle.loads(packed.function)(*args, **kwargs)


def double(x: int) -> int:
    return 2 * x


class Counter:
    """Has a method, which has a state."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def value(self) -> int:
        return self.count


class Adder:
    """Can be called, and has a state; cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, summand: int) -> None:
        self.summand = summand

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adder) and other.summand == self.summand

    def __call__(self, x: int) -> int:
        return self.summand + x


class Raises:
    """Raises a given exception when it is pickled; counts how often."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.count = 0

    def __reduce__(self) -> Any:
        self.count += 1
        raise self.error

    def __call__(self) -> None:
        pass


# ----------------------------------------------------------------------------- packing
def test_tasks_are_counted_from_zero() -> None:
    packer = Packer()
    packed = [packer.pack_task(task_of(double, i)) for i in range(3)]
    assert [task.index for task in packed] == [0, 1, 2]
    assert [task.name for task in packed] == ["double"] * 3
    assert [run(task) for task in packed] == [0, 2, 4]


def test_function_is_packed_once_for_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[object] = []

    def counting_pack(value: object, *args: Any) -> Apart:
        values.append(value)
        return pack_apart(value, *args)

    monkeypatch.setattr(payload, "pack_apart", counting_pack)
    packer = Packer()
    packed = [packer.pack_task(task_of(double, i)) for i in range(3)]
    assert values == [double, ((0,), {}), ((1,), {}), ((2,), {})]
    assert len({id(task.function) for task in packed}) == 1
    assert len({task.function_key for task in packed}) == 1


@pytest.mark.parametrize("function", [double, lambda x: x, len, Counter, int])
def test_stateless_functions_are_packed_once(function: Any) -> None:
    packer = Packer()
    first, second = (packer.pack_task(task_of(function)) for _ in range(2))
    assert first.function is second.function
    assert first.function_key == second.function_key


def test_arguments_are_packed_as_they_are_now() -> None:
    """A generator may use one buffer for all of its tasks."""
    packer = Packer()
    buffer: list[int] = []
    packed = []
    for i in range(3):
        buffer[:] = [i]
        packed.append(packer.pack_task(task_of(sum, buffer)))
    assert [run(task) for task in packed] == [0, 1, 2]


def test_bound_method_is_packed_as_it_is_now() -> None:
    packer = Packer()
    counter = Counter()
    method = counter.value
    packed = []
    for i in (0, 1, 1):
        counter.count = i
        packed.append(packer.pack_task(task_of(method)))
    assert [run(task) for task in packed] == [0, 1, 1]


def test_partial_is_packed_as_it_is_now() -> None:
    packer = Packer()
    terms = [1]
    partial = functools.partial(sum, terms)
    first = packer.pack_task(task_of(partial))
    terms.append(2)
    second = packer.pack_task(task_of(partial))
    assert (run(first), run(second)) == (1, 3)


def test_callable_object_is_packed_as_it_is_now() -> None:
    packer = Packer()
    adder = Adder(1)
    first = packer.pack_task(task_of(adder, 10))
    adder.summand = 2
    second = packer.pack_task(task_of(adder, 10))
    assert (run(first), run(second)) == (11, 12)


def test_method_of_a_builtin_object_is_packed_as_it_is_now() -> None:
    """It is of the same type as `len`, but bound to something that may change."""
    packer = Packer()
    items = [1]
    count = items.count
    first = packer.pack_task(task_of(count, 1))
    items.append(1)
    second = packer.pack_task(task_of(count, 1))
    assert (run(first), run(second)) == (1, 2)


def test_equal_functions_share_their_bytes() -> None:
    packer = Packer()
    first = packer.pack_task(task_of(Counter(7).value))
    second = packer.pack_task(task_of(Counter(7).value))
    other = packer.pack_task(task_of(Counter(8).value))
    assert first.function is second.function
    assert first.function_key == second.function_key
    assert other.function_key != first.function_key
    assert run(other) == 8


def test_a_function_that_took_the_place_of_another_is_not_mistaken_for_it() -> None:
    """The address of a dead function may be that of the next one."""
    packer = Packer()
    results = [
        run(packer.pack_task(task_of(eval(f"lambda: {i}"))))
        for i in range(5 * REMEMBERED)
    ]
    assert results == list(range(5 * REMEMBERED))


def test_packer_remembers_only_the_last_functions() -> None:
    packer = Packer()
    for i in range(5 * REMEMBERED):
        packer.pack_task(task_of(eval(f"lambda: {i}")))
        packer.pack_task(task_of(Counter(i).value))
    assert len(packer._known) == REMEMBERED
    assert len(packer._packed) == REMEMBERED


def test_recent_keeps_the_last_items_set() -> None:
    recent: payload._Recent[int, int] = payload._Recent()
    for i in range(REMEMBERED + 2):
        recent[i] = i
    assert list(recent) == list(range(2, REMEMBERED + 2))
    recent.setdefault(100, 100)
    assert list(recent) == [*range(3, REMEMBERED + 2), 100]


class Counted:
    """Counts how often it is pickled."""

    def __init__(self, content: object = None) -> None:
        self.content = content
        self.count = 0

    def __reduce__(self) -> tuple[type, tuple[object]]:
        self.count += 1
        return Counted, (self.content,)


def keep(view: memoryview) -> Buffer:
    return Buffer(name_of(view), view, None)


def test_scattered_objects_are_packed_once() -> None:
    model, unused, other = Counted("model"), Counted(), Counted()
    packer = Packer(scatter=[unused, model])
    assert packer.scattered == []
    first = packer.pack_task(task_of(double, model, other))
    second = packer.pack_task(task_of(lambda: model))
    assert (model.count, unused.count, other.count) == (1, 1, 1)
    assert first.shared.references == References((), 0, (1,))
    assert second.shared is NOTHING_SHARED
    assert second.function_shared.references == References((), 0, (1,))
    assert len(packer.scattered) == 2
    packed, shared, sealed = packer.scattered[1]
    assert pickle.loads(packed).content == "model"
    assert shared is NOTHING_SHARED
    assert sealed == b""


def test_a_large_scattered_object_is_a_buffer() -> None:
    text = Counted("x" * 1000)
    array = Counted([np.arange(1000, dtype="u1"), b"y" * 2000])
    packer = Packer(1000, keep, [text, array])
    packer.pack_task(task_of(double, text, array))
    packed, shared, sealed = packer.scattered[0]
    assert packed == b""
    (whole,) = shared.buffers
    assert pickle.loads(unseal(whole.view, sealed)).content == "x" * 1000
    packed, shared, sealed = packer.scattered[1]
    assert sealed == b""
    assert len(packed) < 1000
    assert [b.view.nbytes for b in shared.buffers] == [2000, 1000]
    assert shared.strings == 1
    found = unpack_apart(packed, [b.view for b in shared.buffers], shared.strings)
    assert found.content[0].tolist() == array.content[0].tolist()  # type: ignore[index]
    assert found.content[1] == b"y" * 2000


def test_functions_of_different_scattered_objects_are_not_mistaken() -> None:
    first, second = Counted("a"), Counted("b")
    packer = Packer(scatter=[first, second])

    def function_with(model: Counted) -> Callable[[], Counted]:
        return lambda: model

    one = packer.pack_task(task_of(function_with(first)))
    other = packer.pack_task(task_of(function_with(second)))
    assert one.function_key != other.function_key


def test_a_scattered_object_that_does_not_pack_is_named() -> None:
    packer = Packer(scatter=[1, threading.Lock()])
    for task in range(2):
        with pytest.raises(
            TaskPackingError, match=rf"Task {task} .*scatter\[1\] \(of type lock\)"
        ):
            packer.pack_task(task_of(double, 1))


class Input:
    """What the engine is to bring."""

    def __init__(self, position: int) -> None:
        self.position = position


def position_of(value: object) -> int | None:
    return value.position if isinstance(value, Input) else None


def test_inputs_are_referred_to() -> None:
    packer = Packer(inputs=position_of)
    task = packer.pack_task(task_of(double, Input(3), {"a": [Input(1), Input(3)]}))
    assert task.shared.references == References((), 0, (), (1, 3))
    values = {1: "first", 3: "third"}
    (first, rest), _ = unpack_apart(task.arguments, (), inputs=values)
    assert (first, rest) == ("third", {"a": ["first", "third"]})
    assert packer.pack_task(task_of(double, 1)).shared is NOTHING_SHARED


@pytest.mark.parametrize("least", [None, 1000])
def test_inputs_beside_what_is_large(least: int | None) -> None:
    array, text = np.arange(1000, dtype="u1"), bytes(2000)
    packer = Packer(least, keep, inputs=position_of)
    task = packer.pack_task(task_of(double, array, text, Input(0)))
    views = [buffer.view for buffer in task.shared.buffers]
    assert len(views) == (0 if least is None else 2)
    (found, same, value), _ = unpack_apart(
        task.arguments, views, task.shared.strings, inputs={0: "value"}
    )
    assert found.tolist() == array.tolist()
    assert same == text
    assert value == "value"


def test_values_take_the_places_of_an_invocation() -> None:
    packed = pack_invocation(dict, {5: place(), 7: place()})
    assert pickle.loads(packed, buffers=["five", ["seven"]]) == {5: "five", 7: ["seven"]}


def test_size_is_that_of_the_arguments() -> None:
    small, large = (Packer().pack_task(task_of(len, b"x" * n)) for n in (0, 10_000))
    assert 10_000 <= large.nbytes - small.nbytes < 10_020
    assert large.nbytes == len(large.arguments)


def test_packed_task_is_frozen_and_slim() -> None:
    packed = Packer().pack_task(task_of(double, 1))
    with pytest.raises(AttributeError):
        packed.index = 3  # type: ignore[misc]
    assert not hasattr(packed, "__dict__")


# ------------------------------------------------------------------------- plain tasks
class Color(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Real(float):
    pass


class Tuple(tuple):
    __slots__ = ()


PLAIN_ARGUMENTS = [
    (),
    (1, 2.5, 1j, True, None, "text"),
    (10**100, float("inf"), ""),
    ("x" * PLAIN_TEXT, "\ud800"),
]

NOT_PLAIN = [
    "x" * (PLAIN_TEXT + 1), b"x", [1], (1,), {}, Color.RED, Text("x"), Real(1.0),
    np.float64(1.0), np.int64(1), np.bool_(True), np.str_("x"), np.arange(3), int, len,
]  # fmt: skip


def first_of(*args: Any, **kwargs: Any) -> Any:
    return args[0] if args else kwargs


def read(packer: Packer, *items: object) -> list[Tasks]:
    """Do with tasks what the driver does, in one batch."""
    return packer.gather([packer.read(item) for item in items])


def read_after_two(*items: object) -> list[Tasks]:
    """Return what tasks become once their function has been seen twice."""
    first, second, *rest = read(
        Packer(), task_of(first_of, 0), task_of(first_of, 1), *items
    )
    assert isinstance(first, PackedTask)
    assert isinstance(second, PackedTask)
    return rest


def spans(gathered: Sequence[Tasks]) -> list[tuple[int, int]]:
    """Return the first index, and the number of those that are plain."""
    assert all(tasks.size == (tasks.plain or 1) for tasks in gathered)
    return [(tasks.index, tasks.plain) for tasks in gathered]


def run_all(gathered: Sequence[Tasks]) -> list[Any]:
    results: list[Any] = []
    for tasks in gathered:
        if isinstance(tasks, PlainTasks):
            function = pickle.loads(tasks.function)
            results += [function(*args) for args in pickle.loads(tasks.arguments)]
        else:
            results.append(run(tasks))
    return results


@pytest.mark.parametrize("values", PLAIN_ARGUMENTS, ids=range(len(PLAIN_ARGUMENTS)))
def test_numbers_and_short_texts_are_plain(values: tuple[object, ...]) -> None:
    assert all(map(is_plain, values))
    item = task_of(first_of, *values)
    packer = Packer()
    packer.read(task_of(first_of, 0))
    packer.read(task_of(first_of, 1))
    assert packer.read(item) is item[1]


@pytest.mark.parametrize("value", NOT_PLAIN, ids=lambda value: type(value).__name__)
def test_what_has_more_to_it_is_not_plain(value: object) -> None:
    assert not is_plain(value)
    (packed,) = read_after_two(task_of(first_of, 1, value))
    assert isinstance(packed, PackedTask)
    args, kwargs = pickle.loads(packed.arguments)
    assert (args[0], type(args[1]), kwargs) == (1, type(value), {})


def test_a_function_is_expected_to_be_plain_once_it_came_twice_in_a_row() -> None:
    gathered = read(Packer(), *(task_of(double, i) for i in range(5)))
    assert spans(gathered) == [(0, 0), (1, 0), (2, 3)]
    assert run_all(gathered) == [0, 2, 4, 6, 8]


def test_keyword_arguments_are_not_plain() -> None:
    gathered = read_after_two(
        task_of(first_of, 2), task_of(first_of, a=3), task_of(first_of, 4, a=3)
    )
    assert spans(gathered) == [(2, 1), (3, 0), (4, 0)]
    assert run_all(gathered) == [2, {"a": 3}, 4]


@pytest.mark.parametrize("args", [[2], Tuple([2])], ids=["list", "subclass"])
def test_arguments_in_anything_but_a_tuple_are_not_plain(args: Any) -> None:
    """A list may be changed by whoever yielded it."""
    (packed,) = read_after_two((first_of, args, {}))
    assert isinstance(packed, PackedTask)
    assert run(packed) == 2


def test_an_item_of_another_class_is_not_plain() -> None:
    (packed,) = read_after_two(Tuple(task_of(first_of, 2)))
    assert isinstance(packed, PackedTask)


@pytest.mark.parametrize("function", [double, lambda x: x, abs, float, Counter])
def test_stateless_functions_may_be_plain(function: Any) -> None:
    gathered = read(Packer(), *(task_of(function, i) for i in range(4)))
    assert spans(gathered) == [(0, 0), (1, 0), (2, 2)]


@pytest.mark.parametrize(
    "function",
    [Counter().value, Adder(1), functools.partial(double, 1), [1].count],
    ids=["method", "object", "partial", "builtin method"],
)
def test_functions_with_a_state_are_never_plain(function: Any) -> None:
    gathered = read(Packer(), *[(function, (), {})] * 5)
    assert spans(gathered) == [(i, 0) for i in range(5)]


def test_a_function_made_anew_for_each_task_is_never_plain() -> None:
    items = (task_of(eval(f"lambda x: x + {i}"), 10) for i in range(3 * REMEMBERED))
    packer = Packer()
    gathered = read(packer, *items)
    assert spans(gathered) == [(i, 0) for i in range(3 * REMEMBERED)]
    assert run_all(gathered) == [10 + i for i in range(3 * REMEMBERED)]
    assert not packer._plains


def test_functions_that_take_turns_are_not_mistaken_for_each_other() -> None:
    functions = [double, abs] * 3 + [double] * 3 + [abs, double] * 3 + [abs] * 4
    gathered = read(Packer(), *(task_of(f, -i) for i, f in enumerate(functions)))
    assert run_all(gathered) == [f(-i) for i, f in enumerate(functions)]
    firsts, plain = zip(*spans(gathered), strict=True)
    ends = [first + (n or 1) for first, n in spans(gathered)]
    assert [*firsts, len(functions)] == [0, *ends]
    assert max(plain) > 1


def test_neighbours_of_two_functions_are_two_rows() -> None:
    packer = Packer()
    read(packer, *[task_of(double, 0)] * 2)
    doubles = [packer.read(task_of(double, i)) for i in range(2)]
    # `abs` is plain from its third task on.
    rows = [packer.read(task_of(abs, i)) for i in (-1, -2, -3, -4, -5)]
    gathered = packer.gather([*doubles, *rows])
    assert spans(gathered) == [(2, 2), (4, 0), (5, 0), (6, 3)]
    assert [tasks.name for tasks in gathered] == ["double", "abs", "abs", "abs"]
    assert run_all(gathered) == [0, 2, 1, 2, 3, 4, 5]


def test_many_functions_are_plain_one_after_the_other() -> None:
    packer = Packer()
    functions = [eval(f"lambda x: x + {i}") for i in range(2 * REMEMBERED)]
    gathered = read(packer, *(task_of(f, 10) for f in functions for _ in range(4)))
    assert spans(gathered) == [
        span
        for i in range(0, 8 * REMEMBERED, 4)
        for span in ((i, 0), (i + 1, 0), (i + 2, 2))
    ]
    assert run_all(gathered) == [10 + i for i in range(2 * REMEMBERED) for _ in range(4)]
    # Also when the first of them, long forgotten, comes again.
    items = [packer.read(task_of(functions[0], 20)) for _ in range(3)]
    again = packer.gather(items)
    assert [tasks.plain for tasks in again] == [0, 0, 1]
    assert run_all(again) == [20] * 3


def test_packer_remembers_only_the_last_functions_that_were_plain() -> None:
    """One that is made anew for every few tasks must not fill the memory."""
    packer = Packer()
    for i in range(5 * REMEMBERED):
        function = eval(f"lambda x: {i}")
        items = [packer.read(task_of(function, 0)) for _ in range(3)]
        assert run_all(packer.gather(items)) == [i] * 3
    assert len(packer._plains) <= REMEMBERED


def test_indices_are_right_when_plain_and_packed_alternate() -> None:
    arguments = [0, 1, 2, 3, [4], 5, [6], [7], 8, 9, 10, [11]]
    gathered = read(Packer(), *(task_of(first_of, a) for a in arguments))
    assert spans(gathered) == [
        (0, 0), (1, 0), (2, 2), (4, 0), (5, 1), (6, 0), (7, 0), (8, 3), (11, 0),
    ]  # fmt: skip
    assert run_all(gathered) == arguments


def test_indices_go_on_in_the_next_batch() -> None:
    packer = Packer()
    items = [packer.read(task_of(first_of, a)) for a in (0, 1, 2, 3, 4, [5], 6)]
    assert spans(packer.gather(items[:4])) == [(0, 0), (1, 0), (2, 2)]
    assert spans(packer.gather(items[4:])) == [(4, 1), (5, 0), (6, 1)]
    assert spans(packer.gather([])) == []


def test_plain_neighbours_have_what_their_function_is_made_of() -> None:
    data = np.arange(2000, dtype="u1")

    def length(x: int) -> int:
        return len(data) + x

    first, _, plain = read(Packer(1000, keep), *(task_of(length, i) for i in range(4)))
    assert isinstance(plain, PlainTasks)
    assert (plain.name, plain.function_key) == ("length", first.function_key)
    assert plain.function is first.function
    assert plain.function_shared == first.function_shared != NOTHING_SHARED
    assert plain.shared is NOTHING_SHARED
    assert list(plain.calls) == [(2,), (3,)]


def test_parts_of_plain_neighbours_count_on() -> None:
    (tasks,) = read_after_two(*(task_of(first_of, i) for i in range(10, 16)))
    assert isinstance(tasks, PlainTasks)
    assert (tasks.size, tasks.plain) == (6, 6)
    part = tasks.part(1, 3)
    assert spans([part, part.part(2, 1)]) == [(3, 3), (5, 1)]
    assert run_all([part, part.part(2, 1)]) == [11, 12, 13, 13]
    assert (part.name, part.function_key) == (tasks.name, tasks.function_key)
    assert part.nbytes < tasks.nbytes


def test_the_part_of_a_packed_task_is_itself() -> None:
    packed = Packer().pack_task(task_of(double, 1))
    assert packed.part(0, 1) is packed
    assert (packed.size, packed.plain) == (1, 0)


@pytest.mark.parametrize(
    "args",
    [(1,), (1, 2, 3), ("x" * 500,), tuple(range(1000)), (10**10_000,)],
    ids=["one", "few", "text", "many", "long number"],
)
def test_size_of_plain_neighbours_is_about_that_of_their_arguments(
    args: tuple[object, ...],
) -> None:
    """By it batches are kept from being too large to be sent."""
    tasks = PlainTasks(0, "f", b"key", b"packed f", [args])
    assert tasks.nbytes > len(pickle.dumps(args)) / 10


def test_plain_tasks_are_frozen_and_slim() -> None:
    (plain,) = read_after_two(task_of(first_of, 1))
    with pytest.raises(AttributeError):
        plain.index = 3  # type: ignore[misc]
    assert not hasattr(plain, "__dict__")


@pytest.mark.parametrize(
    "item",
    [
        3,
        (double, (1,)),
        (double, 1, {}),
        (double, (1,), None),
        (double, (1,), []),
        (double, (1,), np.zeros(2)),
        (None, (1,), {}),
    ],
    ids=["number", "two", "no arguments", "none", "list", "array", "no function"],
)
@pytest.mark.parametrize("before", [0, 2])
def test_what_is_no_task_is_refused_beside_plain_tasks(before: int, item: object) -> None:
    packer = Packer()
    for _ in range(before):
        packer.read(task_of(double, 1))
    with pytest.raises(NotATaskError) as caught:
        packer.read(item)
    assert caught.value.index == before


def test_what_does_not_pack_is_refused_with_its_index_after_plain_tasks() -> None:
    packer = Packer()
    for i in range(5):
        packer.read(task_of(double, i))
    with pytest.raises(TaskPackingError) as caught:
        packer.read(task_of(double, threading.Lock()))
    assert caught.value.index == 5
    item = task_of(double, 6)
    assert packer.read(item) is item[1]


# ----------------------------------------------------------------- all kinds of callable
def local_class() -> type:
    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    return Local


def nested_function(depth: int) -> Callable[[int], int]:
    def inner(x: int) -> int:
        return x if x == 0 else depth + inner(x - 1)

    return inner


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (task_of(double, 21), 42),
        (task_of(lambda x, y: x - y, 5, y=3), 2),
        (task_of(nested_function(3), 4), 12),
        (task_of(functools.partial(pow, 2), 10), 1024),
        (task_of(functools.partial(functools.partial(max, 1), 5), 3), 5),
        (task_of(Counter(5).value), 5),
        (task_of("a-b".split, "-"), ["a", "b"]),
        (task_of(str.upper, "x"), "X"),
        (task_of(Adder(1), 2), 3),
        (task_of(dict, a=1), {"a": 1}),
        (task_of(len, [1, 2]), 2),
        ((double, [4], {}), 8),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_roundtrip(item: object, expected: object) -> None:
    assert run(Packer().pack_task(item)) == expected


def test_class_made_in_a_function_roundtrips() -> None:
    local = local_class()
    packed = Packer().pack_task(task_of(local, 3))
    assert run(packed).x == 3
    argument = Packer().pack_task(task_of(vars, local(4)))
    assert run(argument) == {"x": 4}


def test_things_of_main_roundtrip() -> None:
    """Bytes made in a script are unpacked where the script's names do not exist."""
    script = textwrap.dedent(
        """
        import functools, pickle, sys
        from joblib_distributed.data.payload import Packer

        OFFSET = 100

        class Shape:
            def __init__(self, side):
                self.side = side

            def area(self):
                return self.side**2

        def shifted(shape, scale=1):
            return OFFSET + scale * shape.area()

        def factorial(n):
            return 1 if n == 0 else n * factorial(n - 1)

        tasks = [
            (shifted, (Shape(3),), {}),
            (functools.partial(shifted, scale=2), (Shape(3),), {}),
            (Shape(4).area, (), {}),
            (lambda n: factorial(n) + OFFSET, (5,), {}),
            (map, (lambda s: s.area(), [Shape(1), Shape(2)]), {}),
        ]
        packer = Packer()
        packed = [packer.pack_task(task) for task in tasks]
        pieces = [(task.name, task.function, task.arguments) for task in packed]
        sys.stdout.buffer.write(pickle.dumps(pieces))
        """
    )
    output = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, timeout=50
    ).stdout
    names, results = [], []
    for name, function, arguments in pickle.loads(output):
        names.append(name)
        args, kwargs = pickle.loads(arguments)
        results.append(pickle.loads(function)(*args, **kwargs))
    assert names == ["shifted", "shifted", "area", "<lambda>", "map"]
    assert results[:4] == [109, 118, 16, 220]
    assert list(results[4]) == [1, 4]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (double, "double"),
        (lambda: None, "<lambda>"),
        (len, "len"),
        (Counter, "Counter"),
        (Counter().value, "value"),
        (Adder(1), "Adder"),
        (functools.partial(double, 1), "double"),
        (functools.partial(functools.partial(Adder(1))), "Adder"),
    ],
)
def test_function_name(function: object, name: str) -> None:
    assert function_name(function) == name


def test_function_name_that_is_no_text_is_not_used() -> None:
    adder = Adder(1)
    adder.__name__ = 3  # type: ignore[attr-defined]
    assert function_name(adder) == "Adder"


# --------------------------------------------------------------------------- not a task
class NoRepr:
    """Has no repr."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        (3, "3 (int)"),
        (None, "None (NoneType)"),
        (double, f"{double!r} (function)"),
        ((double, ()), f"({double!r}, ()) (tuple)"),
        ([double, (), {}], f"[{double!r}, (), {{}}] (list)"),
        ((double, (), []), f"({double!r}, (), []) (tuple)"),
        ((3, (), {}), "(3, (), {}) (tuple)"),
        ((len, 5, {}), f"({len!r}, 5, {{}}) (tuple)"),
        ("x" * 500, "'" + "x" * 199 + "... (str)"),
        (NoRepr(), "an object whose repr fails (NoRepr)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_task_is_refused(item: object, shown: str) -> None:
    packer = Packer()
    packer.pack_task(task_of(double, 1))
    with pytest.raises(NotATaskError) as caught:
        packer.pack_task(item)
    assert str(caught.value) == (
        f"Task 1 ({type(item).__name__}) is no task: the iterable yielded {shown}. Write "
        "delayed(function)(arguments) for each task."
    )
    assert caught.value.index == 1


# --------------------------------------------------------------------- cannot be packed
def refused(item: object) -> TaskPackingError:
    with pytest.raises(TaskPackingError) as caught:
        Packer().pack_task(item)
    return caught.value


def test_packing_error_says_everything() -> None:
    error = refused(task_of(double, Raises(ValueError("no, not this"))))
    assert str(error) == (
        "Task 0 (double) could not be pickled: could not pickle the task to send to the "
        "workers because of argument 0 (of type Raises): ValueError: no, not this. Pass "
        "data instead of handles such as locks, files or connections, and open those "
        "inside the task."
    )
    assert (error.index, error.function) == (0, "double")
    assert isinstance(error, pickle.PicklingError)
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize(
    ("args", "kwargs", "culprit"),
    [
        ((threading.Lock(),), {}, "argument 0 (of type lock)"),
        ((1, 2, threading.Lock()), {}, "argument 2 (of type lock)"),
        ((1,), {"a": 1, "b": threading.Lock()}, "argument 'b' (of type lock)"),
        ((1, [[threading.Lock()]]), {}, "argument 1 (of type list)"),
        ((iter(()), (i for i in ())), {}, "argument 1 (of type generator)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_culprit_is_named(args: Any, kwargs: Any, culprit: str) -> None:
    assert f" because of {culprit}: " in str(refused(task_of(double, *args, **kwargs)))


def test_culprit_that_packs_by_itself_is_not_named() -> None:
    class Once:
        """Fails only the first time."""

        failed = False

        def __reduce__(self) -> Any:
            if not Once.failed:
                Once.failed = True
                raise ValueError("once")
            return (int, ())

    assert " because of its arguments: ValueError: once" in str(
        refused(task_of(double, Once()))
    )


def test_function_is_named_as_the_culprit() -> None:
    lock = threading.Lock()
    assert " because of its function: " in str(refused(task_of(lambda: lock)))
    error = refused(task_of(Raises(ValueError("x"))))
    assert str(error).startswith("Task 0 (Raises) could not be pickled")


def test_function_that_does_not_pack_is_tried_for_each_of_its_tasks() -> None:
    packer = Packer()
    function = Raises(ValueError("x"))
    for index in (0, 1):
        with pytest.raises(TaskPackingError) as caught:
            packer.pack_task(task_of(function))
        assert caught.value.index == index
    assert function.count == 2


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), RuntimeError("x")])
def test_exception_of_reduce_does_not_end_the_program(error: BaseException) -> None:
    caught = refused(task_of(double, Raises(error)))
    assert caught.__cause__ is error
    assert f"(of type Raises): {type(error).__name__}: " in str(caught)


@pytest.mark.parametrize("where", ["argument", "function"])
def test_keyboard_interrupt_passes_through(where: str) -> None:
    raises = Raises(KeyboardInterrupt())
    item = task_of(double, raises) if where == "argument" else task_of(raises)
    with pytest.raises(KeyboardInterrupt):
        Packer().pack_task(item)


def test_keyboard_interrupt_passes_while_the_culprit_is_looked_for() -> None:
    class Second:
        """Raises something else the second time."""

        errors = (ValueError("first"), KeyboardInterrupt())

        def __reduce__(self) -> Any:
            first, *Second.errors = Second.errors  # type: ignore[assignment]
            raise first

    with pytest.raises(KeyboardInterrupt):
        Packer().pack_task(task_of(double, Second()))


def test_endless_recursion_is_a_packing_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    error = refused(task_of(len, 1, deep))
    assert " because of argument 1 (of type list): " in str(error)


def test_long_text_of_an_error_is_shortened() -> None:
    text = str(refused(task_of(double, Raises(ValueError("y" * 1000)))))
    assert f": ValueError: {'y' * 200}.... Pass data instead" in text


def test_error_without_a_text_is_still_a_packing_error() -> None:
    class NoText(Exception):
        """Has no text."""

        def __str__(self) -> str:
            raise RuntimeError("no text")

    error = refused(task_of(double, Raises(NoText())))
    assert " because of argument 0 (of type Raises): NoText: " in str(error)


def test_task_after_one_that_does_not_pack_is_packed() -> None:
    packer = Packer()
    with pytest.raises(TaskPackingError):
        packer.pack_task(task_of(double, threading.Lock()))
    after = packer.pack_task(task_of(double, 5))
    assert (after.index, run(after)) == (1, 10)


# --------------------------------------------------------------------------- invocation
def test_invocation_is_made_when_unpickled() -> None:
    made: list[object] = []
    threading._test_made = made  # type: ignore[attr-defined]
    try:
        packed = pack_invocation(_note, "a", 2)
        assert made == []
        assert pickle.loads(packed) == "noted"
        assert made == [("a", 2)]
    finally:
        del threading._test_made  # type: ignore[attr-defined]


def _note(*args: object) -> str:
    threading._test_made.append(args)  # type: ignore[attr-defined]
    return "noted"


def test_invocation_without_arguments() -> None:
    assert pickle.loads(pack_invocation(int)) == 0


def test_invocation_does_not_look_at_the_users_bytes() -> None:
    raises = b"these are no pickle"
    assert pickle.loads(pack_invocation(len, raises)) == len(raises)


def test_protocol_is_one_that_every_supported_python_reads() -> None:
    assert PROTOCOL == 5
    assert pack(1)[:2] == b"\x80\x05"
    assert pack_invocation(int)[:2] == b"\x80\x05"


UNPICKLE_IN_THREADS = """
import pickle, sys, threading
failed = []
def unpickle(packed):
    try:
        pickle.loads(packed)
    except BaseException as error:
        failed.append(repr(error))
threads = [
    threading.Thread(target=unpickle, args=(bytes.fromhex(packed),))
    for packed in sys.argv[1:] * 2
]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit("; ".join(failed) or 0)
"""


def test_threads_of_a_new_process_may_unpickle_at_a_time() -> None:
    """What a worker does first is import this package, in several threads."""
    packed = [pack_invocation(describe_worker), pack_invocation(interrupt_call, "call")]
    done = subprocess.run(
        [sys.executable, "-c", UNPICKLE_IN_THREADS, *(one.hex() for one in packed)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_functions_of_ours_are_called_by_the_name_of_the_package() -> None:
    named = [
        argument
        for operation, argument, _ in pickletools.genops(pack_invocation(describe_worker))
        if "UNICODE" in operation.name
    ]
    assert named[:2] == ["joblib_distributed", "_invoke"]


# -------------------------------------------------------- objects that refuse to be shown
class Refusing:
    """Ends the program when shown, and raises when asked for an attribute."""

    def __repr__(self) -> str:
        raise SystemExit

    def __getattr__(self, name: str) -> object:
        raise LookupError(name)

    def __call__(self) -> None:
        pass


def test_an_item_whose_repr_would_end_the_program() -> None:
    with pytest.raises(NotATaskError, match="an object whose repr fails"):
        Packer().pack_task(Refusing())


def test_a_function_that_refuses_to_be_asked_has_the_name_of_its_class() -> None:
    from joblib_distributed.data.payload import function_name

    assert function_name(Refusing()) == "Refusing"
