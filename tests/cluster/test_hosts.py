"""Large data on several hosts: each receives it once, whoever dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.hosts_scenes import (
    DEADLINE,
    SIZE,
    console_of,
    join,
    kill_holders,
    kill_sender,
    kill_their_workers,
    stored,
)
from support.network import Console, HostCluster, counted, obstacle
from support.waiting import wait_until

_obstacle = obstacle()
pytestmark = [
    pytest.mark.skipif(bool(_obstacle), reason=_obstacle),
    pytest.mark.timeout(150),
]

#: What a host may receive, or the client send, beside the data.
MORE = SIZE // 10

SHAPES = {
    "array": "[delayed(total)(array, i) for i in range(24)]",
    "nested": "[delayed(total_inside)(({'array': array}, 1), i) for i in range(24)]",
    "method": "[delayed(Model(array).total)(i) for i in range(24)]",
}


@pytest.fixture(scope="module")
def open_network() -> Iterator[tuple[HostCluster, Console]]:
    with HostCluster(3, 2) as cluster:
        yield cluster, console_of(cluster, 6)


@pytest.fixture(scope="module")
def confined_network() -> Iterator[tuple[HostCluster, Console]]:
    with HostCluster(2, 2, confined=True) as cluster:
        yield cluster, console_of(cluster, 4)


@pytest.fixture(params=["open", "confined"])
def network(request: pytest.FixtureRequest) -> tuple[HostCluster, Console]:
    """Hosts of two workers; confined: the client reaches the scheduler alone."""
    # Made once each: pytest would make one that it is given as a parameter again and
    # again.
    found: tuple[HostCluster, Console] = request.getfixturevalue(
        f"{request.param}_network"
    )
    return found


def memory_of(process: Any) -> int:
    """Return a process's own memory, in bytes."""
    return int(psutil.Process(process.pid).memory_full_info().uss)


@pytest.mark.parametrize(
    ("network", "shape"),
    [("confined", "array"), *(("open", shape) for shape in SHAPES)],
    indirect=["network"],
)
def test_each_host_receives_data_once(
    network: tuple[HostCluster, Console], shape: str
) -> None:
    cluster, console = network
    calls = SHAPES[shape]
    console.run(f"array = numbers({list(SHAPES).index(shape)})")
    before = [stored(host) for host in cluster.hosts]
    memory = memory_of(cluster.scheduler_process)
    with counted(cluster.client, cluster.scheduler, *cluster.hosts) as traffic:
        names = console.run(f"with backend(): result = asked(array, {calls})")
    assert names == sorted(host.namespace for host in cluster.hosts), shape
    assert console.run("result = joblib_distributed.traffic_of_last_call()") == [
        *(SIZE, 0, SIZE, (len(cluster.hosts) - 1) * SIZE, 0)
    ]
    assert SIZE <= traffic[0][1] <= SIZE + MORE
    assert all(SIZE <= received <= SIZE + MORE for received, _ in traffic[2:])
    assert [stored(h) - b for h, b in zip(cluster.hosts, before, strict=True)] == [
        SIZE
    ] * len(cluster.hosts)
    assert memory_of(cluster.scheduler_process) - memory < 2**26

    with counted(cluster.client, *cluster.hosts) as traffic:
        assert console.run(f"with backend(): result = asked(array, {calls})") == names
    assert traffic[0][1] < 2**20
    assert all(received < 2**20 for received, _ in traffic[1:])


def test_scattered_data_is_on_every_host_before_the_first_task(
    network: tuple[HostCluster, Console],
) -> None:
    """The tasks run on one worker alone."""
    cluster, console = network
    before = [stored(host) for host in cluster.hosts]
    names = console.run(
        "array = numbers(10)\n"
        "(worker, *_) = client.scheduler_info(n_workers=-1)['workers']\n"
        "with joblib.parallel_config('dask.distributed', scheduler_host=sys.argv[1],"
        " scatter=[array], workers=worker):\n"
        "    result = asked(array, [delayed(total)(array, i) for i in range(4)])"
    )
    assert len(names) == 1
    after = [stored(host) for host in cluster.hosts]
    assert [a - b for a, b in zip(after, before, strict=True)] == [SIZE] * len(
        cluster.hosts
    )


@pytest.mark.parametrize("kind", ["array", "future"])
def test_dask_data_does_not_pass_through_the_client(
    network: tuple[HostCluster, Console], kind: str
) -> None:
    cluster, console = network
    with counted(cluster.client) as traffic:
        console.run(
            "import dask.array as da\n"
            f"value = da.ones({SIZE // 8}, chunks={SIZE // 80})\n"
            f"value = client.compute(value) if {kind == 'future'} else value\n"
            "with backend():\n"
            "    found = Parallel()(delayed(total)(value, i) for i in range(4))\n"
            f"assert {{t for _, t, _ in found}} == {{{SIZE // 8}}}, found\n"
            "del value"
        )
    assert max(traffic[0]) < MORE


@pytest.fixture
def cluster() -> Iterator[HostCluster]:
    """Two hosts of one worker, to be damaged."""
    with HostCluster(2, 1) as cluster:
        yield cluster


def test_a_host_that_joins_receives_data_once(
    cluster: HostCluster, tmp_path: Path
) -> None:
    with counted(cluster.client) as traffic:
        *_, joined = join(cluster, console_of(cluster, 2), tmp_path)
    assert joined.traffic()[0] <= SIZE + MORE + 2**22  # of its start
    # Once to another, for all of them.
    assert traffic[0][1] < SIZE + MORE
    assert stored(joined) == SIZE


def test_every_holder_dies(cluster: HostCluster, tmp_path: Path) -> None:
    """With all that ran on their hosts: the data has to come from the client again."""
    (joined,) = kill_holders(cluster, console_of(cluster, 2), tmp_path)
    assert stored(joined) == SIZE


def test_workers_of_every_holder_die(cluster: HostCluster, tmp_path: Path) -> None:
    """The hosts keep the data, for the workers that follow."""
    with counted(cluster.client) as traffic:
        kill_their_workers(cluster, console_of(cluster, 2), tmp_path)
    assert traffic[0][1] < SIZE + MORE
    assert [stored(host) for host in cluster.hosts] == [SIZE] * 2


def test_the_sending_host_dies_in_the_middle(
    cluster: HostCluster, tmp_path: Path
) -> None:
    (receiver,) = kill_sender(cluster, console_of(cluster, 2), tmp_path)
    assert stored(receiver) == SIZE


#: Has what is asked of workers wait for a file `frozen` in `folder`, and says whom it is
#: for; then nothing but a look at who reports ends the wait for an answer.
HELD = """
import asyncio, dask
from joblib_distributed.driver import reach
dask.config.set({"distributed.comm.timeouts.tcp": "1000s"})
ask, reach.CHUNK_TIMEOUT = reach.Reach.ask, 1e6

async def wait_and_ask(self, address, operation, **message):
    await self._reaches(address)  # by a connection with that timeout
    host = address.split("//")[1].split(":")[0]
    if not os.path.exists(os.path.join(folder, "frozen")):
        open(os.path.join(folder, "for-" + host), "w").close()
    while not os.path.exists(os.path.join(folder, "frozen")):
        await asyncio.sleep(0.01)
    return await ask(self, address, operation, **message)

reach.Reach.ask = wait_and_ask
"""


def test_a_host_that_freezes_while_it_is_given_data_is_passed_over(
    cluster: HostCluster, tmp_path: Path
) -> None:
    console = console_of(cluster, 2)
    console.run(f"folder = {str(tmp_path)!r}\n{HELD}array = numbers(0)")
    console.start(
        "with joblib.parallel_config('dask.distributed', scheduler_host=sys.argv[1], "
        "frozen_after=1):\n"
        "    result = asked(array, [delayed(total)(array, i) for i in range(4)])"
    )
    wait_until(lambda: list(tmp_path.iterdir()), DEADLINE, lambda: "no host is asked")
    (asked,) = tmp_path.iterdir()
    (frozen,) = (host for host in cluster.hosts if f"for-{host.address}" == asked.name)
    frozen.freeze()
    (tmp_path / "frozen").touch()
    (other,) = set(cluster.hosts) - {frozen}
    assert console.result() == [other.namespace]
