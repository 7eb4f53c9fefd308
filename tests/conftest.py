"""Fixtures of the whole suite: clusters to run on, and the check that nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import joblib
import psutil
import pytest
from distributed import Client, LocalCluster

import joblib_distributed
from joblib_distributed.driver import embedded
from support.processes import CommandLineCluster
from support.waiting import wait_until

# The suite's own machine may have any number of cores; the tests mean two.
EMBEDDED_WORKERS = 2

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores it for what it starts in the background; the tests of Ctrl-C, and
    # the processes that they start, need it as in a terminal.
    signal.signal(signal.SIGINT, signal.default_int_handler)

with contextlib.suppress(KeyError):
    # An address in the developer's environment must not make the tests use it.
    del os.environ["DASK_SCHEDULER_ADDRESS"]


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Where two processes of pytest-xdist share the modules out, put them in its order.

    The longest first, and last the many short ones: so both end at about the same time.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, bool]:
    """Return where in such a run a test comes; those of a module stay in their order."""
    return item.path.name != "test_tools.py", item.path.parent.name == "pure"


def our_threads() -> set[str]:
    """Names of the threads of live calls in this process."""
    return {
        f"{thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if thread.name.startswith("joblib-distributed")
    }


def embedded_schedulers() -> list[object]:
    return [cluster.scheduler for cluster in embedded._clusters.values()]


def children() -> set[int]:
    """Process ids of this process's children, but for multiprocessing's own helpers."""
    return {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and not _is_helper(child)
    }


def _is_helper(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "resource_tracker" in " ".join(process.cmdline())
    return False


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread of a call or a dask key behind."""
    yield
    wait_until(lambda: not our_threads(), 10, lambda: f"threads left: {our_threads()}")
    for scheduler in embedded_schedulers():
        wait_until(
            lambda scheduler=scheduler: not scheduler.tasks,
            10,
            lambda scheduler=scheduler: f"keys left: {list(scheduler.tasks)[:5]}",
        )


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail the session if a process that it started survives it."""
    before = children()
    yield
    joblib_distributed.shutdown()
    wait_until(
        lambda: children() <= before,
        20,
        lambda: f"processes left: {children() - before}",
    )


@pytest.fixture(scope="session")
def embedded_client() -> Client:
    """A client on the embedded cluster of two single-threaded processes."""
    from joblib_distributed.driver.sources import find_cluster
    from joblib_distributed.options import Options

    return find_cluster(Options(n_workers=EMBEDDED_WORKERS)).client


@pytest.fixture
def backend(embedded_client: Client) -> Iterator[Client]:
    """Make the backend, on the embedded cluster, joblib's choice for the test."""
    with joblib.parallel_config(backend="dask.distributed", n_workers=EMBEDDED_WORKERS):
        yield embedded_client


@pytest.fixture(scope="session")
def command_line_cluster() -> Iterator[CommandLineCluster]:
    """A real ``dask scheduler`` and two ``dask worker`` processes, two threads each."""
    with CommandLineCluster(n_workers=2, nthreads=2) as cluster:
        yield cluster
        # Or its client would look for the scheduler.
        joblib_distributed.get_client(scheduler_host=cluster.address).close()


@pytest.fixture
def own_cluster() -> Iterator[LocalCluster]:
    """A cluster of two single-threaded processes that the test may damage."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        # Started as the embedded cluster's are, so that the suite needs no guard.
        worker_class=embedded._LokyNanny,
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=0,
    ) as cluster:
        yield cluster


@pytest.fixture
def own_client(own_cluster: LocalCluster) -> Iterator[Client]:
    """A client of `own_cluster`, not the default one."""
    client = Client(own_cluster, set_as_default=False)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def shared_worker() -> Iterator[Client]:
    """A client of one worker process with four threads, whose first death counts."""
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=4,
            worker_class=embedded._LokyNanny,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            scheduler_kwargs={"allowed_failures": 0},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
