"""joblib's contract, on real worker processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import pytest
from distributed import Client
from joblib import Parallel, delayed

import joblib_distributed
from joblib_distributed import DaskDistributedBackend
from support.processes import CommandLineCluster
from support.tasks import Concurrency, in_thread, mark, marks, wait_for_file
from support.waiting import wait_until


def square(x: int) -> int:
    return x * x


SQUARES = [i * i for i in range(100)]


def test_results_are_in_order(backend: object) -> None:
    assert Parallel()(delayed(square)(i) for i in range(100)) == SQUARES


def test_tasks_run_on_the_workers(backend: Client) -> None:
    workers = set(backend.run(os.getpid).values())
    assert set(Parallel()(delayed(os.getpid)() for _ in range(50))) <= workers


# ------------------------------------------------------------------ ways to choose it
@pytest.mark.parametrize("name", ["dask.distributed", "distributed"])
def test_names(name: str, embedded_client: Client) -> None:
    workers = set(embedded_client.run(os.getpid).values())
    with joblib.parallel_config(backend=name, n_workers=2):
        assert Parallel()(delayed(os.getpid)() for _ in range(2))[0] in workers
    with joblib.parallel_backend(name, n_workers=2):
        assert Parallel()(delayed(os.getpid)() for _ in range(2))[0] in workers
    found = Parallel(n_jobs=2, backend=name, n_workers=2)(
        delayed(os.getpid)() for _ in range(2)
    )
    assert found[0] in workers
    instance = joblib_distributed.DaskDistributedBackend(n_workers=2)
    found = Parallel(n_jobs=2, backend=instance)(delayed(os.getpid)() for _ in range(2))
    assert found[0] in workers
    with joblib.parallel_config(backend=instance):
        assert Parallel()(delayed(os.getpid)() for _ in range(2))[0] in workers


def test_register_under_a_further_name(embedded_client: Client) -> None:
    joblib_distributed.register("a further name")
    try:
        with joblib.parallel_config(backend="a further name", n_workers=2):
            assert Parallel()(delayed(square)(i) for i in range(5)) == SQUARES[:5]
    finally:
        del joblib.parallel.BACKENDS["a further name"]


def test_messages_of_joblib(backend: object, capsys: pytest.CaptureFixture[str]) -> None:
    Parallel(verbose=100)(delayed(square)(i) for i in range(4))
    out = capsys.readouterr().out
    assert "Using backend DaskDistributedBackend with 2 concurrent workers." in out
    assert "Done   4 out of   4 | elapsed:" in out


# ------------------------------------------------------------------------------ n_jobs
def test_n_jobs_zero(backend: object) -> None:
    with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
        Parallel(n_jobs=0)(delayed(square)(i) for i in range(3))


def test_n_jobs_one_runs_here(backend: object) -> None:
    assert set(Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(3))) == {
        os.getpid()
    }


@pytest.mark.parametrize(
    ("n_jobs", "expected"), [(1, 1), (2, 2), (3, 3), (-1, 4), (-2, 3), (-4, 1), (-9, 1)]
)
def test_k_is_never_more_than_k_at_a_time(
    n_jobs: int, expected: int, command_line_cluster: CommandLineCluster, tmp_path: Path
) -> None:
    """Measured by the tasks themselves, on a cluster of four threads."""
    with joblib.parallel_config(
        backend="dask.distributed", scheduler_host=command_line_cluster.address
    ):
        assert joblib.effective_n_jobs(n_jobs) == expected
        task = Concurrency(tmp_path).task
        most = Parallel(n_jobs=n_jobs)(delayed(task)(i) for i in range(24))
    assert max(most) == expected


def test_uncapped_n_jobs(
    command_line_cluster: CommandLineCluster, tmp_path: Path
) -> None:
    with joblib.parallel_config(
        backend="dask.distributed",
        scheduler_host=command_line_cluster.address,
        cap_n_jobs=False,
    ):
        assert joblib.effective_n_jobs(2) == 4
        task = Concurrency(tmp_path).task
        most = Parallel(n_jobs=2)(delayed(task)(i) for i in range(24))
        assert max(most) == 4
        with pytest.raises(ValueError, match="n_jobs == 0"):
            Parallel(n_jobs=0)(delayed(square)(i) for i in range(3))


def test_one_job_of_somebodys_cluster_runs_there(
    command_line_cluster: CommandLineCluster,
) -> None:
    """-4 of four threads is one; it must still not be the user's own process."""
    with joblib.parallel_config(
        backend="dask.distributed", scheduler_host=command_line_cluster.address
    ):
        found = Parallel(n_jobs=-4)(delayed(os.getpid)() for _ in range(3))
    assert os.getpid() not in found


def test_effective_n_jobs_starts_nothing() -> None:
    backend = DaskDistributedBackend(n_workers=7, threads_per_worker=3)
    assert backend.effective_n_jobs(-1) == 21
    assert backend.effective_n_jobs(-2) == 20
    assert backend.effective_n_jobs(5) == 5
    assert backend._cluster is None


# --------------------------------------------------------------------------- return_as
@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators(return_as: str, backend: object) -> None:
    results = Parallel(return_as=return_as)(delayed(square)(i) for i in range(100))
    assert sorted(results) == SQUARES


def test_a_generator_gives_results_as_they_come(backend: object, tmp_path: Path) -> None:
    def late(folder: str) -> str:
        wait_for_file(folder + "/go")
        return "late"

    results = Parallel(return_as="generator_unordered", n_jobs=2)(
        [delayed(late)(str(tmp_path)), *(delayed(str)(i) for i in range(5))]
    )
    assert sorted(next(results) for _ in range(5)) == list("01234")
    mark(str(tmp_path), "go")
    assert list(results) == ["late"]


def test_two_generators_alive_on_one_context(backend: object) -> None:
    first = Parallel(return_as="generator")(delayed(square)(i) for i in range(50))
    second = Parallel(return_as="generator")(delayed(square)(-i) for i in range(50))
    pairs = list(zip(first, second, strict=True))
    assert pairs == [(i * i, i * i) for i in range(50)]


def test_calls_from_several_threads(embedded_client: Client) -> None:
    config = joblib.parallel_config(backend="dask.distributed", n_workers=2)
    shared = config.parallel_config["backend"]
    config.unregister()

    def call(offset: int) -> Any:
        return [
            Parallel(n_jobs=2, backend=shared)(
                delayed(square)(offset + i) for i in range(20)
            )
            for _ in range(5)
        ]

    results = [in_thread(lambda offset=offset: call(offset)) for offset in range(4)]
    for offset, result in enumerate(results):
        assert result() == [[(offset + i) ** 2 for i in range(20)]] * 5


def test_parallel_as_a_context_manager(backend: object) -> None:
    with Parallel(n_jobs=2) as parallel:
        for n in (0, 1, 5, 50):
            assert parallel(delayed(square)(i) for i in range(n)) == SQUARES[:n]
    assert parallel(delayed(square)(i) for i in range(3)) == SQUARES[:3]


@pytest.mark.parametrize("batch_size", [1, 3, 1000, "auto"])
@pytest.mark.parametrize("pre_dispatch", ["all", 3, "2*n_jobs", "10 * n_jobs"])
def test_batches(batch_size: Any, pre_dispatch: Any, backend: object) -> None:
    parallel = Parallel(n_jobs=2, batch_size=batch_size, pre_dispatch=pre_dispatch)
    assert parallel(delayed(square)(i) for i in range(100)) == SQUARES


def test_a_fixed_batch_size_is_kept(backend: Client) -> None:
    def batch_keys(number: int) -> str:
        from distributed.worker import thread_state

        return str(thread_state.key)

    parallel = Parallel(n_jobs=2, batch_size=5, pre_dispatch="all")
    keys = parallel(delayed(batch_keys)(i) for i in range(20))
    assert len(set(keys)) == 4
    assert [keys.count(key) for key in keys] == [5] * 20
    assert all(key.startswith("batch_of_batch_keys-") for key in keys)


def test_auto_batches_many_short_tasks(backend: object) -> None:
    with Parallel() as parallel:
        parallel(delayed(square)(i) for i in range(5000))
        assert parallel.n_completed_tasks == 5000
        assert parallel.n_dispatched_batches < 200


def test_pre_dispatch_bounds_what_is_read(backend: object, tmp_path: Path) -> None:
    read = []

    def tasks() -> Iterator[Any]:
        for i in range(20):
            read.append(i)
            yield delayed(wait_for_file)(str(tmp_path / "go"))

    results = Parallel(n_jobs=2, pre_dispatch=3, return_as="generator")(tasks())
    assert len(read) <= 4
    mark(str(tmp_path), "go")
    assert list(results) == [None] * 20


@pytest.mark.parametrize("prefer", ["threads", "processes", None])
def test_prefer_is_only_a_hint(prefer: str | None, backend: Client) -> None:
    workers = set(backend.run(os.getpid).values())
    assert set(Parallel(prefer=prefer)(delayed(os.getpid)() for _ in range(4))) <= workers


def test_require_sharedmem_runs_in_threads_here(backend: object) -> None:
    seen: list[int] = []
    Parallel(n_jobs=2, require="sharedmem")(delayed(seen.append)(i) for i in range(4))
    assert sorted(seen) == [0, 1, 2, 3]


# ----------------------------------------------------------------------------- options
def fail_until(folder: str, number: int, times: int) -> int:
    before = len([name for name in os.listdir(folder) if name.startswith(f"{number}-")])
    mark(folder, f"{number}-{before}")
    if before < times:
        raise ValueError(f"failure {before}")
    return number


def test_retries_count_the_users_exceptions(
    embedded_client: Client, tmp_path: Path
) -> None:
    with joblib.parallel_config(backend="dask.distributed", n_workers=2, retries=2):
        tasks = [
            delayed(fail_until)(str(tmp_path), i, 2 if i == 3 else 0) for i in range(6)
        ]
        assert Parallel()(tasks) == list(range(6))
        assert marks(tmp_path) == {"0-0", "1-0", "2-0", "3-0", "3-1", "3-2", "4-0", "5-0"}
        with pytest.raises(ValueError, match="failure 2"):
            Parallel()(delayed(fail_until)(str(tmp_path), i, 9) for i in range(7, 9))


def test_workers_option(command_line_cluster: CommandLineCluster) -> None:
    from distributed import get_worker

    def address(_: int) -> str:
        return str(get_worker().address)

    with Client(command_line_cluster.address, set_as_default=False) as client:
        first = next(iter(client.nthreads()))
    with joblib.parallel_config(
        backend="dask.distributed",
        scheduler_host=command_line_cluster.address,
        workers=first,
    ):
        assert joblib.effective_n_jobs(-1) == 2
        assert Parallel()(delayed(address)(i) for i in range(10)) == [first] * 10


def test_inner_max_num_threads(embedded_client: Client) -> None:
    def limits() -> set[int]:
        from threadpoolctl import threadpool_info

        np.ones((2, 2)) @ np.ones((2, 2))
        return {pool["num_threads"] for pool in threadpool_info()}

    for limit in (1, 2):
        with joblib.parallel_config(
            backend="dask.distributed", n_workers=2, inner_max_num_threads=limit
        ):
            assert Parallel()(delayed(limits)() for _ in range(4)) == [{limit}] * 4


# --------------------------------------------------------------------- whose thread it is
def test_the_iterable_is_read_on_no_event_loop(backend: Client) -> None:
    threads = set()

    def tasks() -> Iterator[Any]:
        for i in range(30):
            threads.add(threading.current_thread().name)
            yield delayed(square)(i)

    Parallel(n_jobs=2)(tasks())
    assert threads == {"MainThread", "joblib-distributed-delivery"}


def test_a_call_in_the_iterable_of_a_call(backend: object) -> None:
    def tasks() -> Iterator[Any]:
        for i in range(6):
            (value,) = Parallel(n_jobs=2, backend="threading")([delayed(square)(i)])
            yield delayed(square)(value)

    assert Parallel(n_jobs=2)(tasks()) == [i**4 for i in range(6)]


def test_large_results(backend: object) -> None:
    results = Parallel()(delayed(np.full)(1_000_000, i) for i in range(6))
    assert [int(result.sum()) for result in results] == [i * 1_000_000 for i in range(6)]
    assert all(result.flags.writeable for result in results)


def test_timeout_that_is_not_reached(backend: object) -> None:
    assert Parallel(timeout=30)(delayed(square)(i) for i in range(9)) == SQUARES[:9]


def test_empty_call(backend: object) -> None:
    assert Parallel()([]) == []
    assert list(Parallel(return_as="generator")([])) == []


def test_threads_end_when_a_generator_is_exhausted(backend: object) -> None:
    generator = Parallel(return_as="generator")(delayed(square)(i) for i in range(3))
    assert list(generator) == SQUARES[:3]
    wait_until(
        lambda: (
            "joblib-distributed-ledger" not in [t.name for t in threading.enumerate()]
        ),
        10,
        lambda: "the generator's thread is left",
    )


def test_duration_of_batches_is_the_workers_own(backend: object) -> None:
    """The first tasks are slow to unpickle nowhere: sizes come from their durations."""
    with Parallel(n_jobs=2) as parallel:
        parallel(delayed(time.sleep)(0.25) for _ in range(4))
        parallel(delayed(time.sleep)(0.25) for _ in range(4))
        assert parallel.n_dispatched_batches == 4


class Counting(DaskDistributedBackend):
    """Counts the calls of each `Parallel`, as a user's subclass may."""

    started: ClassVar[list[str]] = []

    def start_call(self) -> None:
        self.started.append(self.name)
        super().start_call()


def test_subclass_keeps_its_class_and_attributes(embedded_client: Client) -> None:
    backend = Counting(n_workers=2)
    backend.name = "mine"
    Counting.started.clear()
    with joblib.parallel_config(backend=backend):
        for _ in range(2):
            assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
    assert Counting.started == ["mine", "mine"]


# --------------------------------------------------------------------------- progress
@pytest.mark.parametrize("calls_are", [list, iter])
def test_progress_is_told_to_a_log(
    backend: Client, capsys: pytest.CaptureFixture[str], calls_are: Callable[..., Any]
) -> None:
    calls = calls_are([delayed(abs)(-i) for i in range(30)])
    with joblib.parallel_config(backend="dask.distributed", n_workers=2, progress=True):
        assert Parallel(n_jobs=2)(calls) == list(range(30))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("abs: 100%|##########| 30/30 [")
    assert last.endswith(", 2 threads]")


def test_progress_of_a_call_that_fails_ends_where_it_was(
    backend: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        joblib.parallel_config(backend="dask.distributed", n_workers=2, progress=True),
        pytest.raises(TypeError),
    ):
        Parallel(n_jobs=2)([delayed(abs)("x") for _ in range(3)])
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("abs: ")
