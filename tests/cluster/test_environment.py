"""Workers that cannot run our tasks are named before the first task is sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from distributed import Client
from joblib import Parallel, delayed

import joblib_distributed
from joblib_distributed.driver.sources import find_cluster
from joblib_distributed.errors import EnvironmentMismatchError
from joblib_distributed.options import Options
from support.processes import CommandLineCluster

#: Modules preloaded by a worker to make it what the test needs.
CHANGES = {
    "lacks_the_package": "import sys\nsys.modules['joblib_distributed'] = None\n",
    "another_python": (
        "import types\n"
        "import joblib_distributed.worker.probe as probe\n"
        "probe.sys = types.SimpleNamespace(version_info=(2, 7, 18, 'final', 0))\n"
    ),
    "another_version": (
        "import joblib_distributed.worker.probe as probe\n"
        "probe.wire_format = lambda: 'another'\n"
    ),
}

#: Preloaded by a worker, it has neither this package nor what that needs beside joblib
#: and dask.
NEVER_INSTALLED = """
import importlib.util, os, sys
found = importlib.util.find_spec("joblib_distributed")
if found is not None:  # dask reads such a file twice
    folder = os.path.dirname(os.path.dirname(found.origin))
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != folder]
assert importlib.util.find_spec("joblib_distributed") is None
for name in ("xxhash", "tqdm"):
    sys.modules[name] = None
"""


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
        (
            "another_version",
            r"Worker tcp://127.* has a version of joblib-distributed that",
        ),
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


def where(array: np.ndarray[Any, Any]) -> tuple[str, float, bool]:
    file = sys.modules["joblib_distributed"].__spec__.loader
    has_xxhash = sys.modules["joblib_distributed.data.buffers"].xxhash is not None
    return type(file).__module__, float(array.sum()), has_xxhash


def test_workers_that_lack_the_package_are_sent_it(tmp_path: Path) -> None:
    preload = tmp_path / "never_installed.py"
    preload.write_text(NEVER_INSTALLED)
    array = np.arange(300_000, dtype=float)
    expected = "joblib_distributed_bootstrap", float(array.sum()), False
    with CommandLineCluster(n_workers=0, nthreads=1) as cluster:
        for _ in range(2):
            cluster.start_worker(f"--preload={preload}")
        with Client(cluster.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
        # As it is looked at before the first call, too.
        looked_at = find_cluster(Options(scheduler_host=cluster.address)).survey()
        assert [each.obstacle for each in looked_at] == [""] * 4
        with joblib.parallel_config(
            backend="dask.distributed", scheduler_host=cluster.address, n_jobs=2
        ):
            found = Parallel()(delayed(where)(array) for _ in range(6))
            assert found == [expected] * 6
            large = Parallel()(delayed(np.ones)(300_000) for _ in range(3))
            assert [one.sum() for one in large] == [300_000.0] * 3
            # One that joins later has it from the start.
            cluster.start_worker(f"--preload={preload}")
            client = joblib_distributed.get_client(scheduler_host=cluster.address)
            client.wait_for_workers(3, timeout=30)
            assert Parallel()(delayed(abs)(-i) for i in range(9)) == list(range(9))
        joblib_distributed.get_client(scheduler_host=cluster.address).close()


def test_a_worker_that_joins_while_a_call_waits_for_one_is_sent_it(
    tmp_path: Path,
) -> None:
    preload = tmp_path / "never_installed.py"
    preload.write_text(NEVER_INSTALLED)
    with CommandLineCluster(n_workers=0, nthreads=1) as cluster:
        cluster.start_worker(f"--preload={preload}")  # and is not waited for
        with joblib.parallel_config(
            backend="dask.distributed",
            scheduler_host=cluster.address,
            n_jobs=2,
            wait_for_workers_timeout=40,
        ):
            assert Parallel()(delayed(abs)(-i) for i in range(9)) == list(range(9))
        joblib_distributed.get_client(scheduler_host=cluster.address).close()


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
