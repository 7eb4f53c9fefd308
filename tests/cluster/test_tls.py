"""Everything travels through TLS where the cluster wants it, large data, too."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

from joblib_distributed import Traffic, traffic_of_last_call
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.driver.sources import find_cluster
from joblib_distributed.errors import SchedulerUnreachableError
from joblib_distributed.options import Options
from support.processes import CommandLineCluster

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs stores"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl command"),
]

#: Floats in somewhat more than 1 MB, joblib's default for ``max_nbytes``.
LARGE = 150_000

ROLES = ("scheduler", "worker", "client")


class Certificate:
    """One certificate, signed by itself, for all three roles."""

    def __init__(self, folder: Path) -> None:
        self._certificate, self._key = folder / "certificate.pem", folder / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
                *("-days", "2", "-subj", "/CN=localhost"),
                *("-keyout", str(self._key), "-out", str(self._certificate)),
            ],
            check=True,
            capture_output=True,
            timeout=30,
        )

    @property
    def settings(self) -> dict[str, str]:
        """dask's, by name."""
        found = {"distributed.comm.tls.ca-file": str(self._certificate)}
        for role in ROLES:
            found[f"distributed.comm.tls.{role}.cert"] = str(self._certificate)
            found[f"distributed.comm.tls.{role}.key"] = str(self._key)
        return found

    @property
    def environment(self) -> dict[str, str]:
        return {
            f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": value
            for name, value in self.settings.items()
        }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def cluster(
    certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandLineCluster]:
    """A scheduler and workers that speak TLS alone, the workers with a store not ours."""
    env = {
        **certificate.environment,
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
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
    array = numbers(1)
    total = float(array.sum())
    assert Parallel()(delayed(totals_within)(array, i) for i in range(3)) == [
        [(total + 10 * i + j, False) for j in range(4)] for i in range(3)
    ]


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
