"""Where the cluster comes from."""

from __future__ import annotations

import joblib
from distributed import get_worker
from joblib import Parallel, delayed

from support.processes import CommandLineCluster


def scheduler_of_task(_: int) -> str:
    return str(get_worker().scheduler.address)


def test_scheduler_host(command_line_cluster: CommandLineCluster) -> None:
    with joblib.parallel_config(
        backend="dask.distributed", scheduler_host=command_line_cluster.host_and_port
    ):
        found = Parallel()(delayed(scheduler_of_task)(i) for i in range(4))
    assert found == [command_line_cluster.address] * 4
