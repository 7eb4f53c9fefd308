"""Calls inside of tasks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import joblib
import pytest
from distributed import Client, get_worker
from joblib import Parallel, delayed

from joblib_distributed import DaskDistributedBackend
from joblib_distributed.driver import backend as driver_backend
from joblib_distributed.driver.backend import MOST_NESTED
from joblib_distributed.errors import OptionNameError
from support.processes import CommandLineCluster
from support.tasks import mark, marks
from support.waiting import wait_until


def tree(depth: int, width: int) -> int:
    """Count the leaves of a tree of nested calls."""
    if depth == 0:
        return 1
    return sum(Parallel()(delayed(tree)(depth - 1, width) for _ in range(width)))


@pytest.mark.parametrize(("depth", "width"), [(2, 6), (3, 4), (5, 2)])
def test_no_deadlock_at_any_depth(depth: int, width: int, backend: object) -> None:
    assert sum(Parallel()(delayed(tree)(depth - 1, width) for _ in range(width))) == (
        width**depth
    )


def tree_without_end() -> Any:
    return Parallel()(delayed(tree_without_end)() for _ in range(2))


def test_recursion_without_end_is_an_error_and_harms_no_worker(backend: object) -> None:
    """Waiting tasks are interrupted while they leave and rejoin their thread pools."""
    for _ in range(4):
        with pytest.raises(RecursionError):
            Parallel()(delayed(tree_without_end)() for _ in range(2))
        assert sum(Parallel()(delayed(tree)(2, 2) for _ in range(2))) == 8


def backends_down(depth: int) -> list[str]:
    """Name the backend of the call at each depth."""
    with Parallel() as parallel:
        name = type(parallel._backend).__name__
        below = parallel(delayed(backends_down)(depth - 1) for _ in range(bool(depth)))
        return [name, *(below[0] if below else [])]


def test_the_deepest_calls_run_where_they_are(backend: object) -> None:
    ours = ["DaskDistributedBackend"] * (MOST_NESTED + 1)
    assert backends_down(MOST_NESTED + 2) == [*ours, *["SequentialBackend"] * 2]


def where_nested(folder: str, name: str, others: int) -> set[str]:
    """Say where the tasks of a nested call run, made while so many more tasks run."""

    def meet(place: str) -> None:
        mark(folder, f"{place}-{name}")
        wait_until(lambda: count(place) > others, 20, lambda: f"{marks(Path(folder))}")

    def count(place: str) -> int:
        return sum(found.startswith(place) for found in marks(Path(folder)))

    meet("before")
    with Parallel() as parallel:
        kind = type(parallel._backend).__name__
        workers = parallel(delayed(worker_name)() for _ in range(8))
    meet("after")
    return {kind, "here" if set(workers) == {worker_name()} else "there"}


def worker_name() -> str:
    return f"{get_worker().address} {threading.get_ident()}"


def test_nested_calls_run_where_they_are_if_no_thread_is_idle(
    backend: object, tmp_path: Path
) -> None:
    found = Parallel()(
        delayed(where_nested)(str(tmp_path), str(i), others=1) for i in range(2)
    )
    assert found == [{"SequentialBackend", "here"}] * 2


def test_nested_calls_use_the_threads_that_are_idle(
    backend: object, tmp_path: Path
) -> None:
    (found,) = Parallel()([delayed(where_nested)(str(tmp_path), "0", others=0)])
    assert found == {"DaskDistributedBackend", "there"}


class Asked:
    """Takes the place of a cluster."""

    def __init__(self, busy: bool) -> None:
        self.busy = busy
        self.depths: list[int] = []

    def is_busy(self, depth: int) -> bool:
        self.depths.append(depth)
        return self.busy


def test_a_busy_cluster_is_not_asked_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(driver_backend, "time", clock)
    lately, cluster = driver_backend._Lately(), Asked(busy=True)
    found = [lately.is_busy(cluster, 1) for _ in range(3)]
    assert (found, cluster.depths) == ([True] * 3, [1])
    clock.now += 2 * driver_backend.BUSY_FOR
    cluster.busy = False
    found = [lately.is_busy(cluster, 1) for _ in range(2)]
    assert (found, cluster.depths) == ([False] * 2, [1, 1, 1])


def where_with(options: dict[str, Any]) -> str:
    with Parallel(**options) as parallel:
        return type(parallel._backend).__name__


@pytest.mark.parametrize("keywords", [{"retries": 2}, {"priority": 7}])
def test_nested_calls_with_wishes_of_their_own_go_to_the_cluster(
    keywords: dict[str, Any], backend: object
) -> None:
    found = Parallel()(delayed(where_with)(keywords) for _ in range(8))
    assert found == ["DaskDistributedBackend"] * 8


def test_nested_calls_inherit_retries(embedded_client: Client) -> None:
    with joblib.parallel_config(backend="dask.distributed", n_workers=2, retries=1):
        found = Parallel()(delayed(where_with)({}) for _ in range(8))
    assert found == ["DaskDistributedBackend"] * 8


def fail_in_nested(folder: str, number: int) -> list[int]:
    try:
        where_nested(folder, str(number), others=1)
        return Parallel()(delayed(fail)(i) for i in range(3))
    except ValueError:
        return Parallel()(delayed(abs)(-i) for i in range(3))


def test_a_call_that_fails_where_it_is_leaves_the_next_one_alone(
    backend: object, tmp_path: Path
) -> None:
    found = Parallel()(delayed(fail_in_nested)(str(tmp_path), i) for i in range(2))
    assert found == [[0, 1, 2]] * 2


def test_no_deadlock_with_several_threads(
    command_line_cluster: CommandLineCluster,
) -> None:
    with joblib.parallel_config(
        backend="dask.distributed", scheduler_host=command_line_cluster.address
    ):
        assert sum(Parallel()(delayed(tree)(2, 5) for _ in range(5))) == 125


def describe_nested() -> tuple[str, int, Any, int]:
    _, n_jobs = joblib.parallel.get_active_backend()
    with Parallel() as parallel:
        bound = parallel._backend
        return (
            type(bound).__name__,
            n_jobs,
            (bound.options.retries, bound.options.priority),
            bound.depth,
        )


def describe_nested_twice() -> Any:
    return describe_nested(), Parallel()(delayed(describe_nested)() for _ in range(2))[0]


def test_options_are_inherited_and_priority_rises(embedded_client: Client) -> None:
    with joblib.parallel_config(
        backend="dask.distributed", n_workers=2, retries=3, priority=5
    ):
        first, second = Parallel()(delayed(describe_nested_twice)() for _ in range(2))[0]
    assert first == ("DaskDistributedBackend", -1, (3, 6), 1)
    assert second == ("DaskDistributedBackend", -1, (3, 7), 2)


def fail(number: int) -> None:
    raise ValueError(f"inner {number}")


def catch_and_go_on() -> Any:
    """A nested call that fails, then one that works: ours must not stay outside."""
    caught = []
    for _ in range(3):
        try:
            Parallel()(delayed(fail)(i) for i in range(2))
        except ValueError as error:
            caught.append(str(error)[:5])
        caught.append(Parallel()(delayed(abs)(-i) for i in range(3)))
    in_pool = threading.current_thread() in get_worker().executor._threads
    return caught, in_pool


def test_a_nested_call_that_fails(backend: object) -> None:
    for caught, in_pool in Parallel()(delayed(catch_and_go_on)() for _ in range(4)):
        assert caught == ["inner", [0, 1, 2]] * 3
        assert in_pool


def test_its_error_reaches_the_user(backend: object) -> None:
    def outer() -> None:
        Parallel()(delayed(fail)(i) for i in range(2))

    with pytest.raises(ValueError, match="inner"):
        Parallel()(delayed(outer)() for _ in range(2))


def two_generators() -> Any:
    first = Parallel(return_as="generator")(delayed(abs)(-i) for i in range(5))
    second = Parallel(return_as="generator")(delayed(abs)(-i) for i in range(5))
    pairs = [next(first), next(second), next(first), next(second)]
    rest = list(first), list(second)
    return pairs, rest, threading.current_thread() in get_worker().executor._threads


def test_two_generators_in_one_task(backend: object) -> None:
    assert (
        Parallel()(delayed(two_generators)() for _ in range(3))
        == [([0, 0, 1, 1], ([2, 3, 4], [2, 3, 4]), True)] * 3
    )


def users_own_task(name: str) -> Any:
    with joblib.parallel_config(backend=name):
        return Parallel()(delayed(abs)(-i) for i in range(10))


def users_own_task_after_secede(name: str) -> Any:
    from distributed import secede

    import joblib_distributed  # noqa: F401

    secede()
    return users_own_task(name)


@pytest.mark.parametrize("task", [users_own_task, users_own_task_after_secede])
def test_inside_a_task_that_the_user_submitted(
    task: Any, embedded_client: Client
) -> None:
    # Workers of the embedded cluster import the package with their first batch.
    with joblib.parallel_config(backend="dask.distributed", n_workers=2):
        Parallel()(delayed(abs)(i) for i in range(4))
    embedded_client.run(__import__, "joblib_distributed")
    futures = embedded_client.map(task, ["dask.distributed"] * 4, pure=False)
    assert embedded_client.gather(futures) == [list(range(10))] * 4
    del futures


def test_sharedmem_inside_a_task_runs_in_threads(backend: object) -> None:
    def outer() -> Any:
        seen: list[int] = []
        Parallel(n_jobs=2, require="sharedmem")(delayed(seen.append)(i) for i in range(4))
        return sorted(seen)

    assert Parallel()(delayed(outer)() for _ in range(2)) == [[0, 1, 2, 3]] * 2


def test_the_nested_backend_travels() -> None:
    backend = DaskDistributedBackend(nesting_level=0, retries=2)
    nested, n_jobs = backend.get_nested_backend()
    assert n_jobs == -1
    assert nested.options.retries == 2
    with pytest.raises(OptionNameError):
        DaskDistributedBackend(retry=2)
