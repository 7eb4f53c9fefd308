"""What breaks underneath a call, and what must come of it: see the promises.

Each ends within its deadline with all results or one named error, and the same context
runs the next call.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
from distributed import Client, LocalCluster
from joblib import Parallel, delayed

from joblib_distributed import DaskDistributedBackend
from joblib_distributed.driver import absence, batching, fetching, running
from joblib_distributed.driver.ahead import ReadAhead
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.errors import (
    ClusterClosedError,
    NoWorkersError,
    TaskLostError,
    WorkerDiedError,
)
from joblib_distributed.options import Options
from support.processes import CommandLineCluster
from support.tasks import in_thread, mark, marks, wait_for_file
from support.waiting import wait_until


def pids(client: Client) -> list[int]:
    return list(client.run(os.getpid).values())


def hold(folder: str, number: int) -> int:
    mark(folder, f"running-{number}")
    wait_for_file(folder + "/go")
    return number * 10


def kill_one(client: Client) -> None:
    os.kill(pids(client)[0], signal.SIGKILL)


def kill_all(client: Client) -> None:
    for pid in pids(client):
        os.kill(pid, signal.SIGKILL)


#: Where workers are killed, others may be long in starting on a machine with much to do.
KILLED: dict[str, Any] = {"backend": "dask.distributed", "wait_for_workers_timeout": 50}


@pytest.mark.parametrize("kill", [kill_one, kill_all])
def test_killed_in_the_middle(
    kill: Callable[[Client], None], own_client: Client, tmp_path: Path
) -> None:
    def call() -> Any:
        with joblib.parallel_config(client=own_client, **KILLED):
            return Parallel()(delayed(hold)(str(tmp_path), i) for i in range(8))

    result = in_thread(call)
    wait_until(lambda: len(marks(tmp_path)) >= 2, 30, lambda: "nothing runs")
    kill(own_client)
    mark(str(tmp_path), "go")
    assert result() == [i * 10 for i in range(8)]
    assert call() == [i * 10 for i in range(8)]


@pytest.mark.parametrize("kill", [kill_one, kill_all])
def test_killed_before_anything_is_sent(
    kill: Callable[[Client], None], own_client: Client, tmp_path: Path
) -> None:
    mark(str(tmp_path), "go")

    def tasks() -> Any:
        kill(own_client)
        for i in range(8):
            yield delayed(hold)(str(tmp_path), i)

    with joblib.parallel_config(client=own_client, **KILLED):
        assert Parallel()(tasks()) == [i * 10 for i in range(8)]


@pytest.mark.parametrize("kill", [kill_one, kill_all])
def test_killed_when_results_are_not_fetched_yet(
    kill: Callable[[Client], None],
    own_client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver's loop is held while the tasks finish and their workers die."""
    monkeypatch.setattr(fetching, "report_in", lambda _: None)  # as if too large for it
    mark(str(tmp_path), "go")
    release = threading.Event()

    def call() -> Any:
        with joblib.parallel_config(client=own_client, **KILLED):
            return Parallel(n_jobs=2, pre_dispatch="all")(
                delayed(hold)(str(tmp_path), i) for i in range(2)
            )

    workers = pids(own_client)
    gather = own_client._gather

    async def gather_late(*args: Any, **kwargs: Any) -> Any:
        # The result is finished on a worker; its bytes are not in the driver.
        await own_client.loop.run_in_executor(None, release.wait, 30)
        return await gather(*args, **kwargs)

    own_client._gather = gather_late
    try:
        result = in_thread(call)
        wait_until(
            lambda: {"running-0", "running-1"} <= marks(tmp_path), 30, lambda: "not run"
        )
        for pid in workers if kill is kill_all else workers[:1]:
            os.kill(pid, signal.SIGKILL)
    finally:
        release.set()
        own_client._gather = gather
    assert result() == [0, 10]


def suicide_if(harmful: bool, number: int) -> int:
    if harmful:
        os._exit(11)
    return number


def test_a_task_that_always_kills_its_worker(
    command_line_cluster: CommandLineCluster,
) -> None:
    """Its neighbours on a worker with several threads die with it, and arrive."""
    arrived = []
    with joblib.parallel_config(
        backend="dask.distributed", scheduler_host=command_line_cluster.address
    ):
        with pytest.raises(WorkerDiedError) as caught:
            for value in Parallel(return_as="generator_unordered", pre_dispatch="all")(
                delayed(suicide_if)(i == 7, i) for i in range(16)
            ):
                arrived.append(value)  # noqa: PERF402 - kept when the call raises
        assert caught.value.index == 7
        assert caught.value.function == "suicide_if"
        assert "Task 7 (suicide_if) killed the worker" in str(caught.value)
        assert len(arrived) == len(set(arrived))
        assert 7 not in arrived
        assert Parallel()(delayed(suicide_if)(False, i) for i in range(16)) == list(
            range(16)
        )


def test_no_innocent_fails(own_client: Client, tmp_path: Path) -> None:
    """A task that kills its worker a few times, then no more, is delivered."""

    def kill_five_times(folder: str, number: int) -> int:
        if number == 3:
            deaths = len(os.listdir(folder))
            if deaths < 5:
                mark(folder, deaths)
                os._exit(11)
        return number

    with joblib.parallel_config(backend="dask.distributed", client=own_client):
        assert Parallel(batch_size=4)(
            delayed(kill_five_times)(str(tmp_path), i) for i in range(8)
        ) == list(range(8))
    assert len(marks(tmp_path)) == 5


def fall_with_a_neighbour(folder: str) -> None:
    """Kill the worker once a task of the other call runs on it, or after a second."""
    mark(folder, f"poison-{os.getpid()}")
    with contextlib.suppress(AssertionError):
        wait_for_file(f"{folder}/innocent-{os.getpid()}", timeout=1)
    os._exit(11)


def live_beside_poison(folder: str, number: int) -> int:
    """Do no harm; but wait to die if the harmful task runs on this worker, too."""
    first = not marks(Path(folder))
    mark(folder, f"innocent-{os.getpid()}")
    with contextlib.suppress(AssertionError):
        wait_for_file(f"{folder}/poison-{os.getpid()}", timeout=30 if first else 1)
        wait_for_file(f"{folder}/never", timeout=3)
    return number


def test_no_innocent_of_another_call_fails(shared_worker: Client, tmp_path: Path) -> None:
    """Two calls have a suspect each: they run in turn, not on one worker at a time."""

    def call(*tasks: Any) -> Any:
        with joblib.parallel_config(backend="dask.distributed", client=shared_worker):
            return Parallel(n_jobs=2)(tasks)

    innocent = in_thread(lambda: call(delayed(live_beside_poison)(str(tmp_path), 42)))
    wait_until(lambda: marks(tmp_path), 30, lambda: "the other call does not run")
    with pytest.raises(WorkerDiedError, match=r"Task 0 \(fall_with_a_neighbour\)"):
        call(delayed(fall_with_a_neighbour)(str(tmp_path)))
    assert innocent() == [42]


def make_import_fail(times: int) -> None:
    """Have the worker fail to load the package, as if a library of its were gone."""
    left = iter(range(times))

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "joblib_distributed" and next(left, None) is not None:
                raise OSError("libgone.so.1: cannot open shared object file")

    for module in list(sys.modules):
        if module.startswith("joblib_distributed"):
            del sys.modules[module]
    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]


def test_an_attempt_that_fails_like_a_connection(own_client: Client) -> None:
    """It is not sent again for ever."""
    own_client.run(make_import_fail, sys.maxsize)
    with (
        joblib.parallel_config(backend="dask.distributed", client=own_client),
        pytest.raises(TaskLostError, match=r"could not be started.*libgone\.so\.1"),
    ):
        Parallel(timeout=20)(delayed(abs)(i) for i in range(4))


def test_a_worker_that_fails_to_load_the_package_at_first(own_client: Client) -> None:
    """As when two of its threads import at a time, and are in each other's way."""
    # The first time is when it is asked whether it can run tasks.
    own_client.run(make_import_fail, 2)
    with joblib.parallel_config(backend="dask.distributed", client=own_client):
        found = Parallel(timeout=20)(delayed(abs)(-i) for i in range(4))
    assert found == list(range(4))


def test_workers_that_restart_slowly(
    backend: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While all of an embedded cluster's workers restart it has none, but will."""
    monkeypatch.setattr(running, "LOOK_INTERVAL", 0.05)
    monkeypatch.setattr(running, "QUIET", 0.0)
    with (
        joblib.parallel_config(
            backend="dask.distributed", n_workers=2, wait_for_workers_timeout=0
        ),
        pytest.raises(WorkerDiedError, match=r"Task 0 \(suicide_if\)"),
    ):
        Parallel(n_jobs=2)(delayed(suicide_if)(i == 0, i) for i in range(2))


class SlowLink:
    """Stands between a client and its scheduler; what is sent there takes its time."""

    def __init__(self, port: int, bytes_per_second: float) -> None:
        self._port = port
        self._rate = bytes_per_second
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._server]
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._start(self._accept)

    def _start(self, function: Callable[..., None], *args: object) -> None:
        threading.Thread(target=function, args=args, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [near, far]
                self._start(self._pump, near, far, 1 / self._rate)
                self._start(self._pump, far, near, 0.0)

    def _pump(self, source: socket.socket, sink: socket.socket, per_byte: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                time.sleep(len(data) * per_byte)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_a_slow_link_gets_each_task_once(
    own_cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks overtake the batches, and find them unknown: they are on their way."""
    monkeypatch.setattr(running, "LOOK_INTERVAL", 0.1)
    monkeypatch.setattr(running, "QUIET", 0.0)

    def note(number: int, _: bytes) -> int:
        mark(str(tmp_path), f"{number}-{uuid.uuid4()}")
        return number

    port = int(own_cluster.scheduler_address.rsplit(":", 1)[1])
    with (
        contextlib.closing(SlowLink(port, 1e6)) as link,
        Client(link.address, set_as_default=False) as client,
        joblib.parallel_config(backend="dask.distributed", client=client),
    ):
        results = Parallel(batch_size=1)(
            delayed(note)(i, os.urandom(300_000)) for i in range(4)
        )
    assert results == [0, 1, 2, 3]
    assert sorted(name.split("-")[0] for name in marks(tmp_path)) == list("0123")


@pytest.fixture
def empty_cluster() -> Any:
    with LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


def test_no_worker_from_the_start(empty_cluster: LocalCluster) -> None:
    with (
        Client(empty_cluster, set_as_default=False) as client,
        joblib.parallel_config(
            backend="dask.distributed", client=client, wait_for_workers_timeout=0.2
        ),
    ):
        message = "DaskDistributedBackend has no worker after 0.2 seconds"
        with pytest.raises(NoWorkersError, match=message) as caught:
            Parallel()(delayed(abs)(i) for i in range(3))
        assert isinstance(caught.value, TimeoutError)
        assert empty_cluster.scheduler_address in str(caught.value)
        wait_until(
            lambda: not empty_cluster.scheduler.tasks, 10, lambda: "the probe is left"
        )


def scaling_when_told(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, float]]:
    """Have a worker come when the user is told that there is none; return all that is."""
    told = []

    def tell(address: str, seconds: float) -> None:
        told.append((address, seconds))
        cluster.scale(1)

    monkeypatch.setattr(absence, "tell", tell)
    return told


@pytest.mark.timeout(120)
def test_that_there_is_no_worker_at_first_is_told(
    empty_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = scaling_when_told(empty_cluster, monkeypatch)
    with (
        Client(empty_cluster, set_as_default=False) as client,
        joblib.parallel_config(
            backend="dask.distributed", client=client, wait_for_workers_timeout=60
        ),
    ):
        assert Parallel()(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
    assert told == [(empty_cluster.scheduler_address, 60)]


@pytest.mark.timeout(120)
def test_that_there_is_no_worker_any_more_is_told(
    empty_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = scaling_when_told(empty_cluster, monkeypatch)
    empty_cluster.scale(1)
    with (
        Client(empty_cluster, set_as_default=False) as client,
        joblib.parallel_config(
            backend="dask.distributed", client=client, wait_for_workers_timeout=60
        ),
    ):
        client.wait_for_workers(1)
        results = Parallel(return_as="generator", batch_size=1)(
            delayed(wait_or_not)(i, str(tmp_path / "begun")) for i in range(3)
        )
        wait_until((tmp_path / "begun").exists, 30, lambda: "no task has begun")
        empty_cluster.scale(0)
        assert list(results) == [0, 1, 2]
    assert told == [(empty_cluster.scheduler_address, 60)]


def wait_or_not(i: int, begun: str) -> int:
    """Wait for the worker's end, if nothing has begun before."""
    try:
        open(begun, "x").close()
    except FileExistsError:
        return i
    time.sleep(60)
    return i


@pytest.mark.parametrize("n_jobs", [-2, -100])
def test_no_worker_between_the_preparation_and_the_start_of_a_call(
    own_client: Client, monkeypatch: pytest.MonkeyPatch, n_jobs: int
) -> None:
    """They may come back; with a limit of 0 nothing would ever be sent."""
    lost = []
    wait_for_threads = Cluster.wait_for_threads
    start_call = DaskDistributedBackend.start_call

    def threads_left(cluster: Cluster, options: Options) -> int:
        return 0 if lost else wait_for_threads(cluster, options)

    def start_without_workers(backend: DaskDistributedBackend) -> None:
        lost.append(True)
        start_call(backend)
        lost.clear()

    monkeypatch.setattr(Cluster, "wait_for_threads", threads_left)
    monkeypatch.setattr(DaskDistributedBackend, "start_call", start_without_workers)
    with joblib.parallel_config(backend="dask.distributed", client=own_client):
        found = Parallel(n_jobs=n_jobs, timeout=10)(delayed(abs)(-i) for i in range(3))
    assert found == [0, 1, 2]


@pytest.mark.parametrize(
    "option", [{"resources": {"GPU": 1}}, {"workers": "tcp://127.0.0.1:1"}]
)
def test_no_worker_that_the_options_allow(
    option: dict[str, Any], own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LOOK_INTERVAL", 0.05)
    monkeypatch.setattr(running, "QUIET", 0.0)
    with (
        joblib.parallel_config(
            backend="dask.distributed",
            client=own_client,
            wait_for_workers_timeout=1,
            **option,
        ),
        pytest.raises(NoWorkersError, match=r"resources= allow"),
    ):
        Parallel()(delayed(abs)(i) for i in range(3))
    with joblib.parallel_config(backend="dask.distributed", client=own_client):
        assert Parallel()(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


@pytest.mark.parametrize("what", ["client", "cluster"])
def test_closed_during_a_call(
    what: str, own_cluster: LocalCluster, own_client: Client, tmp_path: Path
) -> None:
    def call() -> Any:
        with joblib.parallel_config(backend="dask.distributed", client=own_client):
            return Parallel()(delayed(hold)(str(tmp_path), i) for i in range(8))

    result = in_thread(call)
    wait_until(lambda: marks(tmp_path), 30, lambda: "nothing runs")
    (own_client if what == "client" else own_cluster).close()
    with pytest.raises(ClusterClosedError):
        result(15)
    # The next call has no client to run on, and says so.
    with pytest.raises(ClusterClosedError):
        call()
    mark(str(tmp_path), "go")


def test_closed_while_the_iterable_is_slow(own_client: Client) -> None:
    """Nothing is in flight when the client is closed; what comes then is refused."""

    def tasks() -> Any:
        yield delayed(abs)(0)
        own_client.close()
        wait_until(lambda: own_client.status == "closed", 10, lambda: own_client.status)
        # Longer than the ledger needs to notice it by itself.
        threading.Event().wait(2.5)
        yield from (delayed(abs)(i) for i in range(3))

    with (
        joblib.parallel_config(backend="dask.distributed", client=own_client),
        pytest.raises(ClusterClosedError),
    ):
        Parallel(n_jobs=2, batch_size=1, pre_dispatch=1)(tasks())


def test_restarted_during_a_call(own_client: Client, tmp_path: Path) -> None:
    # A busy machine takes more than ten seconds to end workers and to start others.
    options = {"client": own_client, "wait_for_workers_timeout": 40}

    def call() -> Any:
        with joblib.parallel_config(backend="dask.distributed", **options):
            return Parallel()(delayed(hold)(str(tmp_path), i) for i in range(8))

    result = in_thread(call)
    wait_until(lambda: marks(tmp_path), 30, lambda: "nothing runs")
    own_client.restart()
    mark(str(tmp_path), "go")
    assert result() == [i * 10 for i in range(8)]


def test_forgotten_by_the_scheduler(own_cluster: LocalCluster, tmp_path: Path) -> None:
    """Somebody cancels keys that are not theirs; the ledger sends them again."""
    with Client(own_cluster, set_as_default=False) as client:

        def call() -> Any:
            with joblib.parallel_config(backend="dask.distributed", client=client):
                return Parallel()(delayed(hold)(str(tmp_path), i) for i in range(4))

        result = in_thread(call)
        wait_until(lambda: marks(tmp_path), 30, lambda: "nothing runs")
        keys = list(own_cluster.scheduler.tasks)
        assert keys
        client.sync(client._cancel, list(map(client_future(client), keys)), force=True)
        mark(str(tmp_path), "go")
        assert result() == [0, 10, 20, 30]


def client_future(client: Client) -> Callable[[str], Any]:
    from distributed import Future

    return lambda key: Future(key, client)


@pytest.mark.parametrize("pre_dispatch", ["2 * n_jobs", "all", 18])
def test_a_worker_that_joins_is_used(
    pre_dispatch: str | int,
    own_cluster: LocalCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """n_jobs=-1 is every thread of the cluster, also those that join."""
    monkeypatch.setattr(batching, "FIRST_FLIGHTS", 4)
    with Client(own_cluster, set_as_default=False) as client:

        def call() -> Any:
            with joblib.parallel_config(backend="dask.distributed", client=client):
                return Parallel(pre_dispatch=pre_dispatch)(
                    delayed(hold)(str(tmp_path), i) for i in range(20)
                )

        result = in_thread(call)
        wait_until(lambda: len(marks(tmp_path)) == 2, 30, lambda: "nothing runs")
        own_cluster.scale(6)
        # Four tasks were in flight for two threads: six run only if more are sent.
        wait_until(
            lambda: len(marks(tmp_path)) == 6, 30, lambda: f"only {marks(tmp_path)} run"
        )
        mark(str(tmp_path), "go")
        assert result() == [i * 10 for i in range(20)]


def test_iterable_that_raises_when_a_worker_joins(
    own_cluster: LocalCluster, own_client: Client, tmp_path: Path
) -> None:
    """More of it is read then, on a thread of ours; it is raised on the user's."""

    def tasks() -> Any:
        for i in range(4):
            yield delayed(hold)(str(tmp_path), i)
        raise KeyboardInterrupt("from the iterable")

    def join_when_it_runs() -> None:
        wait_until(lambda: len(marks(tmp_path)) == 2, 30, lambda: "nothing runs")
        own_cluster.scale(3)

    join = in_thread(join_when_it_runs)
    with (
        joblib.parallel_config(backend="dask.distributed", client=own_client),
        pytest.raises(KeyboardInterrupt, match="from the iterable"),
    ):
        Parallel(timeout=30)(tasks())
    join()


def test_a_worker_that_joins_has_no_more_read_than_was_said(
    own_cluster: LocalCluster,
    own_client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``pre_dispatch`` as a number is the user's bound, whatever the cluster's size."""
    monkeypatch.setattr(running, "LOOK_INTERVAL", 0.1)
    monkeypatch.setattr(running, "QUIET", 0.0)
    looks = []
    follow = ReadAhead.follow

    def note_and_follow(self: ReadAhead, threads: int) -> None:
        looks.append(threads)
        follow(self, threads)

    monkeypatch.setattr(ReadAhead, "follow", note_and_follow)
    read = []

    def tasks() -> Any:
        for i in range(12):
            read.append(i)
            yield delayed(hold)(str(tmp_path), i)

    def call() -> Any:
        with joblib.parallel_config(backend="dask.distributed", client=own_client):
            return Parallel(batch_size=1, pre_dispatch=2)(tasks())

    result = in_thread(call)
    wait_until(lambda: len(marks(tmp_path)) == 2, 30, lambda: "nothing runs")
    own_cluster.scale(4)
    # What the first of these looks has set off is done at the fifth.
    wait_until(lambda: looks.count(4) >= 5, 30, lambda: f"seen: {set(looks)}")
    assert read == [0, 1]
    mark(str(tmp_path), "go")
    assert result() == [i * 10 for i in range(12)]
