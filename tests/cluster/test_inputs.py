"""Dask futures and collections as arguments of tasks."""

from __future__ import annotations

import gc
import operator
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import joblib
import numpy as np
import pandas as pd
import pytest
from distributed import Client
from joblib import Parallel, delayed

from joblib_distributed.errors import InputFailedError
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(50)


def describe(value: Any, number: int) -> tuple[str, float]:
    return type(value).__name__, float(np.asarray(value).sum()) + number


def describe_inside(value: dict[str, Any], number: int) -> tuple[str, str, float]:
    (first,) = value["first"]
    second = value["second"]
    return type(first).__name__, type(second).__name__, first.sum() + second + number


def is_same(first: object, second: object) -> bool:
    return first is second


def fail() -> None:
    raise ValueError("of the input")


def test_a_future(backend: Client) -> None:
    future = backend.submit(np.ones, 1000)
    found = Parallel()(delayed(describe)(future, i) for i in range(4))
    assert found == [("ndarray", 1000.0 + i) for i in range(4)]


@pytest.mark.parametrize(
    ("collection", "kind", "total"),
    [
        (da.ones(1000, chunks=100) * 2, "ndarray", 2000),
        (dask.delayed(operator.add)(1, 2), "int", 3),
        (
            dd.from_pandas(pd.DataFrame({"a": range(10)}), npartitions=3),
            "DataFrame",
            45,
        ),
    ],
    ids=["array", "delayed", "frame"],
)
def test_a_collection(backend: Client, collection: Any, kind: str, total: int) -> None:
    found = Parallel()(delayed(describe)(collection, i) for i in range(4))
    assert found == [(kind, float(total) + i) for i in range(4)]


def test_inputs_within_others(backend: Client) -> None:
    """Beside large data, too, and by keyword."""
    array = da.ones(10, chunks=5)
    value = {"first": [array], "second": dask.delayed(2), "large": np.ones(200_000)}
    found = Parallel()(delayed(describe_inside)(value, number=i) for i in range(4))
    assert found == [("ndarray", "int", 12.0 + i) for i in range(4)]


def test_inputs_in_a_closure_and_a_bound_method(backend: Client) -> None:
    array = da.arange(10, chunks=5)

    class Model:
        def __init__(self, data: object) -> None:
            self.data = data

        def total(self, number: int) -> float:
            return float(np.asarray(self.data).sum()) + number

    calls = [delayed(lambda i: float(array.sum()) + i)(1), delayed(Model(array).total)(2)]
    assert Parallel()(calls) == [46.0, 47.0]


def test_an_input_given_twice_is_one(backend: Client) -> None:
    future = backend.submit(np.ones, 10)
    assert Parallel()(delayed(is_same)(future, second=future) for _ in range(2)) == [
        True,
        True,
    ]


def test_batches_of_tasks_with_different_inputs(backend: Client) -> None:
    futures = backend.map(np.full, [3] * 20, range(20))
    found = Parallel(batch_size=4)(
        delayed(describe)(f, 0) if i % 3 else delayed(describe)(i, 0)
        for i, f in enumerate(futures)
    )
    assert found == [
        ("ndarray", 3.0 * i) if i % 3 else ("int", float(i)) for i in range(20)
    ]


def test_a_collection_is_computed_once_for_a_call(backend: Client) -> None:
    number = dask.delayed(np.random.default_rng().integers, pure=False)(2**60)
    values = Parallel()(delayed(int)(number) for _ in range(6))
    assert len(set(values)) == 1


def values_of(client: Client, name: str) -> int:
    """How many values of a function the cluster keeps."""

    def count(dask_scheduler: Any) -> int:
        keys = dask_scheduler.tasks
        return sum(str(key).startswith(f"{name}-") for key in keys)

    return int(client.run_on_scheduler(count))


def absolute_here(number: int) -> int:
    return abs(number)


def test_inputs_of_tasks_that_were_delivered_go(backend: Client) -> None:
    """All but those of the few tasks that are under way, while the call goes on."""
    collections = [dask.delayed(absolute_here)(-i) for i in range(20)]

    def tasks() -> Iterator[Any]:
        for number, collection in enumerate(collections):
            yield delayed(describe)(collection, number)
            wait_until(
                lambda: values_of(backend, "absolute_here") <= 4,
                30,
                lambda: f"kept: {values_of(backend, 'absolute_here')}",
            )

    found = Parallel(n_jobs=2, pre_dispatch=2, batch_size=1)(tasks())
    assert found == [("int", 2.0 * i) for i in range(20)]


def test_an_input_that_failed(backend: Client) -> None:
    with pytest.raises(InputFailedError, match=r"Task \d \(describe\) .* of the input"):
        Parallel()(delayed(describe)(dask.delayed(fail)(), i) for i in range(4))
    future = backend.submit(fail)
    with pytest.raises(InputFailedError) as caught:
        Parallel()(delayed(describe)(future, i) for i in range(4))
    assert repr(caught.value.__cause__) == "ValueError('of the input')"
    assert Parallel()(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]
    # The exception, its traceback, and so the future, are in a cycle of joblib's.
    del caught, future
    gc.collect()


def test_no_key_is_left(backend: Client) -> None:
    """The user's own future stays hers; what was computed of a collection goes."""
    future = backend.submit(np.ones, 1000)
    array = da.ones(1000, chunks=100)
    Parallel()(delayed(describe)(x, 0) for x in (future, array))
    assert future.result().sum() == 1000


def test_inputs_where_nothing_is_shared(backend: Client) -> None:
    future = backend.submit(np.ones, 1000)
    with joblib.parallel_config(backend="dask.distributed", n_workers=2, max_nbytes=None):
        found = Parallel()(delayed(describe)(future, i) for i in range(2))
    assert found == [("ndarray", 1000.0), ("ndarray", 1001.0)]
