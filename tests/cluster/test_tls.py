"""Everything travels through TLS where the cluster wants it, large data, too.

The embedded cluster's own is in ``test_security.py``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import joblib
import numpy as np
import pytest
from distributed import Client
from joblib import Parallel, delayed

from joblib_distributed import Traffic, traffic_of_last_call
from joblib_distributed.data.transfer import CHUNK
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.driver.sources import find_cluster
from joblib_distributed.errors import SchedulerUnreachableError
from joblib_distributed.options import Options
from support.certificate import Certificate
from support.processes import CommandLineCluster
from support.tasks import in_thread, mark, marks, wait_for_file
from support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs stores"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl command"),
]

#: Floats in somewhat more than 1 MB, joblib's default for ``max_nbytes``.
LARGE = 150_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def cluster(
    certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandLineCluster]:
    """A scheduler and workers that speak TLS alone, the workers with a store not ours."""
    env = {
        **certificate.demanding_environment,
        "JOBLIB_TEMP_FOLDER": str(tmp_path_factory.mktemp("other-machine")),
    }
    with CommandLineCluster(0, 1, "--protocol=tls", env=env) as cluster:
        for _ in range(2):
            cluster.start_worker()
        yield cluster


@pytest.fixture
def encrypted(cluster: CommandLineCluster, certificate: Certificate) -> Iterator[Cluster]:
    """The same, and a client that is new to it."""
    host = cluster.address
    with (
        dask.config.set(certificate.settings),
        joblib.parallel_config(backend="dask.distributed", scheduler_host=host),
    ):
        found = find_cluster(Options(scheduler_host=host))
        found.client.wait_for_workers(2, timeout=30)
        addresses = [host, *found.client.nthreads()]
        assert all(address.startswith("tls://") for address in addresses)
        yield found
        found.client.close()


def numbers(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(LARGE)


def total_of(array: np.ndarray[Any, Any], number: int) -> tuple[float, bool]:
    return float(array.sum()) + number, array.flags.writeable


def test_small_tasks(encrypted: Cluster) -> None:
    assert Parallel()(delayed(abs)(-i) for i in range(50)) == list(range(50))


def test_large_data_is_brought_to_the_workers_store(encrypted: Cluster) -> None:
    array = numbers(1000)  # which this process's store has not seen
    expected = [(float(array.sum()) + i, False) for i in range(8)]
    for traffic in (
        Traffic(array.nbytes, by_driver=array.nbytes),
        Traffic(array.nbytes, found=array.nbytes),
    ):
        assert Parallel()(delayed(total_of)(array, i) for i in range(8)) == expected
        assert traffic_of_last_call() == traffic
        assert encrypted.arrivals == 1


def test_large_results(encrypted: Cluster) -> None:
    for i, result in enumerate(Parallel()(delayed(numbers)(i) for i in range(6))):
        assert np.array_equal(result, numbers(i))


def totals_within(array: np.ndarray[Any, Any], number: int) -> list[tuple[float, bool]]:
    assert type(Parallel()._backend).__name__ == "DaskDistributedBackend"
    return Parallel()(  # type: ignore[no-any-return]
        delayed(total_of)(array, 10 * number + i) for i in range(4)
    )


def test_nested_calls(encrypted: Cluster) -> None:
    array = numbers(1001)
    total = float(array.sum())
    assert Parallel()(delayed(totals_within)(array, i) for i in range(3)) == [
        [(total + 10 * i + j, False) for j in range(4)] for i in range(3)
    ]


# ---------------------------------------------------------- however the cluster is named
@pytest.fixture(params=["client=", "the current client", "dask's configuration"])
def named(
    request: pytest.FixtureRequest, cluster: CommandLineCluster, certificate: Certificate
) -> Iterator[None]:
    """The cluster is joblib's choice, and its certificate is found in several ways."""
    with contextlib.ExitStack() as stack:
        options = {}
        if request.param == "dask's configuration":
            settings = {**certificate.settings, "scheduler-address": cluster.address}
            stack.enter_context(dask.config.set(settings))
            stack.callback(lambda: find_cluster(Options()).client.close())
        else:
            client = stack.enter_context(
                Client(
                    cluster.address,
                    security=certificate.security,
                    set_as_default=request.param == "the current client",
                )
            )
            if request.param == "client=":
                options = {"client": client}
        stack.enter_context(joblib.parallel_config("dask.distributed", **options))
        yield


@pytest.mark.usefixtures("named")
def test_however_the_cluster_is_named() -> None:
    assert Parallel()(delayed(abs)(-i) for i in range(20)) == list(range(20))
    array = numbers(1002)
    total = float(array.sum())
    assert Parallel()(delayed(totals_within)(array, i) for i in range(3)) == [
        [(total + 10 * i + j, False) for j in range(4)] for i in range(3)
    ]
    assert traffic_of_last_call().shared == array.nbytes


# -------------------------------------------------------------------- from host to host
@pytest.fixture(scope="module")
def two_hosts(
    certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandLineCluster]:
    """Two workers whose stores are in different folders: two hosts, as we see it."""
    env = certificate.demanding_environment
    with CommandLineCluster(0, 1, "--protocol=tls", env=env) as cluster:
        for name in ("one", "other"):
            folder = str(tmp_path_factory.mktemp(name))
            cluster.start_worker(f"--name={name}", env={"JOBLIB_TEMP_FOLDER": folder})
        yield cluster


@pytest.fixture
def hosts(two_hosts: CommandLineCluster, certificate: Certificate) -> Iterator[Client]:
    with Client(
        two_hosts.address, security=certificate.security, set_as_default=False
    ) as client:
        client.wait_for_workers(2, timeout=30)
        yield client


def large(seed: int) -> np.ndarray[Any, Any]:
    """More than two chunks of what travels at a time."""
    return np.random.default_rng(seed).random(2 * CHUNK // 8 + 1000)


def on(client: Client, *workers: str) -> Any:
    """Choose workers by name: dask takes those with the others."""
    # The traffic of large data alone is looked at.
    return joblib.parallel_config(
        "dask.distributed", client=client, workers=list(workers), n_jobs=2, modules=False
    )


def test_one_host_sends_large_data_to_the_other(hosts: Client) -> None:
    array = large(11)
    expected = [(float(array.sum()) + i, False) for i in range(4)]
    size = array.nbytes
    for worker, traffic in (
        ("one", Traffic(size, by_driver=size)),
        ("other", Traffic(size, found=size, by_hosts=size)),  # found by the driver here
        ("other", Traffic(size, found=size)),
    ):
        with on(hosts, worker):
            assert Parallel()(delayed(total_of)(array, i) for i in range(4)) == expected
        assert traffic_of_last_call() == traffic


def hold(folder: str, array: np.ndarray[Any, Any], number: int) -> tuple[float, bool]:
    mark(folder, f"{number}-{os.getpid()}")
    wait_for_file(os.path.join(folder, "go"))
    return total_of(array, number)


def hold_within(folder: str, array: np.ndarray[Any, Any], number: int) -> Any:
    return Parallel()(delayed(hold)(folder, array, 10 * number + i) for i in range(2))


def kill_when_two_run(folder: Path) -> None:
    """Kill the process of one of them, then let the others end."""
    wait_until(lambda: len(marks(folder)) >= 2, 30, lambda: "no two tasks run")
    os.kill(int(min(marks(folder)).partition("-")[2]), signal.SIGKILL)
    mark(str(folder), "go")


def test_a_worker_is_killed_in_the_middle(hosts: Client, tmp_path: Path) -> None:
    array = large(12)
    with on(hosts, "one", "other"):
        results = Parallel(return_as="generator")(
            delayed(hold)(str(tmp_path), array, i) for i in range(6)
        )
        kill_when_two_run(tmp_path)
        total = float(array.sum())
        assert list(results) == [(total + i, False) for i in range(6)]


def test_a_worker_is_killed_in_the_middle_of_nested_calls(
    hosts: Client, tmp_path: Path
) -> None:
    array = large(13)

    def call() -> Any:
        with on(hosts, "one", "other"):
            return Parallel()(
                delayed(hold_within)(str(tmp_path), array, i) for i in range(3)
            )

    join = in_thread(call)
    kill_when_two_run(tmp_path)
    total = float(array.sum())
    assert join() == [[(total + 10 * i + j, False) for j in range(2)] for i in range(3)]


def test_the_connection_of_the_client_is_cut(hosts: Client, tmp_path: Path) -> None:
    """It is made anew, with the same certificate."""
    array = large(14)
    with on(hosts, "one", "other"):
        results = Parallel(return_as="generator")(
            delayed(hold)(str(tmp_path), array, i) for i in range(4)
        )
        wait_until(lambda: len(marks(tmp_path)) >= 2, 30, lambda: "no two tasks run")
        hosts.loop.add_callback(hosts.scheduler_comm.comm.abort)
        mark(str(tmp_path), "go")
        total = float(array.sum())
        assert list(results) == [(total + i, False) for i in range(4)]
        assert Parallel()(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


# ------------------------------------------------------------------ who may not come in
@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("scheme", "has_certificate", "why"),
    [
        ("tls", False, "TLS expects a `ssl_context`"),
        ("tls", True, "TLS certificate does not match"),
        # However the system puts it that the scheduler has hung up.
        ("tcp", False, ""),
    ],
    ids=["without certificate", "with that of others", "without encryption"],
)
def test_a_client_that_is_refused(
    scheme: str,
    has_certificate: bool,
    why: str,
    cluster: CommandLineCluster,
    tmp_path: Path,
) -> None:
    host = cluster.address.replace("tls://", f"{scheme}://")
    settings = Certificate(tmp_path).settings if has_certificate else {}
    with (
        dask.config.set({**settings, "distributed.comm.timeouts.connect": "1s"}),
        joblib.parallel_config(backend="dask.distributed", scheduler_host=host),
        pytest.raises(SchedulerUnreachableError) as caught,
    ):
        Parallel()([delayed(abs)(1)])
    assert f"scheduler_host={host!r}: " in str(caught.value)
    assert why in str(caught.value)
