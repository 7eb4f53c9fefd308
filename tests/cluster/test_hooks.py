"""Each name of joblib or distributed that is not documented, one test a hook.

A failure here means that a new release changed what we rest on: the message says where
to look. The hooks are listed in docs/architecture.md.
"""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import dask
import distributed.comm
import joblib
import pytest
from distributed import Client, LocalCluster, Nanny, Status, Worker, get_worker
from distributed.batched import BatchedSend
from distributed.protocol import to_serialize
from distributed.scheduler import KilledWorker, heartbeat_interval
from distributed.utils import offload
from joblib import Parallel, delayed
from joblib.parallel import BatchCompletionCallBack, BatchedCalls

from joblib_distributed.data.carried import carried
from joblib_distributed.driver import embedded, heartbeats, joblib_hooks, latency, sources
from joblib_distributed.driver.certificate import temporary_security
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.driver.latency import INTERVAL
from support.tasks import in_thread, mark, marks, wait_for_file
from support.waiting import wait_until


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
    for what in ("islice(iterator", "self._ready_batches.put(tasks)"):
        assert what in source, because(
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
    assert joblib_hooks.dispatch_more(parallel, 2, lambda: False) == 0
    assert joblib_hooks.dispatch_more(parallel, 2, lambda: True) == 2
    assert parallel.n_dispatched_tasks >= before + 2
    assert list(results) == [None] * 12


@pytest.mark.parametrize(
    ("return_as", "is_ordered"),
    [("list", True), ("generator", True), ("generator_unordered", False)],
)
def test_joblib_says_whether_results_come_in_order(
    return_as: str, is_ordered: bool
) -> None:
    found = joblib_hooks.returns_in_order(Parallel(return_as=return_as))
    assert found is is_ordered, because(
        "Parallel.return_ordered", "joblib_hooks.returns_in_order"
    )


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_joblib_goes_on_as_soon_as_results_arrive(
    backend: Client,
    return_as: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Live: joblib asks `_wait_retrieval` before it pauses, and then need not."""
    pauses: list[float] = []

    class Clock:
        def sleep(self, seconds: float) -> None:
            pauses.append(seconds)
            time.sleep(seconds)

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

    monkeypatch.setattr("joblib.parallel.time", Clock())

    def call() -> list[int]:
        tasks = (delayed(hold)(str(tmp_path), i) for i in range(4))
        with joblib.parallel_config(backend="dask.distributed", client=backend):
            return sorted(Parallel(n_jobs=2, return_as=return_as)(tasks))

    ended = in_thread(call)
    wait_until(
        lambda: marks(tmp_path) >= {"running-0", "running-1"},
        timeout=20,
        describe=lambda: f"running: {marks(tmp_path)}",
    )
    (tmp_path / "go").touch()
    assert ended() == [0, 10, 20, 30]
    assert pauses == [], because("Parallel._retrieve", "joblib_hooks.wait_for_results")


def test_joblib_raises_what_a_callback_says() -> None:
    """A callback that is to raise says so by its `status`, and what by its `_result`."""
    why = because(
        "BatchCompletionCallBack, its status or _result", "joblib_hooks._raise_at_last"
    )
    for name in ("TASK_PENDING", "TASK_ERROR"):
        assert hasattr(joblib.parallel, name), because(
            f"joblib.parallel.{name}", "joblib_hooks"
        )
    with joblib.parallel_config(backend="threading"):
        parallel = Parallel(n_jobs=2, return_as="generator")
    assert list(parallel(delayed(abs)(-i) for i in range(2))) == [0, 1]
    parallel._jobs.clear()
    joblib_hooks._raise_at_last(parallel, error := ValueError("at last"))
    (tracker,) = parallel._jobs
    with pytest.raises(ValueError, match="at last") as caught:
        tracker.get_result(timeout=None)
    assert caught.value is error, why


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_joblib_raises_at_last_what_was_withheld(
    backend: Client, return_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live: all results of a generator come before."""
    first, second = ValueError("first"), ValueError("second")
    wait_for_results = joblib_hooks.wait_for_results

    def withhold(
        parallel: Any, arrived: Any, withheld: list[Exception], look: Any
    ) -> None:
        withheld += [first, second]
        wait_for_results(parallel, arrived, withheld, look)

    monkeypatch.setattr(joblib_hooks, "wait_for_results", withhold)
    parallel = Parallel(n_jobs=2, return_as=return_as)
    found = []
    with pytest.raises(ValueError, match="first") as caught:
        found += parallel(delayed(abs)(-i) for i in range(6))
    why = because(
        "Parallel._jobs, or BatchCompletionCallBack", "joblib_hooks._raise_at_last"
    )
    assert caught.value is first, why
    assert sorted(found) == ([] if return_as == "list" else [0, 1, 2, 3, 4, 5]), why
    # Nothing is left for the next call.
    monkeypatch.undo()
    assert sorted(parallel(delayed(abs)(-i) for i in range(3))) == [0, 1, 2]


def test_joblib_looks_at_the_clock_while_it_waits(
    backend: Client, tmp_path: Path
) -> None:
    tasks = [delayed(hold)(str(tmp_path), i) for i in range(4)]
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(n_jobs=2, timeout=0.2)(tasks)
    (tmp_path / "go").touch()


def hold(folder: str, number: int) -> int:
    mark(folder, f"running-{number}")
    wait_for_file(folder + "/go")
    return number * 10


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


@pytest.mark.parametrize(
    ("keywords", "sizes"),
    [
        ({}, True),
        ({"batch_size": "auto"}, True),
        ({"batch_size": 5}, False),
        ({"batch_size": 1}, False),
    ],
)
def test_joblib_says_who_sizes_batches(keywords: dict[str, Any], sizes: bool) -> None:
    assert joblib_hooks.sizes_batches(Parallel(**keywords)) is sizes, because(
        "Parallel.batch_size", "joblib_hooks.sizes_batches"
    )


@pytest.mark.parametrize(
    ("keywords", "is_list"),
    [
        ({}, True),
        ({"return_as": "list"}, True),
        ({"return_as": "generator"}, False),
        ({"return_as": "generator_unordered"}, False),
    ],
)
def test_joblib_says_what_it_returns(keywords: dict[str, Any], is_list: bool) -> None:
    assert joblib_hooks.returns_list(Parallel(**keywords)) is is_list, because(
        "Parallel.return_generator", "joblib_hooks.returns_list"
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
    # Batches are then as good as joblib's, and nobody waits for what he need not.
    assert joblib_hooks.sizes_batches(Bare())
    assert not joblib_hooks.returns_list(Bare())
    latency.send_soon(Bare())
    latency.pass_on_soon(Bare())
    assert joblib_hooks.dispatch_more(Bare(), 3, lambda: True) == 0
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


def test_a_worker_that_dies_leaves_no_queue(own_cluster: LocalCluster) -> None:
    """Whose thread would keep semaphores until they are said to be leaked."""

    def of_queues() -> set[threading.Thread]:
        return {t for t in threading.enumerate() if t.name == "QueueFeederThread"}

    before = of_queues()
    nanny = next(iter(own_cluster.workers.values()))
    pid = nanny.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: nanny.pid not in (pid, None), 30, lambda: "no new worker")
    wait_until(
        lambda: len(of_queues()) <= len(before),
        10,
        lambda: because("Nanny._on_worker_exit_sync", "driver.embedded._LokyNanny"),
    )


def test_distributed_gives_up_workers(own_cluster: LocalCluster) -> None:
    assert set(own_cluster.workers) == set(own_cluster.worker_spec), because(
        "SpecCluster.workers", "driver.embedded.restore"
    )


def test_a_scheduler_is_told_where_to_keep_files(tmp_path: Path) -> None:
    before = list(sys.path)
    with LocalCluster(
        n_workers=0,
        host="127.0.0.1",
        dashboard_address=None,
        scheduler_kwargs={"local_directory": str(tmp_path)},
    ) as cluster:
        folder = cluster.scheduler.local_directory
        assert Path(folder).is_relative_to(tmp_path), because(
            "Scheduler(local_directory=)", "driver.embedded._start"
        )
        assert folder in sys.path, (
            "dask does not look for modules where it keeps files any more: the reason "
            "for driver.embedded._scratch_folder is gone"
        )
    sys.path[:] = before


def test_security_takes_text_for_files() -> None:
    security = temporary_security()
    context = security.get_connection_args("client")["ssl_context"]
    assert context.cert_store_stats()["x509"] == 1, because(
        "Security(tls_ca_file=)", "driver.certificate.temporary_security"
    )


def test_the_scheduler_tells_the_states_of_tasks(own_client: Client) -> None:
    future = own_client.submit(abs, -1)
    assert future.result() == 1
    states = own_client.sync(
        own_client.scheduler.get_task_status, keys=[future.key, "unknown"]
    )
    assert states == {future.key: "memory", "unknown": None}, because(
        "the scheduler's operation get_task_status", "driver.looks._ask"
    )


def test_the_scheduler_tells_when_it_last_heard_of_each_worker(
    own_client: Client,
) -> None:
    def last_seen() -> dict[str, float]:
        found = own_client.sync(own_client.scheduler.identity)
        return {a: worker["last_seen"] for a, worker in found["workers"].items()}

    before = last_seen()
    addresses = own_client.nthreads().keys()
    assert before.keys() == addresses, because(
        "the scheduler's operation identity", "driver.looks._ask"
    )
    wait_until(
        lambda: all(now > before[a] for a, now in last_seen().items()),
        30,
        lambda: "nobody reports",
    )


@pytest.mark.parametrize("workers", [1, 10, 49, 50, 199, 200, 1000])
def test_workers_report_as_often_as_is_believed(workers: int) -> None:
    assert heartbeat_interval(workers) <= heartbeats.interval(workers), because(
        "distributed.scheduler.heartbeat_interval", "driver.heartbeats.interval"
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


# ------------------------------------------------------- how soon messages are passed on
def assert_collects(stream: object, hook: str, function: str) -> None:
    """What we shorten is there, and still is longer when nobody does."""
    why = because(hook, f"driver.latency.{function}")
    assert isinstance(stream, BatchedSend), why
    interval = getattr(stream, "interval", None)
    assert isinstance(interval, (int, float)), because(
        "BatchedSend.interval", "driver.latency"
    )
    assert interval > INTERVAL, (
        f"{hook} no longer waits longer than we want it to: driver.latency.{function} "
        "can go, and its row of the table of hooks in docs/architecture.md"
    )


def intervals(scheduler: Any, name: str) -> list[float]:
    """What we have made of a scheduler's streams; there must be some."""
    streams = getattr(scheduler, name, None)
    assert streams, because(f"Scheduler.{name}", "driver.latency.pass_on_soon")
    return [stream.interval for stream in streams.values()]


def test_a_client_collects_messages_until_it_is_used(own_client: Client) -> None:
    stream = getattr(own_client, "scheduler_comm", None)
    assert_collects(stream, "Client.scheduler_comm", "send_soon")
    Cluster(own_client)
    assert own_client.scheduler_comm is stream
    assert stream.interval == INTERVAL


@pytest.mark.parametrize("name", ["stream_comms", "client_comms"])
def test_a_scheduler_collects_messages(
    name: str, own_cluster: LocalCluster, own_client: Client
) -> None:
    scheduler = own_cluster.scheduler
    streams = list(getattr(scheduler, name, {}).values())
    assert streams, because(f"Scheduler.{name}", "driver.latency.pass_on_soon")
    for stream in streams:
        assert_collects(stream, f"Scheduler.{name}", "pass_on_soon")
    Cluster(own_client)
    # One of somebody else's is left as it is, though it is in this process.
    assert min(intervals(scheduler, name)) > INTERVAL
    latency.pass_on_soon(scheduler)
    assert intervals(scheduler, name) == [INTERVAL] * len(streams)


def test_an_interval_that_is_shorter_is_kept(own_client: Client) -> None:
    own_client.scheduler_comm.interval = INTERVAL / 2
    Cluster(own_client)
    assert own_client.scheduler_comm.interval == INTERVAL / 2


def test_a_stream_reads_its_interval_each_time() -> None:
    assert "self.interval" in inspect.getsource(BatchedSend._background_send), because(
        "BatchedSend.interval", "driver.latency"
    )


def test_messages_are_passed_on_soon_once_there_was_a_call(backend: Client) -> None:
    """Live: by the client, and by the scheduler that we started."""
    assert Parallel()(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]
    assert backend.scheduler_comm.interval <= INTERVAL, because(
        "Client.scheduler_comm", "driver.latency.send_soon"
    )
    scheduler = backend.cluster.scheduler
    for name in ("stream_comms", "client_comms"):
        assert max(intervals(scheduler, name)) <= INTERVAL, because(
            f"Scheduler.{name}", "driver.latency.pass_on_soon"
        )


# ------------------------------------------------------------- operations of our own
#: Name of an operation that no release knows.
ECHO = "joblib_distributed_test_echo"


async def echo(chunk: Any) -> Any:
    return to_serialize(memoryview(chunk))


def add_echo(dask_worker: Any) -> None:
    dask_worker.handlers[ECHO] = echo


async def ask_for_echo(address: str, chunk: bytes, dask_worker: Any) -> bytes:
    answer = await getattr(dask_worker.rpc(address), ECHO)(chunk=chunk)
    return bytes(answer)


@pytest.fixture
def echoing(own_client: Client) -> tuple[str, str]:
    """Addresses of two workers, the first of which knows an operation more."""
    knows, other = own_client.nthreads()
    own_client.run(add_echo, workers=[knows])
    return knows, other


def ask(client: Client, address: str, operation: str, **message: Any) -> Any:
    async def answer() -> Any:
        return await getattr(client.rpc(address), operation)(**message)

    return client.sync(answer)


#: Every byte, and no multiple of anything.
CHUNK = bytes(range(256)) * 5000 + b"end"


def test_an_operation_that_is_added_is_answered(
    own_client: Client, echoing: tuple[str, str]
) -> None:
    answer = ask(own_client, echoing[0], ECHO, chunk=to_serialize(memoryview(CHUNK)))
    assert bytes(answer) == CHUNK, because(
        "Worker.handlers, or Client.rpc", "worker.supplies.serve, Cluster._reaches"
    )


def test_an_operation_that_is_not_known_gives_nothing(
    own_client: Client, echoing: tuple[str, str]
) -> None:
    assert ask(own_client, echoing[1], ECHO, chunk=b"") is None, because(
        "Worker.handlers", "driver.supplier.Supplier._taker"
    )


def test_a_worker_asks_another_one(own_client: Client, echoing: tuple[str, str]) -> None:
    knows, other = echoing
    answers = own_client.run(ask_for_echo, knows, CHUNK, workers=[other])
    assert answers == {other: CHUNK}, because(
        "Worker.rpc", "worker.supplies.Supplies._ask_for"
    )


def test_the_scheduler_relays_an_operation(
    own_client: Client, echoing: tuple[str, str]
) -> None:
    async def relayed(worker: str) -> Any:
        message = {"op": ECHO, "chunk": to_serialize(memoryview(CHUNK))}
        return await own_client.scheduler.proxy(msg=message, worker=worker)

    assert bytes(own_client.sync(relayed, echoing[0])) == CHUNK, because(
        "the scheduler's operation proxy", "Cluster._ask_for_operation"
    )


def test_the_scheduler_tells_who_is_a_member(own_client: Client) -> None:
    member, _ = own_client.nthreads()

    async def threads(*workers: str) -> Any:
        return await own_client.scheduler.ncores(workers=list(workers))

    assert [
        own_client.sync(threads, member, "tcp://127.0.0.1:1"),
        own_client.sync(threads, "tcp://127.0.0.1:1"),
    ] == [{member: 1}, {}], because(
        "the scheduler's operation ncores", "Presence.is_there"
    )


def test_files_are_touched_on_another_thread() -> None:
    async def threads() -> list[int]:
        return [await offload(threading.get_ident), await offload(threading.get_ident)]

    first, second = asyncio.run(threads())
    assert (first != threading.get_ident(), first == second) == (True, True), because(
        "distributed.utils.offload", "worker.supplies"
    )


# ------------------------------------------------------------ measuring a worker's memory
LIMIT = 10**9


@pytest.fixture
def limited_cluster() -> Iterator[LocalCluster]:
    """A cluster of one process with a limit on its memory."""
    with (
        dask.config.set({"distributed.worker.memory.monitor-interval": "20ms"}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            worker_class=embedded._LokyNanny,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=LIMIT,
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def limited_client(limited_cluster: LocalCluster) -> Iterator[Client]:
    with Client(limited_cluster, set_as_default=False) as client:
        yield client


async def status_with(memory: int, dask_worker: Any) -> str:
    """Have a worker's memory manager look, and be told so many bytes."""
    dask_worker.monitor.get_process_memory = lambda: memory
    await dask_worker.memory_manager.memory_monitor(dask_worker)
    return str(dask_worker.status.name)


def test_a_worker_is_measured_by_its_monitor(limited_client: Client) -> None:
    found = [
        *limited_client.run(status_with, LIMIT - 1).values(),
        *limited_client.run(status_with, 0).values(),
    ]
    assert found == ["paused", "running"], because(
        "SystemMonitor.get_process_memory", "worker.accounting.account_for_mappings"
    )


def test_a_worker_knows_its_limit_and_its_nanny(
    limited_cluster: LocalCluster, limited_client: Client
) -> None:
    def ask_worker(dask_worker: Any) -> tuple[int | None, str | None]:
        return dask_worker.memory_manager.memory_limit, dask_worker.nanny

    (nanny,) = limited_cluster.workers.values()
    (found,) = limited_client.run(ask_worker).values()
    assert found == (LIMIT, nanny.address), because(
        "Worker.memory_manager.memory_limit, or Worker.nanny",
        "worker.accounting.account_for_mappings",
    )


def name_of_server(dask_worker: Any) -> str:
    return type(dask_worker).__name__


async def run_on_nanny(
    function: Callable[..., Any], dask_worker: Any
) -> tuple[str, object]:
    async with dask_worker.rpc(dask_worker.nanny) as nanny:
        answer = await nanny.run(function=pickle.dumps(function))
    return answer["status"], answer["result"]


def test_a_nanny_runs_what_its_worker_asks_for(limited_client: Client) -> None:
    (found,) = limited_client.run(run_on_nanny, name_of_server).values()
    assert found == ("OK", embedded._LokyNanny.__name__), because(
        "the nanny's operation run", "worker.accounting._tell_nanny"
    )


def test_a_nannys_memory_monitor_can_be_replaced(
    limited_cluster: LocalCluster, limited_client: Client
) -> None:
    (nanny,) = limited_cluster.workers.values()
    why = because(
        "Nanny.periodic_callbacks['memory_monitor']", "worker.accounting.account_in_nanny"
    )
    callback = nanny.periodic_callbacks.get("memory_monitor")
    assert callable(getattr(callback, "callback", None)), why
    assert isinstance(nanny.memory_manager.memory_terminate_fraction, float), why
    assert nanny.memory_manager.memory_limit == LIMIT, why
    (pid,) = limited_client.run(process_of).values()
    assert nanny.process.process.pid == pid, why
    looked = threading.Event()
    callback.callback = looked.set
    assert looked.wait(30), why


def process_of(dask_worker: Any) -> int:
    return int(dask_worker.monitor.proc.pid)


# ----------------------------------------------------------------- workers that are gone
def test_a_task_of_a_worker_that_is_gone_waits_though_others_may_run_it(
    own_cluster: LocalCluster, own_client: Client
) -> None:
    gone, _ = own_client.nthreads()
    restrictions = {"workers": [gone], "allow_other_workers": True}
    own_cluster.scale(0)
    wait_until(lambda: not own_client.nthreads(), 30, lambda: "the workers remain")

    def state(key: str) -> str:
        states = own_client.sync(own_client.scheduler.get_task_status, keys=[key])
        return cast("str", states[key])

    left = own_client.submit(abs, -1, **restrictions)
    wait_until(lambda: state(left.key) == "no-worker", 30, lambda: state(left.key))
    own_cluster.scale(1)
    own_client.wait_for_workers(1, timeout=30)
    fresh = own_client.submit(abs, -2, **restrictions)
    assert fresh.result(timeout=30) == 2, because("allow_other_workers", "driver.call")
    assert state(left.key) == "no-worker", (
        "the scheduler now gives such a task to any worker that joins: `renewed` in "
        "driver.call can go, and its row of the table of hooks in docs/architecture.md"
    )


# ------------------------------------------------------------- a connection that is lost
def on_loop(client: Client, function: Callable[[], Any]) -> Any:
    """Call a function on a client's event loop."""

    async def call() -> Any:
        return function()

    return client.sync(call)


def test_a_connection_that_is_ended_is_made_anew(own_client: Client) -> None:
    why = because("Client.scheduler_comm.abort, or Client.status", "driver.looks.look")
    assert own_client.status == "running", why
    before = own_client.scheduler_comm
    assert isinstance(before, BatchedSend), why
    on_loop(own_client, before.abort)
    wait_until(
        lambda: own_client.scheduler_comm not in (before, None),
        30,
        lambda: f"{why}; the client is {own_client.status}",
    )
    assert own_client.status == "running", why
    assert own_client.submit(abs, -1).result(timeout=30) == 1, why


def test_connections_to_the_scheduler_can_be_removed(own_client: Client) -> None:
    async def ask_and_remove() -> tuple[bool, int]:
        await own_client.scheduler.identity()
        before = own_client.rpc.open
        own_client.rpc.remove(own_client.scheduler.address)
        return before > 0, own_client.rpc.open

    why = because("Client.rpc.remove", "driver.looks.look")
    assert own_client.sync(ask_and_remove) == (True, 0), why
    # They are made anew.
    assert own_client.sync(own_client.scheduler.identity)["type"] == "Scheduler", why


def test_a_connection_tells_what_is_not_written(own_client: Client) -> None:
    def send_two() -> tuple[int, int]:
        stream = own_client.scheduler_comm
        before = len(stream.buffer)
        stream.send({"op": "heartbeat-client"})
        return before, len(stream.buffer)

    why = because("BatchedSend.buffer", "driver.looks._lives")
    before, after = on_loop(own_client, send_two)
    assert after == before + 1, why
    wait_until(lambda: own_client.scheduler_comm.buffer == [], 30, lambda: why)


def test_the_client_says_when_it_has_lost_its_scheduler(own_client: Client) -> None:
    """Live: it awaits its own `_reconnect`, which looks for so many seconds."""
    why = because("Client._reconnect, or Client._timeout", "reconnecting.reconnect_for")
    assert inspect.iscoroutinefunction(inspect.unwrap(Client._reconnect)), why
    assert isinstance(own_client._timeout, (int, float)), why
    assert "timeout = self._timeout" in inspect.getsource(Client._reconnect), why
    statuses = []

    async def reconnect() -> None:
        statuses.append(own_client.status)
        own_client._timeout = 0
        await Client._reconnect(own_client)

    own_client._reconnect = reconnect
    on_loop(own_client, own_client.scheduler_comm.abort)
    wait_until(lambda: own_client.status == "closed", 30, lambda: why)
    assert statuses == ["connecting"], why
    own_client._timeout = 10  # it is closed again by the fixture


def test_the_client_tries_by_a_method_that_can_be_replaced(own_client: Client) -> None:
    """Live: it goes on after an `OSError` of it, and is connected when it succeeds."""
    why = because("Client._ensure_connected", "reconnecting.reconnect_for")
    ensure_connected = getattr(Client, "_ensure_connected", None)
    assert ensure_connected is not None, why
    tries: list[float | None] = []

    async def fail_once(timeout: float | None = None) -> None:
        tries.append(timeout)
        if len(tries) == 1:
            raise OSError("the connection was lost")
        await ensure_connected(own_client, timeout=timeout)

    before = own_client.scheduler_comm
    own_client._ensure_connected = fail_once
    on_loop(own_client, before.abort)
    wait_until(
        lambda: (
            own_client.status == "running" and own_client.scheduler_comm is not before
        ),
        30,
        lambda: why,
    )
    assert len(tries) == 2, why


def test_the_scheduler_is_found_as_the_client_finds_it(own_client: Client) -> None:
    async def connect() -> bool:
        comm = await distributed.comm.connect(
            own_client.scheduler.address, timeout=10, **own_client.connection_args
        )
        comm.abort()
        return bool(comm.closed())

    assert own_client.sync(connect), because(
        "Client.connection_args", "driver.reconnecting._wait_for_scheduler"
    )


def test_a_worker_tells_the_type_of_a_result_by_pickle(own_client: Client) -> None:
    why = because("the type in the news of a task's end", "data.carried.carried")
    future = own_client.submit(carried, b"report")
    own_client.sync(future._state.wait)
    assert (future.status, future.type) == ("finished", b"report"), why
    assert future.result(timeout=30) == b"report", why


def test_small_results_are_not_asked_for(
    own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(own_client, "_gather", lambda *_, **__: asked.append(1))
    with joblib.parallel_config("dask.distributed", client=own_client, n_jobs=2):
        assert Parallel()(delayed(abs)(-i) for i in range(100)) == list(range(100))
    assert not asked, because("Future.type or Future._state", "driver.fetching._carried")


# --------------------------------------------------------------- what the scheduler tells
def test_the_scheduler_gathers(own_client: Client) -> None:
    async def gather(*keys: str) -> Any:
        return await own_client.scheduler.gather(keys=list(keys))

    why = because("the scheduler's operation gather", "driver.fetching.fetch")
    future = own_client.submit(bytes, 3)
    assert future.result(timeout=30) == b"\0\0\0"
    answer = own_client.sync(gather, future.key)
    assert answer == {"status": "OK", "data": {future.key: b"\0\0\0"}}, why
    assert own_client.sync(gather, "unknown")["status"] == "error", why


def test_the_scheduler_tells_the_size_of_results(own_client: Client) -> None:
    async def nbytes(*keys: str) -> Any:
        return await own_client.scheduler.nbytes(keys=list(keys), summary=False)

    future = own_client.submit(bytes, 3)
    assert future.result(timeout=30) == b"\0\0\0"
    assert own_client.sync(nbytes, future.key) == {future.key: 3}, because(
        "the scheduler's operation nbytes", "driver.fetching._longest"
    )


def test_a_client_says_what_it_has_been_told(own_client: Client) -> None:
    why = because("Client.futures[key].status", "driver.looks._is_untold")
    may_end = distributed.Event(client=own_client)
    future = own_client.submit(may_end.wait, 30)
    assert own_client.futures[future.key].status == "pending", why
    may_end.set()
    assert future.result(timeout=30) is True
    assert own_client.futures[future.key].status == "finished", why


def test_the_scheduler_tells_who_has_results(own_client: Client) -> None:
    member, _ = own_client.nthreads()
    future = own_client.submit(abs, -1, workers=[member])
    assert future.result(timeout=30) == 1

    async def who_has(*keys: str) -> Any:
        return await own_client.scheduler.who_has(keys=list(keys))

    holders = own_client.sync(who_has, future.key, "unknown")
    assert {key: list(has) for key, has in holders.items()} == {
        future.key: [member],
        "unknown": [],
    }, because("the scheduler's operation who_has", "driver.looks._silent")


def test_the_scheduler_tells_what_workers_are_to_do(
    own_client: Client, tmp_path: Path
) -> None:
    member, other = own_client.nthreads()
    future = own_client.submit(hold, str(tmp_path), 1, workers=[member])
    wait_until(lambda: "running-1" in marks(tmp_path), 30, lambda: "it does not run")

    async def processing(*workers: str) -> Any:
        return await own_client.processing(workers=list(workers))

    given = own_client.sync(processing, member, other)
    mark(str(tmp_path), "go")
    assert {worker: list(keys) for worker, keys in given.items()} == {
        member: [future.key],
        other: [],
    }, because("Client.processing", "driver.looks._silent")
    assert future.result(timeout=30) == 10


def test_the_scheduler_tells_who_is_paused_and_what_has_begun(
    own_client: Client, tmp_path: Path
) -> None:
    why = because("the scheduler's operation call_stack", "driver.looks._held_up")
    member, other = own_client.nthreads()

    async def statuses() -> dict[str, str]:
        members = (await own_client.scheduler.identity())["workers"]
        return {address: worker["status"] for address, worker in members.items()}

    def pause(dask_worker: Any) -> None:
        dask_worker.status = Status.paused

    futures = [
        own_client.submit(hold, str(tmp_path), number, workers=[member])
        for number in (1, 2)
    ]
    wait_until(lambda: marks(tmp_path), 30, lambda: "neither runs")
    own_client.run(pause, workers=[member])
    wait_until(
        lambda: own_client.sync(statuses) == {member: "paused", other: "running"},
        30,
        lambda: f"{own_client.sync(statuses)}, {why}",
    )

    async def stacks() -> Any:
        keys = [future.key for future in futures]
        return await own_client.scheduler.call_stack(keys=keys)

    (begun,) = (name.removeprefix("running-") for name in marks(tmp_path))
    found = own_client.sync(stacks)
    assert {w: list(keys) for w, keys in found.items()} == {
        member: [futures[int(begun) - 1].key]
    }, why
    mark(str(tmp_path), "go")


def address_here() -> str:
    return str(get_worker().address)


def test_what_waits_on_a_worker_is_moved_to_one_that_idles(
    own_client: Client, tmp_path: Path
) -> None:
    first, second = own_client.nthreads()
    where: dict[str, Any] = {"workers": first, "allow_other_workers": True}
    go = str(tmp_path / "go")
    blocker = own_client.submit(wait_for_file, go, **where)
    moved = own_client.submit(address_here, pure=False, **where)
    try:
        assert moved.result(timeout=25) == second, because(
            "The engine's stealing", "the choice about what waits behind a batch"
        )
    finally:
        mark(str(tmp_path), "go")
    blocker.result(timeout=20)


def test_a_worker_says_that_it_is_paused(own_client: Client) -> None:
    first, _ = own_client.nthreads()

    def pause(dask_worker: Worker) -> tuple[bool, bool]:
        before = dask_worker.status is Status.paused
        dask_worker.status = Status.paused
        after = dask_worker.status is Status.paused
        dask_worker.status = Status.running
        return before, after

    said = own_client.run(pause, workers=[first])
    assert said == {first: (False, True)}, because("Worker.status", "buffers.is_paused")
