"""Keys of attempts, and what they tell."""

from __future__ import annotations

import uuid

import pytest
from dask.utils import key_split

from joblib_distributed.data.payload import Packer
from joblib_distributed.data.tasks import PackedTask
from joblib_distributed.driver.call import Call
from joblib_distributed.driver.events import Dispatched, Send
from joblib_distributed.driver.keys import batch_name, call_name, has_idle_thread


def task(index: int, name: str) -> PackedTask:
    return PackedTask(index, name, b"", b"", b"")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["f"], "batch_of_f"),
        (["f", "f"], "batch_of_f"),
        (["g", "f"], "mixed_batch_of_g"),
        (["<lambda>"], "batch_of_<lambda>"),
        (["a-b-c"], "batch_of_a_b_c"),
        ([], "mixed_batch_of_nothing"),
    ],
)
def test_batch_name(names: list[str], expected: str) -> None:
    assert batch_name(task(i, name) for i, name in enumerate(names)) == expected


def keys_of(depth: int, count: int) -> list[str]:
    """Return keys as the ledger of a call makes them."""
    call = Call(call_name(depth, uuid.uuid4().hex), None, 0, 10)
    packer = Packer()
    keys = []
    for number in range(count):
        packed = packer.pack_task((abs, (object(),), {}))
        sends = call.handle(Dispatched(number, [packed]))
        keys += [send.key for send in sends if isinstance(send, Send)]
    assert len(set(keys)) == count
    return keys


def test_the_dashboard_shows_the_function() -> None:
    (key,) = keys_of(3, 1)
    assert key_split(key) == "batch_of_abs"


@pytest.mark.parametrize(
    ("around", "depth", "idle"),
    [
        ({0: 1}, 1, True),
        ({0: 7}, 1, True),
        ({0: 8}, 1, False),
        ({0: 100}, 1, False),
        # Siblings, and calls further out, whose tasks wait without a thread.
        ({0: 7, 1: 100}, 1, True),
        ({0: 100, 1: 7}, 2, True),
        ({0: 1, 1: 8}, 2, False),
        ({}, 1, True),
    ],
)
def test_as_many_batches_as_threads_keep_nested_calls_where_they_are(
    around: dict[int, int], depth: int, idle: bool
) -> None:
    keys = [key for level, count in around.items() for key in keys_of(level, count)]
    assert has_idle_thread(keys, threads=8, depth=depth) is idle


def test_batches_of_several_calls_count_together() -> None:
    assert not has_idle_thread(keys_of(0, 4) + keys_of(0, 4), threads=8, depth=1)


@pytest.mark.parametrize("key", ["sum-0123", ("x", 0), b"x", 17, "1-2-3", ""])
def test_tasks_of_others_do_not_count(key: object) -> None:
    assert has_idle_thread([key] * 100, threads=1, depth=1)
