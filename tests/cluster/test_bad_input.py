"""Bad input: each gives the error the user can act on, and the next call works."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from distributed import Client
from joblib import Parallel, delayed

from joblib_distributed.errors import (
    AsynchronousClientError,
    NotATaskError,
    OptionNameError,
    OptionTypeError,
    OptionValueError,
    ResultTransferError,
    SchedulerUnreachableError,
    TaskExitError,
    TaskPackingError,
)


@pytest.fixture(autouse=True)
def next_call_works(backend: object) -> Iterator[None]:
    yield
    assert Parallel()(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


# ------------------------------------------------------------------ arguments and results
def nothing(*args: object, **kwargs: object) -> None:
    pass


@pytest.mark.parametrize("late", [False, True], ids=["at once", "from the iterable"])
def test_argument_that_cannot_be_pickled(late: bool) -> None:
    tasks = [delayed(nothing)(i) for i in range(20 if late else 0)]
    tasks.append(delayed(nothing)(1, lock=threading.Lock()))
    with pytest.raises(TaskPackingError) as caught:
        Parallel(n_jobs=2)(iter(tasks))
    index = 20 if late else 0
    assert caught.value.index == index
    assert f"Task {index} (nothing) could not be pickled" in str(caught.value)
    assert "argument 'lock' (of type lock)" in str(caught.value)


def test_argument_that_recurses_for_ever() -> None:
    class Endless:
        def __reduce__(self) -> Any:
            return (Endless, (Endless(),))

    with pytest.raises(TaskPackingError, match="argument 1 "):
        Parallel(n_jobs=2)(delayed(nothing)(i, Endless()) for i in range(3))


def test_module_that_the_worker_lacks(tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("def f(): pass\nclass C: pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import only_here
    finally:
        sys.path.remove(str(tmp_path))
    for task in (delayed(only_here.f)(), delayed(nothing)(only_here.C())):
        with pytest.raises(ModuleNotFoundError, match="only_here") as caught:
            Parallel(n_jobs=2, modules=False)([delayed(nothing)(0), task])
        story = str(caught.value.__cause__)
        name = "f" if task[0] is only_here.f else "nothing"
        assert f"Task 1 ({name}) could not be unpickled on worker tls://127." in story
        assert "ModuleNotFoundError: No module named 'only_here'" in story
        if sys.version_info >= (3, 11):
            assert "install it on every worker" in caught.value.__notes__[0]
    del sys.modules["only_here"]


def test_result_that_cannot_be_pickled() -> None:
    with pytest.raises(ResultTransferError, match=r"Task 0 \(Lock\) ran to its end"):
        Parallel(n_jobs=2)(delayed(make_lock)() for make_lock in [named_lock])


def named_lock() -> Any:
    return threading.Lock()


named_lock.__name__ = "Lock"


def test_infinite_recursion() -> None:
    def recurse(n: int) -> int:
        return recurse(n + 1)

    with pytest.raises(RecursionError):
        Parallel(n_jobs=2)(delayed(recurse)(i) for i in range(2))


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_task_that_would_end_the_program(error: type[BaseException]) -> None:
    def leave(i: int) -> None:
        raise error("bye")

    with pytest.raises(
        TaskExitError, match=rf"\(leave\) raised builtins.{error.__name__}"
    ):
        Parallel(n_jobs=2)(delayed(leave)(i) for i in range(2))


# ----------------------------------------------------------------------------- iterables
@pytest.mark.parametrize("item", [5, None, "abc", (abs, 1), (abs, 1, 2), (5, (), {})])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "from the iterable"])
def test_iterable_that_yields_no_task(item: object, late: bool) -> None:
    tasks = [delayed(abs)(i) for i in range(20 if late else 0)]
    with pytest.raises(NotATaskError, match="the iterable yielded") as caught:
        Parallel(n_jobs=2)(iter([*tasks, item]))
    assert isinstance(caught.value, TypeError)
    assert caught.value.index == len(tasks)


class Surprise(Exception):
    pass


@pytest.mark.parametrize("error", [Surprise, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("after", [0, 3, 4, 10, 19])
@pytest.mark.parametrize("return_as", ["list", "generator_unordered"])
def test_iterable_that_raises(
    error: type[BaseException], after: int, return_as: str
) -> None:
    def tasks() -> Iterator[Any]:
        for i in range(after):
            yield delayed(abs)(i)
        raise error("from the iterable")

    with pytest.raises(error, match="from the iterable"):
        list(Parallel(n_jobs=2, return_as=return_as)(tasks()))


def test_iterable_that_uses_the_client(backend: Client) -> None:
    def tasks() -> Iterator[Any]:
        for i in range(12):
            yield delayed(abs)(backend.submit(int, i, pure=False).result())

    assert Parallel(n_jobs=2)(tasks()) == list(range(12))


def test_iterable_that_reuses_a_buffer() -> None:
    def tasks() -> Iterator[Any]:
        buffer = np.zeros(1000)
        for i in range(40):
            buffer[:] = i
            yield delayed(np.sum)(buffer)

    assert Parallel(n_jobs=2)(tasks()) == [1000.0 * i for i in range(40)]


# ----------------------------------------------------------------------------- callables
class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: int) -> int:
        return x + 1


class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, x: int) -> int:
        return self.n + x


def test_callables_of_all_kinds() -> None:
    n = 3
    local = type("Local", (Adder,), {})
    for function in (
        Unhashable(),
        lambda x: x + 1,
        lambda x: x + n - 2,
        Adder(1).add,
        local(1).add,
        partial(Adder.add, Adder(1)),
        (1).__add__,
    ):
        assert Parallel(n_jobs=2)(delayed(function)(i) for i in range(5)) == [
            1, 2, 3, 4, 5,
        ]  # fmt: skip


def test_method_whose_object_changes_between_tasks() -> None:
    def tasks() -> Iterator[Any]:
        adder = Adder(0)
        for i in range(20):
            adder.n = i
            yield delayed(adder.add)(0)

    assert Parallel(n_jobs=2)(tasks()) == list(range(20))


def test_functions_and_classes_of_main(tmp_path: Path) -> None:
    import subprocess

    script = tmp_path / "script.py"
    script.write_text(
        "import joblib, joblib_distributed\n"
        "from joblib import Parallel, delayed\n"
        "class C:\n"
        "    def __init__(self, x): self.x = x\n"
        "def f(c): return C(c.x * 2)\n"
        "with joblib.parallel_config(backend='dask.distributed', n_workers=2):\n"
        "    print([c.x for c in Parallel()(delayed(f)(C(i)) for i in range(4))])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=50
    )
    assert (done.stdout, done.returncode) == ("[0, 2, 4, 6]\n", 0), done.stderr


# ------------------------------------------------------------------- options and clients
def test_unknown_option() -> None:
    with pytest.raises(OptionNameError, match="Did you mean 'scheduler_host'"):
        joblib.parallel_config(backend="dask.distributed", schedular_host="x:1")
    with pytest.raises(OptionNameError, match="Did you mean 'retries'"):
        Parallel(n_jobs=2, backend="dask.distributed", retry=1)([delayed(abs)(1)])


def test_client_that_is_none() -> None:
    with (
        joblib.parallel_config(backend="dask.distributed", client="tcp://127.0.0.1:1"),
        pytest.raises(OptionTypeError, match="client must be a "),
    ):
        Parallel()(delayed(abs)(i) for i in range(2))


def test_asynchronous_client(backend: Client) -> None:
    import asyncio

    async def main() -> None:
        async with Client(
            backend.scheduler.address,
            security=backend.security,
            asynchronous=True,
            set_as_default=False,
        ) as client:
            with (
                joblib.parallel_config(backend="dask.distributed", client=client),
                pytest.raises(AsynchronousClientError, match="is asynchronous"),
            ):
                Parallel()(delayed(abs)(i) for i in range(2))

    asyncio.run(main())


def test_address_where_nobody_listens() -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        joblib.parallel_config(backend="dask.distributed", scheduler_host="127.0.0.1:1"),
        pytest.raises(SchedulerUnreachableError, match=r"scheduler_host='127.0.0.1:1'"),
    ):
        Parallel()(delayed(abs)(i) for i in range(2))


# ----------------------------------------------------------------------------- large data
class Model:
    def __init__(self) -> None:
        self.weights = np.ones(12_500_000)  # 100 MB

    def total(self, i: int) -> float:
        return float(self.weights.sum()) + i


@pytest.mark.slow
def test_large_arguments() -> None:
    text = b"x" * 20_000_000
    assert Parallel(n_jobs=2)(delayed(len)(text) for _ in range(4)) == [20_000_000] * 4
    model = Model()
    assert Parallel(n_jobs=2)(delayed(model.total)(i) for i in range(4)) == [
        12_500_000.0 + i for i in range(4)
    ]


@pytest.mark.parametrize("others", [False, True])
def test_address_of_a_worker_that_nobody_can_look_up(
    embedded_client: Client, others: bool
) -> None:
    with pytest.raises(
        OptionValueError, match=r"workers='no\.such\.host\.invalid:1': the"
    ):
        Parallel(
            n_jobs=2,
            backend="dask.distributed",
            client=embedded_client,
            workers=["no.such.host.invalid:1"],
            allow_other_workers=others,
        )(delayed(abs)(i) for i in range(3))
