"""Mapped files are not a worker's own memory: neither its own monitor nor its nanny acts.

The monitors are asked to look, while the file is mapped and has been read, so that no
test waits for them; they look by themselves, too, and often.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dask
import joblib
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster, Worker, get_worker
from joblib import Parallel, delayed
from tornado.ioloop import PeriodicCallback

from joblib_distributed.data.buffers import Digest
from joblib_distributed.data.transfer import CHUNK, Arrival, pieces
from joblib_distributed.driver import embedded
from joblib_distributed.errors import WorkerDiedError
from joblib_distributed.worker.accounting import (
    account_for_mappings,
    account_in_nanny,
    own_memory,
)
from joblib_distributed.worker.supplies import READ, TAKE, serve
from support.processes import CommandLineCluster
from support.tasks import in_thread, mark, marks, wait_for_file
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")

MB = 10**6

#: An idle worker takes about 100 MB.
LIMIT = 300 * MB
LARGE = 400 * MB

INTERVAL = "distributed.worker.memory.monitor-interval"
OFTEN = "20ms"


@pytest.fixture
def limited() -> Iterator[Client]:
    """A client of one worker with a limit, whose first death counts."""
    with (
        dask.config.set({INTERVAL: OFTEN}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            worker_class=embedded._LokyNanny,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=LIMIT,
            scheduler_kwargs={"allowed_failures": 0},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def limited_from_command_line() -> Iterator[Client]:
    """The same, of a `dask worker` command, where nanny and client are two processes."""
    settings = {"DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": OFTEN}
    with CommandLineCluster(0, 1, env=settings) as cluster:
        cluster.start_worker(f"--memory-limit={LIMIT}")
        with Client(cluster.address, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=30)
            yield client


@contextlib.contextmanager
def used(client: Client) -> Iterator[None]:
    with joblib.parallel_config(
        backend="dask.distributed",
        client=client,
        # A machine with much to do may be long in starting the worker again.
        wait_for_workers_timeout=50,
    ):
        yield


def numbers(nbytes: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random(nbytes // 8)


def is_accounted(worker: Worker) -> bool:
    return "get_process_memory" in vars(worker.monitor)


def is_worker_accounted(dask_worker: Worker) -> bool:
    return is_accounted(dask_worker)


class State(NamedTuple):
    """What a worker's monitor makes of it."""

    status: str
    limit: int
    measured: int
    resident: int


async def look(dask_worker: Any) -> State | None:
    """Have the memory monitor of a worker, or of a nanny, look; tell a worker's state."""
    looked = dask_worker.periodic_callbacks["memory_monitor"].callback()
    if not isinstance(dask_worker, Worker):
        return None
    await looked
    return State(
        dask_worker.status.name,
        dask_worker.memory_manager.memory_limit,
        dask_worker.monitor.get_process_memory(),
        dask_worker.monitor.proc.memory_info().rss,
    )


def read_and_wait(array: np.ndarray[Any, Any], folder: str) -> tuple[float, int]:
    total = float(array.sum())
    mark(folder, os.getpid())
    wait_for_file(f"{folder}.go")
    return total, os.getpid()


def read_under_watch(client: Client, array: np.ndarray[Any, Any], folder: Path) -> int:
    """Have a task read all of an array; return its worker's pid once all is checked."""
    folder.mkdir()

    def call() -> list[tuple[float, int]]:
        with used(client):
            return Parallel()([delayed(read_and_wait)(array, str(folder))])  # type: ignore[no-any-return]

    called = in_thread(call)
    wait_until(lambda: marks(folder), 30, lambda: "nobody has read the array")
    for _ in range(3):
        (state,) = client.run(look).values()
        assert list(client.run(look, nanny=True).values()) == [None]
        assert state.status == "running"
        assert state.limit == LIMIT
        assert state.measured < LIMIT < array.nbytes < state.resident
    Path(f"{folder}.go").touch()
    ((total, pid),) = called()
    assert total == float(array.sum())
    assert marks(folder) == {str(pid)}, "the task was run again"
    assert psutil.pid_exists(pid)
    return int(pid)


@pytest.mark.parametrize("place", ["limited", "limited_from_command_line"])
@pytest.mark.timeout(90)
def test_a_worker_that_maps_more_than_its_limit_lives(
    place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    client: Client = request.getfixturevalue(place)
    array = numbers(LARGE)
    first = read_under_watch(client, array, tmp_path / "first")
    assert read_under_watch(client, array, tmp_path / "same") == first
    os.kill(first, signal.SIGKILL)
    # Its nanny restarts it.
    assert read_under_watch(client, array, tmp_path / "second") != first


async def take_and_read(dask_worker: Worker, number: int) -> int:
    """Have a worker take a buffer for its host, as when it is scattered, and give it."""
    serve(dask_worker)
    piece = bytes([number]) * CHUNK
    size = -(-LARGE // CHUNK) * CHUNK
    digest = Digest()
    for _ in pieces(size):
        digest.update(memoryview(piece))
    take, read = dask_worker.handlers[TAKE], dask_worker.handlers[READ]
    for start, end in pieces(size):
        arrived = await take("a transfer", digest.name, start, end, None, piece)
    assert arrived == Arrival.WHOLE.value
    total = 0
    for start, end in pieces(size):
        chunk = (await read(digest.name, start, end, None)).data
        total += int(np.frombuffer(chunk, np.uint8).any()) * len(chunk)
    return total


@pytest.mark.timeout(90)
def test_a_worker_that_takes_a_buffer_for_its_host_lives(limited: Client) -> None:
    """Nothing has been mapped before, and no task of ours runs while it is."""
    (pid,) = limited.run(os.getpid).values()
    (read,) = limited.run(take_and_read, number=1 + os.getpid() % 255).values()
    (state,) = limited.run(look).values()
    assert list(limited.run(look, nanny=True).values()) == [None]
    assert state.status == "running"
    assert state.measured < LIMIT < read <= state.resident
    assert list(limited.run(os.getpid).values()) == [pid]


# ------------------------------------------------------------------- memory of its own
def take(array: np.ndarray[Any, Any], folder: str) -> None:
    """Read what is mapped, then take as much of one's own, and wait for the end."""
    mark(folder, os.getpid())
    own = array + 1
    wait_for_file(f"{folder}.go")
    assert own.size


@pytest.mark.timeout(90)
def test_a_worker_that_takes_more_than_its_limit_is_still_restarted(
    limited: Client, tmp_path: Path
) -> None:
    (tmp_path / "running").mkdir()
    with used(limited), pytest.raises(WorkerDiedError):
        Parallel()([delayed(take)(numbers(LARGE), str(tmp_path / "running"))])
    events = limited.get_events("worker-restart-memory")
    assert {str(event["pid"]) for _, event in events} == marks(tmp_path / "running")


def measure_writing(array: np.ndarray[Any, Any]) -> tuple[int, int, int]:
    """Return the memory of this worker before it reads, and writes to, an array."""
    measure = get_worker().monitor.get_process_memory
    before = measure()
    array.sum()
    read = measure()
    array[:] = 1
    return before, read, measure()


def test_what_is_written_to_is_memory_of_its_own(limited: Client) -> None:
    array = numbers(80 * MB)
    with used(limited):
        ((before, read, written),) = Parallel(mmap_mode="c")(
            [delayed(measure_writing)(array)]
        )
    assert read - before < array.nbytes / 2
    assert written - read > array.nbytes / 2


def share_elsewhere(worker: str) -> tuple[int, bool]:
    """Share large data with tasks of another worker; tell if that is accounted for."""
    array = np.ones(2 * MB // 8)
    with joblib.parallel_config(backend="dask.distributed", workers=[worker]):
        sizes = Parallel(n_jobs=2)(delayed(np.size)(array) for _ in range(2))
    return sum(sizes), is_accounted(get_worker())


def test_a_worker_that_shares_data_is_accounted_for(limited: Client) -> None:
    """It maps the store's copy beside its own, and reads it to name it."""
    limited.cluster.scale(2)
    limited.wait_for_workers(2, timeout=30)
    here, there = limited.nthreads()
    with joblib.parallel_config(backend="dask.distributed", client=limited, workers=here):
        found = Parallel()([delayed(share_elsewhere)(there)])
    assert found == [(2 * (2 * MB // 8), True)]


# ------------------------------------------------------------------------- the measure
def shared_and_own(pid: int) -> tuple[int, int]:
    info = psutil.Process(pid).memory_info()
    return info.shared, info.rss - info.shared


def test_own_memory_is_what_is_not_shared() -> None:
    nbytes = 64 * MB
    slack = nbytes // 4
    shared, own = shared_and_own(os.getpid())
    assert abs(own_memory() - own) < slack
    assert abs(own_memory(os.getpid()) - own) < slack
    with tempfile.TemporaryFile() as file:
        file.write(b"1" * nbytes)
        file.flush()
        before = own_memory()
        mapped = mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ)
        array = np.frombuffer(mapped, np.uint8)
        assert int(array.sum()) == nbytes * ord("1")
        assert shared_and_own(os.getpid())[0] - shared > nbytes - slack
        assert abs(own_memory() - before) < slack
        taken = array + 1
        assert own_memory() - before > nbytes - slack
        del array, taken
        mapped.close()


def ended() -> int:
    """Return the pid of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(30)
    return process.pid


def test_a_process_that_is_gone_has_no_memory_to_tell() -> None:
    with pytest.raises(OSError, match="No such file"):
        own_memory(ended())


# --------------------------------------------------------------------------- the nanny
class Process:
    def __init__(self, pid: int | None) -> None:
        self.process = self
        self.pid = pid


class Manager:
    memory_terminate_fraction = 0.95

    def __init__(self, limit: int) -> None:
        self.memory_limit = limit


class FakeNanny:
    """What the accounting asks of a nanny; counts the looks of the engine's monitor."""

    def __init__(self, pid: int | None, limit: int) -> None:
        self.process = Process(pid)
        self.memory_manager = Manager(limit)
        self.looks = 0
        self.periodic_callbacks = {"memory_monitor": PeriodicCallback(self.count, 1000)}

    def count(self) -> None:
        self.looks += 1

    def look(self) -> int:
        """Return how often the engine's monitor has looked when ours has."""
        self.periodic_callbacks["memory_monitor"].callback()
        return self.looks


@pytest.mark.parametrize(
    ("pid", "limit", "looks"),
    [
        (os.getpid, 2**50, 0),
        (os.getpid, 1, 1),
        (ended, 1, 0),
        # Between two workers, or where it cannot be told.
        (lambda: None, 1, 1),
    ],
    ids=["little", "much", "ended", "unknown"],
)
def test_a_nannys_own_monitor_is_asked_about_too_much(
    pid: Callable[[], int | None], limit: int, looks: int
) -> None:
    nanny = FakeNanny(pid(), limit)
    account_in_nanny(nanny)
    assert nanny.look() == looks


def test_a_nanny_is_told_once() -> None:
    nanny = FakeNanny(os.getpid(), 2**50)
    before = nanny.periodic_callbacks["memory_monitor"].callback
    account_in_nanny(nanny)
    once = nanny.periodic_callbacks["memory_monitor"].callback
    assert once != before
    account_in_nanny(nanny)
    assert nanny.periodic_callbacks["memory_monitor"].callback is once


def test_a_nanny_without_a_memory_monitor_is_left_alone() -> None:
    nanny = FakeNanny(os.getpid(), 1)
    nanny.periodic_callbacks.clear()
    account_in_nanny(nanny)
    assert nanny.periodic_callbacks == {}


# -------------------------------------------------------------------------- the worker
def test_a_worker_without_a_limit_is_left_alone(own_client: Client) -> None:
    with used(own_client):
        Parallel()(delayed(np.sum)(numbers(2 * MB)) for _ in range(8))
    assert set(own_client.run(is_worker_accounted).values()) == {False}


async def account_while_the_nanny_is_told(dask_worker: Any) -> list[str]:
    """Account in two threads; the nanny answers the first when the second has ended."""
    order: list[str] = []
    asked, second_ended = threading.Event(), threading.Event()

    class Rpc:
        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def run(self, function: bytes) -> None:
            asked.set()
            await asyncio.to_thread(second_ended.wait, 1)
            order.append("told")

    def second() -> None:
        asked.wait(10)
        account_for_mappings(dask_worker)
        order.append("second goes on")
        second_ended.set()

    dask_worker.rpc, engines = lambda address: Rpc(), dask_worker.rpc
    try:
        await asyncio.gather(
            asyncio.to_thread(account_for_mappings, dask_worker),
            asyncio.to_thread(second),
        )
    finally:
        dask_worker.rpc = engines
    return order


def test_no_thread_maps_before_the_nanny_is_told(limited: Client) -> None:
    (order,) = limited.run(account_while_the_nanny_is_told).values()
    assert order == ["told", "second goes on"]
