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

import dask
import pytest
from distributed import Client, LocalCluster, Nanny
from distributed.scheduler import KilledWorker
from joblib import Parallel, delayed
from joblib.parallel import BatchCompletionCallBack, BatchedCalls

from joblib_distributed.driver import embedded, joblib_hooks, sources
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


def test_joblib_keeps_what_a_failed_call_has_left(backend: Client) -> None:
    """Live: where `forget_leftovers` looks is where joblib puts it."""
    parallel = Parallel(n_jobs=2, return_as="generator", pre_dispatch=1)
    results = parallel(delayed(abs)(i) for i in range(3))
    for name in ("_ready_batches", "_jobs", "_jobs_set"):
        assert hasattr(parallel, name), because(
            f"Parallel.{name}", "joblib_hooks.forget_leftovers"
        )
    assert list(results) == [0, 1, 2]
    parallel._ready_batches.put("a batch")
    parallel._jobs.append("a tracker")
    parallel._jobs_set.add("a tracker")
    joblib_hooks.forget_leftovers(parallel)
    assert parallel._ready_batches.empty()
    assert not parallel._jobs
    assert not parallel._jobs_set
    source = inspect.getsource(Parallel.dispatch_one_batch)
    assert "self._ready_batches.get(block=False)" in source, because(
        "Parallel._ready_batches", "joblib_hooks.forget_leftovers"
    )


@pytest.mark.parametrize(
    ("keywords", "grows"),
    [
        ({}, True),
        ({"pre_dispatch": "n_jobs"}, True),
        ({"pre_dispatch": "3*n_jobs+1"}, True),
        ({"pre_dispatch": "7"}, False),
        ({"pre_dispatch": 7}, False),
        ({"pre_dispatch": "all"}, False),
    ],
)
def test_joblib_says_how_far_it_reads_ahead(
    keywords: dict[str, Any], grows: bool
) -> None:
    assert joblib_hooks.grows_with_n_jobs(Parallel(**keywords)) is grows, because(
        "Parallel.pre_dispatch", "joblib_hooks.grows_with_n_jobs"
    )


def test_nothing_is_carried_back_to_a_call_that_aborts() -> None:
    """Nobody waits for it there; the next call would."""
    parallel = Parallel()
    parallel._aborting = True
    registered: list[object] = []
    parallel._register_new_job = registered.append
    assert joblib_hooks.carry_back(parallel, lambda out: None, None)
    assert registered == [], because("Parallel._aborting", "joblib_hooks.carry_back")


def test_hooks_that_are_gone_do_no_harm() -> None:
    class Bare:
        pass

    joblib_hooks.forget_leftovers(Bare())
    assert not joblib_hooks.grows_with_n_jobs(Bare())

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


def test_a_client_that_was_not_made_can_be_discarded() -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "100ms"}):
        client = Client.__new__(Client)
        with pytest.raises(OSError, match="Timed out"):
            client.__init__("127.0.0.1:1", set_as_default=False)
    assert client._loop_runner.is_started()
    sources._discard(client)
    assert not client._loop_runner.is_started(), because(
        "Client._loop_runner", "driver.sources._discard"
    )
    assert client.status == "closed"


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
