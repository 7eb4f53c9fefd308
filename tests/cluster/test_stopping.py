"""What is no longer wanted stops: after an error, a timeout, Ctrl-C, a dropped generator.

The tasks that are to be stopped spin in Python for a minute: only if they are
interrupted do the next call's tasks find free threads before the deadline.
"""

from __future__ import annotations

import _thread
import gc
import multiprocessing
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import joblib
import pytest
from distributed import Client, Future, LocalCluster
from joblib import Parallel, delayed

from support.processes import CommandLineCluster
from support.tasks import fail_when_all_run, in_thread, mark, marks, spin
from support.waiting import wait_until

# What the issue promises, with room for a busy machine of two cores.
SECONDS_TO_RAISE = 5
SECONDS_TO_STOP = 10


def running(client: Client) -> list[str]:
    """Keys that a worker has queued or is running."""

    def keys(dask_worker: Any) -> list[str]:
        return [
            key
            for key, task in dask_worker.state.tasks.items()
            if task.state not in ("released", "forgotten", "memory")
        ]

    return [key for keys_of in client.run(keys).values() for key in keys_of]


def assert_stopped(client: Client, folder: Path) -> None:
    wait_until(
        lambda: not running(client), SECONDS_TO_STOP, lambda: f"runs: {running(client)}"
    )
    assert not any(name.startswith("finished") for name in marks(folder))
    assert Parallel()(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


def test_after_an_error(backend: Client, tmp_path: Path) -> None:
    tasks = [delayed(spin)(str(tmp_path), i) for i in range(6)]
    with pytest.raises(ValueError, match="the one that fails"):
        Parallel()([delayed(fail_when_all_run)(str(tmp_path), 1), *tasks])
    assert_stopped(backend, tmp_path)
    # One ran beside the task that failed. The thread that this left may have begun
    # another before it was told to stop; the rest never began.
    assert len(marks(tmp_path)) <= 3


def fail() -> None:
    raise ValueError("the one that fails")


def test_an_error_ends_its_batch(backend: Client, tmp_path: Path) -> None:
    """It is raised at once, not after the tasks that joblib sent with it."""
    behind = [delayed(mark)(str(tmp_path), i) for i in range(7)]
    others = [delayed(abs)(i) for i in range(8)]
    with pytest.raises(ValueError, match="the one that fails"):
        Parallel(n_jobs=2, batch_size=8, pre_dispatch=16)(
            [delayed(fail)(), *behind, *others]
        )
    assert marks(tmp_path) == set()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 6])
def test_nothing_of_a_failed_call_is_left_to_the_next(
    batch_size: int, backend: Client
) -> None:
    parallel = Parallel(batch_size=batch_size)
    for _ in range(3):
        with pytest.raises(ValueError, match="the one that fails"):
            parallel(delayed(fail if i == 7 else abs)(*[i][i == 7 :]) for i in range(100))
        results = parallel(delayed(abs)(i) for i in range(1000, 1006))
        assert results == list(range(1000, 1006))


def spin_once(folder: str, number: int) -> int:
    if number == 0 and "running-0" not in marks(Path(folder)):
        spin(folder, 0)
    return number


def test_a_first_run_of_what_was_sent_again(
    shared_worker: Client, tmp_path: Path
) -> None:
    """Somebody cancels its key: the engine forgets it, but its thread goes on."""

    def call() -> Any:
        with joblib.parallel_config(backend="dask.distributed", client=shared_worker):
            return Parallel(n_jobs=2)(
                delayed(spin_once)(str(tmp_path), i) for i in (0, 1)
            )

    result = in_thread(call)
    wait_until(lambda: marks(tmp_path), 30, lambda: "nothing runs")
    with Client(shared_worker.scheduler.address, set_as_default=False) as other:
        keys = running(shared_worker)
        other.sync(other._cancel, [Future(key, other) for key in keys], force=True)
    assert result() == [0, 1]
    wait_until(
        lambda: not running(shared_worker), SECONDS_TO_STOP, lambda: "its thread runs on"
    )
    assert marks(tmp_path) == {"running-0"}


def test_after_an_error_with_many_threads(
    command_line_cluster: CommandLineCluster, tmp_path: Path
) -> None:
    address = command_line_cluster.address
    with (
        joblib.parallel_config(backend="dask.distributed", scheduler_host=address),
        Client(address, set_as_default=False) as client,
    ):
        tasks = [delayed(spin)(str(tmp_path), i) for i in range(7)]
        with pytest.raises(ValueError, match="the one that fails"):
            Parallel()([delayed(fail_when_all_run)(str(tmp_path), 3), *tasks])
        assert_stopped(client, tmp_path)


def test_after_a_timeout(backend: Client, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.5)(delayed(spin)(str(tmp_path), i) for i in range(4))
    assert time.monotonic() - start < 0.5 + SECONDS_TO_RAISE
    assert_stopped(backend, tmp_path)


def test_after_ctrl_c(backend: Client, tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_until(lambda: marks(tmp_path), 30, lambda: "nothing runs")
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Parallel()(delayed(spin)(str(tmp_path), i) for i in range(4))
    thread.join()
    assert_stopped(backend, tmp_path)


def test_after_a_dropped_generator(backend: Client, tmp_path: Path) -> None:
    tasks = [delayed(spin)(str(tmp_path), i) for i in range(4)]
    generator = Parallel(return_as="generator")([delayed(abs)(-1), *tasks])
    assert next(generator) == 1
    with warnings.catch_warnings():
        # joblib warns that results were dropped, which is the point of this test.
        warnings.simplefilter("ignore")
        del generator
        gc.collect()
    assert_stopped(backend, tmp_path)


def nested(folder: str) -> Any:
    return Parallel(n_jobs=2)(delayed(spin)(folder, i) for i in range(4))


def test_nested_calls_stop_with_their_parent(backend: Client, tmp_path: Path) -> None:
    tasks = [delayed(nested)(str(tmp_path)) for _ in range(2)]
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=2)(tasks)
    assert_stopped(backend, tmp_path)


def test_while_a_module_is_imported(backend: Client, tmp_path: Path) -> None:
    """An interrupted import could not be repeated; see `worker.interrupt`."""
    module = tmp_path / "slow_to_import.py"
    module.write_text(
        "import os, time\n"
        f"open({str(tmp_path / 'importing')!r}, 'w').close()\n"
        "end = time.monotonic() + 1.5\n"
        "while time.monotonic() < end: pass\n"
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
    )

    def import_it(folder: str) -> None:
        import sys

        sys.path.insert(0, folder)
        import slow_to_import  # noqa: F401

        spin(folder, "after import")

    def fail(folder: str) -> None:
        from support.tasks import wait_for_file

        wait_for_file(folder + "/importing")
        raise ValueError("the one that fails")

    with pytest.raises(ValueError, match="the one that fails"):
        Parallel()([delayed(fail)(str(tmp_path)), delayed(import_it)(str(tmp_path))])
    wait_until(lambda: (tmp_path / "imported").exists(), 10, lambda: "import was broken")
    assert_stopped(backend, tmp_path)


def test_leaving_a_managed_parallel(backend: Client, tmp_path: Path) -> None:
    with Parallel() as parallel:
        for _ in range(2):
            with pytest.raises(ValueError, match="the one that fails"):
                parallel(
                    [
                        delayed(fail_when_all_run)(str(tmp_path), 1),
                        delayed(spin)(str(tmp_path), 1),
                    ]
                )
            assert parallel(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
            (tmp_path / "running-1").unlink()
    assert_stopped(backend, tmp_path)


def test_the_tasks_of_other_calls_go_on(
    own_cluster: LocalCluster, own_client: Client, tmp_path: Path
) -> None:
    def until_told(folder: str) -> int:
        from support.tasks import wait_for_file

        mark(folder, "running-other")
        wait_for_file(folder + "/stop")
        return 42

    with joblib.parallel_config(backend="dask.distributed", client=own_client):
        other = Parallel(n_jobs=2, return_as="generator")(
            [delayed(until_told)(str(tmp_path))]
        )
        wait_until(lambda: marks(tmp_path), 30, lambda: "the other call does not run")
        with pytest.raises(ValueError, match="the one that fails"):
            Parallel()(
                [
                    delayed(fail_when_all_run)(str(tmp_path), 1),
                    delayed(spin)(str(tmp_path), 1),
                ]
            )
        mark(str(tmp_path), "stop")
        assert list(other) == [42]
