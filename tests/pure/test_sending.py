"""What is sent of a batch, and with it."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from joblib_distributed.data.batch import BatchPayload, Surroundings
from joblib_distributed.data.buffers import name_of
from joblib_distributed.data.payload import Packer
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import PackedTask, PlainTasks, References, Sharing
from joblib_distributed.driver.sending import Sender

LEAST = 1000
SHARING = Sharing(LEAST, "r", None, "host", "owner")

#: What the pretended store has no room for.
TOO_LARGE = 5000


def put(view: memoryview) -> Buffer:
    store = object() if view.nbytes < TOO_LARGE else None
    return Buffer(name_of(view), memoryview(bytes(view)), store)


def content(size: int, seed: int = 0) -> bytes:
    return bytes([seed]) * size


def name(size: int, seed: int = 0) -> str:
    return name_of(memoryview(content(size, seed)))


def array(size: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.frombuffer(content(size, seed), "u1")


class Packed:
    """Tasks of a call that shares what is large."""

    def __init__(
        self, *items: tuple[object, ...], scatter: tuple[object, ...] = ()
    ) -> None:
        packer = Packer(LEAST, put, scatter)
        self.tasks: list[PackedTask] = []
        for function, *args in items:
            self.tasks.append(packer.pack_task((function, args, {})))
        self.sender = Sender(
            "the call", Surroundings(b"context"), packer.scattered, SHARING
        )

    def payload(self, *indices: int, with_buffers: bool = False) -> BatchPayload:
        tasks = [self.tasks[i] for i in indices]
        return self.sender.payload(tasks, with_buffers)

    def names(self, *indices: int) -> set[str]:
        buffers = self.sender.buffers([self.tasks[i] for i in indices])
        assert all(name == buffer.name for name, buffer in buffers.items())
        return set(buffers)


def test_a_batch_is_sent_with_what_its_tasks_are_made_of() -> None:
    packed = Packed((abs, -1), (abs, -2), (len, "x"))
    abs_1, abs_2, len_x = packed.tasks
    assert abs_1.function_key == abs_2.function_key != len_x.function_key
    assert packed.payload(1, 2) == BatchPayload(
        "the call",
        b"context",
        {abs_2.function_key: abs_2.function, len_x.function_key: len_x.function},
        (
            (1, abs_2.function_key, abs_2.arguments, 0),
            (2, len_x.function_key, len_x.arguments, 0),
        ),
        sharing=SHARING,
    )


def test_functions_are_sent_once_for_a_batch() -> None:
    packed = Packed((abs, -1), (abs, -2))
    assert packed.payload(0, 1).functions == {
        packed.tasks[0].function_key: packed.tasks[0].function
    }


def test_plain_neighbours_are_one_row() -> None:
    packed = Packed((abs, -1), (len, "x"))
    first, second = packed.tasks
    calls = [(-2,), (-3,), (-4,)]
    plain = PlainTasks(2, "abs", first.function_key, first.function, calls)
    payload = packed.sender.payload([second, plain, plain.part(1, 1)], False)
    assert payload.tasks[0] == (1, second.function_key, second.arguments, 0)
    assert [(index, key, n) for index, key, _, n in payload.tasks[1:]] == [
        (2, first.function_key, 3),
        (3, first.function_key, 1),
    ]
    assert [pickle.loads(calls) for _, _, calls, _ in payload.tasks[1:]] == [
        calls,
        [(-3,)],
    ]
    assert set(payload.functions) == {first.function_key, second.function_key}
    assert payload.references == {}


def test_buffers_of_the_function_of_plain_neighbours_are_found() -> None:
    data = array(1000)
    packed = Packed((lambda x: data, 1))
    (task,) = packed.tasks
    plain = PlainTasks(
        5, task.name, task.function_key, task.function, [(1,)], task.function_shared
    )
    assert set(packed.sender.buffers([plain])) == {name(1000)}
    assert packed.sender.payload([plain], with_buffers=False).references == {
        task.function_key: References((name(1000),), 0, ())
    }


def test_a_box_is_sent_if_there_is_one() -> None:
    packed = Packed((abs, -1))
    assert packed.payload(0).box == math.inf
    assert packed.sender.payload(packed.tasks, False, box=0.4).box == 0.4


def test_an_attempt_knows_its_key() -> None:
    packed = Packed((abs, -1))
    assert packed.payload(0).attempt == ""
    payload = packed.sender.payload(packed.tasks, False, attempt="key")
    assert payload.attempt == "key"


def test_what_a_store_has_is_sent_as_its_name() -> None:
    packed = Packed((len, array(1000)), (len, array(2000)), (len, "small"))
    payload = packed.payload(0, 1, 2)
    assert payload.references == {
        0: References((name(1000),), 0, ()),
        1: References((name(2000),), 0, ()),
    }
    assert payload.buffers == {}


def test_what_no_store_has_is_sent_along() -> None:
    packed = Packed((len, array(1000), array(TOO_LARGE)))
    assert packed.payload(0).buffers == {name(TOO_LARGE): content(TOO_LARGE)}


def test_all_buffers_are_sent_along_when_it_is_asked_for() -> None:
    packed = Packed((len, array(1000), array(TOO_LARGE)), (len, array(2000)))
    assert packed.payload(0, with_buffers=True).buffers == {
        name(1000): content(1000),
        name(TOO_LARGE): content(TOO_LARGE),
    }


def test_buffers_are_those_of_arguments_and_functions_and_scattered_objects() -> None:
    data, first, second = array(1000, 1), [array(1000, 2)], [array(1000, 3)]
    packed = Packed(
        (lambda x: data, 1),
        (len, first),
        (lambda: second,),
        (abs, -1),
        scatter=(first, second),
    )
    assert packed.names(0) == {name(1000, 1)}
    assert packed.names(1) == {name(1000, 2)}
    assert packed.names(2) == {name(1000, 3)}
    assert packed.names(3) == set()
    assert packed.names(0, 1, 2, 3) == {name(1000, seed) for seed in (1, 2, 3)}
    along = packed.payload(0, 1, 2, with_buffers=True).buffers
    assert set(along) == packed.names(0, 1, 2)


def test_a_buffer_of_many_tasks_is_one() -> None:
    packed = Packed((len, array(1000)), (max, array(1000)))
    assert packed.names(0, 1) == {name(1000)}
    assert list(packed.payload(0, 1, with_buffers=True).buffers) == [name(1000)]


@pytest.mark.parametrize(("index", "positions"), [(0, {0}), (1, {1}), (2, set())])
def test_scattered_objects_are_sent_with_those_who_refer_to_them(
    index: int, positions: set[int]
) -> None:
    first, second = ["first"], ["second", array(1000)]
    packed = Packed((len, first), (len, second), (abs, -1), scatter=(first, second))
    found = packed.payload(index).scattered
    assert set(found) == positions
    for position, (pickle_of_it, references, sealed) in found.items():
        assert pickle_of_it
        assert sealed == b""
        assert references.names == ((name(1000),) if position else ())


def test_scattered_objects_that_are_packed_later_are_found() -> None:
    """They are packed with the first task, after the sender was made."""
    model = ["model"]
    packer = Packer(LEAST, put, (model,))
    sender = Sender("c", Surroundings(), packer.scattered, SHARING)
    task = packer.pack_task((len, (model,), {}))
    assert set(sender.payload([task], with_buffers=False).scattered) == {0}


def test_of_what_a_batch_lacks_only_what_goes_again_is_brought() -> None:
    """The first task was run; its buffer is gone since, and missing, too."""
    packed = Packed((len, array(1000, 1)), (len, array(1000, 2)))
    missing = [name(1000, 1), name(1000, 2)]
    assert list(packed.sender.lacking(packed.tasks[1:], missing)) == [name(1000, 2)]
    assert list(packed.sender.lacking(packed.tasks, missing[:1])) == [name(1000, 1)]
