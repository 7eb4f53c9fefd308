"""Each name of joblib or distributed that is not documented, one test a hook.

A failure here means that a new release changed what we rest on: the message says where
to look. The hooks are listed in docs/architecture.md.
"""

from __future__ import annotations

import inspect
import multiprocessing
import sys
import time
from typing import Any

import pytest
from distributed import Client, LocalCluster, Nanny
from distributed.scheduler import KilledWorker
from joblib import Parallel, delayed
from joblib.parallel import BatchCompletionCallBack, BatchedCalls

from joblib_distributed.driver import embedded, joblib_hooks
from support.tasks import in_thread


def because(hook: str, why: str) -> str:
    return f"{hook} has changed; see {why} and the table of hooks in docs/architecture.md"


def test_joblib_batch_items() -> None:
    batch = BatchedCalls([delayed(abs)(1)], (None, None))
    assert joblib_hooks.tasks_of(batch) == [(abs, (1,), {})], because(
        "BatchedCalls.items", "joblib_hooks.tasks_of"
    )


def test_joblib_completion_callback() -> None:
    parameters = list(inspect.signature(BatchCompletionCallBack).parameters)
    assert parameters == ["dispatch_timestamp", "batch_size", "parallel"], because(
        "BatchCompletionCallBack", "joblib_hooks.carry_back"
    )
    assert callable(getattr(Parallel, "_register_new_job", None)), because(
        "Parallel._register_new_job", "joblib_hooks.carry_back"
    )


def test_joblib_reads_the_iterable_in_dispatch_one_batch() -> None:
    parameters = list(inspect.signature(Parallel.dispatch_one_batch).parameters)
    assert parameters == ["self", "iterator"], because(
        "Parallel.dispatch_one_batch", "joblib_hooks.pack_when_read"
    )
    source = inspect.getsource(Parallel.dispatch_one_batch)
    assert "islice(iterator" in source, because(
        "Parallel.dispatch_one_batch", "joblib_hooks.pack_when_read"
    )


def test_joblib_dispatches_more(backend: Client) -> None:
    """Live: the attributes that `dispatch_more` guards exist during a call."""
    parallel = Parallel(n_jobs=2, return_as="generator")
    results = parallel(delayed(time.sleep)(0.2) for _ in range(12))
    for name in ("_lock", "_original_iterator", "_aborting"):
        assert hasattr(parallel, name), because(
            f"Parallel.{name}", "joblib_hooks.dispatch_more"
        )
    before = parallel.n_dispatched_tasks
    assert joblib_hooks.dispatch_more(parallel, 2) == 2
    assert parallel.n_dispatched_tasks >= before + 2
    assert list(results) == [None] * 12


def test_hooks_that_are_gone_do_no_harm() -> None:
    class Bare:
        pass

    assert joblib_hooks.dispatch_more(Bare(), 3) == 0
    assert not joblib_hooks.carry_back(Bare(), lambda out: None, None)


def test_joblib_registers_lokys_start_method() -> None:
    assert embedded.START_METHOD in multiprocessing.context._concrete_contexts, because(
        "multiprocessing.get_context('loky')", "driver.embedded"
    )


def test_the_nanny_starts_its_worker_where_configured(own_cluster: LocalCluster) -> None:
    for nanny in own_cluster.workers.values():
        process: Any = nanny.process.process._process
        assert "loky" in type(process).__module__, because(
            "Nanny.instantiate", "driver.embedded._LokyNanny"
        )
        assert callable(process._popen.kill), because(
            "Nanny.process.process._process._popen", "driver.embedded._let_it_be_killed"
        )
    assert "instantiate" in vars(Nanny)


def test_distributed_gives_up_workers(own_cluster: LocalCluster) -> None:
    assert set(own_cluster.workers) == set(own_cluster.worker_spec), because(
        "SpecCluster.workers", "driver.embedded.restore"
    )


def test_the_scheduler_tells_the_states_of_tasks(own_client: Client) -> None:
    future = own_client.submit(abs, -1)
    assert future.result() == 1
    states = own_client.sync(
        own_client.scheduler.get_task_status, keys=[future.key, "unknown"]
    )
    assert states == {future.key: "memory", "unknown": None}, because(
        "the scheduler's operation get_task_status", "driver.cluster.Cluster.look"
    )


def test_the_client_gathers_on_its_own_loop(own_client: Client) -> None:
    async def gather() -> Any:
        return await own_client.gather(own_client.submit(abs, -2), asynchronous=True)

    assert own_client.sync(gather) == 2, because(
        "Client.gather(asynchronous=True)", "driver.cluster.Cluster._follow"
    )


def test_killed_worker_says_which() -> None:
    error = KilledWorker("key", own_worker := object(), 3)
    assert (error.last_worker, error.allowed_failures) == (own_worker, 3), because(
        "KilledWorker", "driver.refusals.describe_death"
    )


def test_a_thread_that_imports_is_seen(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imports_itself.py").write_text(
        "from support.frames import is_in_function\nseen = is_in_function()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def look() -> tuple[bool, bool]:
        from support import frames

        frames.frame = sys._getframe()
        import imports_itself

        return imports_itself.seen, frames.is_in_function()

    try:
        assert in_thread(look)() == (False, True), because(
            "the file name of importlib's frames", "worker.interrupt._is_in_function"
        )
    finally:
        sys.modules.pop("imports_itself", None)
