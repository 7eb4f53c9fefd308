"""Workers that cannot run our tasks are named before the first task is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest
from distributed import Client
from joblib import Parallel, delayed

import joblib_distributed
from joblib_distributed.errors import EnvironmentMismatchError
from support.processes import CommandLineCluster

#: Modules preloaded by a worker to make it what the test needs.
CHANGES = {
    "lacks_the_package": "import sys\nsys.modules['joblib_distributed'] = None\n",
    "another_python": (
        "import types\n"
        "import joblib_distributed.worker.probe as probe\n"
        "probe.sys = types.SimpleNamespace(version_info=(2, 7, 18, 'final', 0))\n"
    ),
}


@pytest.fixture
def cluster_with(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[CommandLineCluster]:
    preload = tmp_path / f"{request.param}.py"
    preload.write_text(CHANGES[request.param])
    with CommandLineCluster(n_workers=0, nthreads=1) as cluster:
        cluster.start_worker()
        cluster.start_worker(f"--preload={preload}")
        with Client(cluster.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
        yield cluster
        joblib_distributed.get_client(scheduler_host=cluster.address).close()


@pytest.mark.parametrize(
    ("cluster_with", "message"),
    [
        (
            "lacks_the_package",
            r"Worker tcp://127.* cannot run tasks: ModuleNotFoundError: .* "
            "Install joblib-distributed",
        ),
        ("another_python", r"Worker tcp://127.* runs Python 2\.7, this process Python 3"),
    ],
    indirect=["cluster_with"],
)
def test_before_the_first_task(
    cluster_with: CommandLineCluster, message: str, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    with (
        joblib.parallel_config(
            backend="dask.distributed", scheduler_host=cluster_with.address
        ),
        pytest.raises(EnvironmentMismatchError, match=message),
    ):
        Parallel()(delayed(ran.touch)() for _ in range(4))
    assert not ran.exists()


def test_the_scheduler_needs_nothing_of_ours(tmp_path: Path) -> None:
    preload = tmp_path / "scheduler_without.py"
    preload.write_text(
        "import sys\n"
        "for name in ('joblib', 'joblib_distributed'):\n"
        "    sys.modules[name] = None\n"
    )
    with CommandLineCluster(0, 1, f"--preload={preload}") as cluster:
        cluster.start_worker()
        with joblib.parallel_config(
            backend="dask.distributed", scheduler_host=cluster.address
        ):
            assert Parallel()(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]
        joblib_distributed.get_client(scheduler_host=cluster.address).close()
