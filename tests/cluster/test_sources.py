"""Where the cluster comes from."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import joblib
import pytest
from distributed import Client, LocalCluster, get_worker
from joblib import Parallel, delayed

from joblib_distributed import get_client
from joblib_distributed.driver import embedded, sources
from joblib_distributed.errors import SchedulerUnreachableError
from support.processes import CommandLineCluster
from support.tasks import in_thread
from support.waiting import wait_until

EMBEDDED_WORKERS = 2


def scheduler_of_task(_: int) -> str:
    return str(get_worker().scheduler.address)


def test_scheduler_host(command_line_cluster: CommandLineCluster) -> None:
    with joblib.parallel_config(
        backend="dask.distributed", scheduler_host=command_line_cluster.host_and_port
    ):
        found = Parallel()(delayed(scheduler_of_task)(i) for i in range(4))
    assert found == [command_line_cluster.address] * 4


# ------------------------------------------------------------------- nobody to be found
@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a client's event loop running."""
    before = set(threading.enumerate())
    yield

    def loops() -> list[threading.Thread]:
        new = set(threading.enumerate()) - before
        names = ("IO loop", "joblib-distributed")
        return [thread for thread in new if thread.name.startswith(names)]

    wait_until(lambda: not loops(), 5, lambda: f"left: {loops()}")


def refusal_of(host: str) -> str:
    with pytest.raises(SchedulerUnreachableError) as caught:
        get_client(scheduler_host=host)
    return str(caught.value)


@pytest.mark.usefixtures("no_thread_left")
def test_connection_that_is_refused() -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        message = refusal_of("127.0.0.1:1")
    assert "scheduler_host='127.0.0.1:1': Timed out trying to connect" in message
    assert ", because of ConnectionRefusedError: [Errno " in message


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("localhost", "port"),
        ("localhost:none", "port"),
        ("nowhere://localhost:1", "nowhere"),
        ("127.0.0.1:99999", "port 99999 is not between 1 and 65535"),
        ("tcp://localhost:0", "port 0 is not between 1 and 65535"),
        ("no-such-host.invalid:8786", ""),
    ],
)
def test_address_that_cannot_be_one_fails_at_once(host: str, why: str) -> None:
    start = time.monotonic()
    message = refusal_of(host)
    assert time.monotonic() - start < 5  # a connection is tried for half a minute
    assert f"could be reached at scheduler_host={host!r}: " in message
    assert why in message


@pytest.mark.usefixtures("no_thread_left")
def test_scheduler_file_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "scheduler.json")
    start = time.monotonic()
    assert f"There is no scheduler file scheduler_host={path!r}. " in refusal_of(path)
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize("from_file", [False, True])
def test_an_address_that_accepts_and_never_answers(
    tmp_path: Path, from_file: bool
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
    ):
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        if from_file:
            path = tmp_path / "scheduler.json"
            path.write_text(json.dumps({"address": f"tcp://{host}"}))
            host = str(path)
        message = refusal_of(host)
    assert message.startswith(
        f"No dask scheduler could be reached at scheduler_host={host!r}: what accepts "
        "connections there has not answered within 1 seconds as a dask scheduler does. "
    )


@pytest.mark.usefixtures("no_thread_left")
def test_it_is_said_that_an_address_is_tried(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "PATIENT_SILENCE", 0.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
    ):
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        refusal_of(host)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        f"[joblib_distributed]: no dask scheduler has answered at {host!r}"
    )
    assert "tried for 1 seconds in all" in line
    assert "distributed.comm.timeouts.connect" in line


def test_nothing_is_said_of_an_address_that_answers(
    command_line_cluster: CommandLineCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    sources._check_answers(command_line_cluster.address)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize("content", ["", "[]", "{}", "\xff"])
def test_a_scheduler_file_that_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "scheduler.json"
    path.write_text(content, encoding="latin-1")
    assert f"could be reached at scheduler_host={str(path)!r}: " in refusal_of(str(path))


@pytest.mark.usefixtures("no_thread_left")
def test_a_silent_address_keeps_nobody_else_waiting(embedded_client: Client) -> None:
    order = []
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
    ):
        host = f"127.0.0.1:{silent.getsockname()[1]}"

        def connect() -> None:
            refusal_of(host)
            order.append("silent")

        join = in_thread(connect)
        connection, _ = silent.accept()
        with connection:
            found = in_thread(lambda: get_client(n_workers=EMBEDDED_WORKERS))
            assert found(10) is embedded_client
            order.append("embedded")
    join()
    assert order == ["embedded", "silent"]


# -------------------------------------------------------------------- somebody's cluster
@pytest.fixture
def client_of_one_thread() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            worker_class=embedded._LokyNanny,
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_a_managed_parallel_runs_on_a_cluster_of_one_thread(
    client_of_one_thread: Client,
) -> None:
    (worker,) = client_of_one_thread.run(os.getpid).values()
    with (
        joblib.parallel_config(backend="dask.distributed", client=client_of_one_thread),
        Parallel(n_jobs=-1) as parallel,
    ):
        for _ in range(2):
            assert parallel(delayed(os.getpid)() for _ in range(3)) == [worker] * 3


def test_large_batches_leave_the_configuration_as_it_was(
    backend: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration is the process's; each large batch changes it for a moment."""
    setting = "distributed.admin.large-graph-warning-threshold"
    before = dask.config.get(setting)
    together = threading.Barrier(2)
    submit = backend.submit

    def submit_together(*args: Any, **kwargs: Any) -> Any:
        # Two that may submit at a time do; where only one may, this breaks at once.
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.5)
        return submit(*args, **kwargs)

    monkeypatch.setattr(backend, "submit", submit_together)

    def call() -> Any:
        with joblib.parallel_config(
            backend="dask.distributed", n_workers=EMBEDDED_WORKERS
        ):
            return Parallel(batch_size=1)(delayed(len)(bytes(2**20)) for _ in range(8))

    for join in [in_thread(call) for _ in range(4)]:
        assert join() == [2**20] * 8
    assert dask.config.get(setting) == before


def test_the_engine_does_little_of_its_own_accord_on_the_embedded_cluster(
    embedded_client: Client,
) -> None:
    def settings(dask_worker: Any) -> tuple[bool, tuple[str, ...], float]:
        profile = dask.config.get("distributed.worker.profile.enabled")
        callbacks = dask_worker.periodic_callbacks
        profiling = tuple(name for name in callbacks if "profile" in name)
        return profile, profiling, callbacks["tick"].callback_time

    expected = (False, (), embedded.TICK * 1000)
    assert set(embedded_client.run(settings).values()) == {expected}
    cluster = embedded_client.cluster
    servers = [cluster.scheduler, *cluster.workers.values()]
    assert [s.periodic_callbacks["tick"].callback_time for s in servers] == [
        embedded.TICK * 1000
    ] * (1 + EMBEDDED_WORKERS), (
        "Server.periodic_callbacks['tick'] has changed: see embedded._calm"
    )
    # The user's own clusters are as he has them.
    assert dask.config.get("distributed.worker.profile.enabled") is True
    assert dask.config.get("distributed.admin.tick.interval") != f"{embedded.TICK} s"


def test_an_engine_without_such_callbacks_is_used_as_it_is() -> None:
    embedded._calm(object())
