"""The embedded cluster serves its own driver and nobody else. See docs/security.md."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed.comm
import joblib
import numpy as np
import psutil
import pytest
from distributed import Client, Security
from distributed.comm.utils import to_frames
from distributed.protocol.utils import pack_frames
from joblib import Parallel, delayed

from joblib_distributed import Traffic, get_client, traffic_of_last_call
from support.tasks import mark, marks, wait_for_file
from support.waiting import wait_until

EMBEDDED_WORKERS = 2

#: Seconds in which a server on this machine has answered, or will not.
SOON = 1.0


@pytest.fixture(scope="module")
def plain_client(embedded_client: Client) -> Client:
    """A client on the embedded cluster of those who have chosen to do without."""
    return get_client(n_workers=EMBEDDED_WORKERS, embedded_tls=False)


def servers(client: Client) -> dict[str, str]:
    """Addresses of all that listens in an embedded cluster, but its pages."""
    workers = client.run(lambda dask_worker: (dask_worker.address, dask_worker.nanny))
    found = {"scheduler": str(client.scheduler.address)}
    for number, (worker, nanny) in enumerate(sorted(workers.values())):
        found |= {f"worker {number}": worker, f"nanny {number}": nanny}
    assert len(found) == 1 + 2 * EMBEDDED_WORKERS
    return found


def test_all_of_it_speaks_tls(embedded_client: Client) -> None:
    addresses = servers(embedded_client).values()
    assert [a for a in addresses if not a.startswith("tls://127.0.0.1:")] == []


def test_it_is_another_cluster_than_the_plain_one(
    embedded_client: Client, plain_client: Client
) -> None:
    addresses = servers(plain_client).values()
    assert [a for a in addresses if not a.startswith("tcp://127.0.0.1:")] == []
    for option, client in ((None, embedded_client), (True, embedded_client)):
        assert get_client(n_workers=EMBEDDED_WORKERS, embedded_tls=option) is client
    again = get_client(n_workers=EMBEDDED_WORKERS, embedded_tls=False)
    assert again is plain_client is not embedded_client


# ------------------------------------------------------------------ who may not come in
def outsiders(scheme: str) -> dict[str, Any]:
    security = None if scheme == "tcp" else Security.temporary()
    return {"security": security, "timeout": SOON, "set_as_default": False}


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_a_client_of_somebody_else_is_refused(
    scheme: str, embedded_client: Client
) -> None:
    """Without TLS, and with a certificate of its own."""
    address = embedded_client.scheduler.address.replace("tls://", f"{scheme}://")
    before = len(embedded_client.scheduler_info()["workers"])
    with (
        dask.config.set({"distributed.comm.timeouts.connect": f"{SOON}s"}),
        pytest.raises(OSError, match=r"(?i)timed out|certificate|closed"),
    ):
        Client(address, **outsiders(scheme))
    assert len(embedded_client.scheduler_info()["workers"]) == before
    assert embedded_client.submit(abs, -1, pure=False).result(10) == 1


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_a_worker_of_somebody_else_is_refused(
    scheme: str, embedded_client: Client, tmp_path: Path
) -> None:
    """One that got in would be sent tasks, and data."""
    address = embedded_client.scheduler.address.replace("tls://", f"{scheme}://")
    environment = dict(os.environ, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=f"{SOON}s")
    script = (
        "import asyncio, sys\n"
        "from distributed import Security, Worker\n"
        "async def main():\n"
        "    security = Security.temporary() if sys.argv[1] == 'tls' else None\n"
        "    await Worker(sys.argv[2], security=security, death_timeout=2)\n"
        "    print('it is in')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, scheme, address],
        capture_output=True,
        text=True,
        env={**environment, "TMPDIR": str(tmp_path)},
        timeout=30,
    )
    assert done.returncode
    assert done.stdout == ""
    assert len(embedded_client.scheduler_info()["workers"]) == EMBEDDED_WORKERS


def message(content: dict[str, object]) -> bytes:
    """Return a message as dask puts it on a connection."""
    frames = pack_frames(asyncio.run(to_frames(content)))
    return struct.pack("Q", len(frames)) + frames


def attack(address: str, path: str) -> None:
    """Ask a server to make a file, as somebody does who has only a socket."""
    place = distributed.comm.parse_host_port(address.split("://")[1])
    run = {"op": "run", "function": pickle.dumps(Make(path)), "args": (), "kwargs": {}}
    # A scheduler calls it `run_function`; who does not know an operation ignores it.
    told = [{"compression": None, "python": (3, 12), "pickle-protocol": 5}, run]
    told.append({**run, "op": "run_function"})
    with (
        socket.create_connection(place, SOON) as connection,
        contextlib.suppress(OSError),  # it has hung up, or says nothing
    ):
        for content in told:
            connection.sendall(message({"reply": True, **content}))
        while not os.path.exists(path):
            if not connection.recv(2**16):
                break


class Make:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "server", ["scheduler", *(f"{s} {n}" for s in ("worker", "nanny") for n in (0, 1))]
)
def test_who_has_only_a_socket_gets_nothing_run(
    server: str, embedded_client: Client, plain_client: Client, tmp_path: Path
) -> None:
    ran = {kind: str(tmp_path / kind) for kind in ("tls", "plain")}
    attack(servers(plain_client)[server], ran["plain"])
    assert os.path.exists(ran["plain"]), "this would have shown nothing"
    attack(servers(embedded_client)[server], ran["tls"])
    assert os.listdir(tmp_path) == ["plain"]
    assert embedded_client.submit(abs, -1, pure=False).result(10) == 1


def test_no_file_or_command_line_has_the_key(embedded_client: Client) -> None:
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            said = [*process.cmdline(), *process.environ().values()]
            assert not any("PRIVATE KEY" in one for one in said)
    key = embedded_client.security.tls_client_key.encode()
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
    folder = Path(embedded_client.cluster.scheduler.local_directory).parent
    assert [f for f in folder.rglob("*") if f.is_file() and key in f.read_bytes()] == []


# ----------------------------------------------------------------------- it works as ever
def numbers(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(500_000)


def total_of(array: np.ndarray[Any, Any], number: int) -> tuple[float, bool]:
    return float(array.sum()) + number, array.flags.writeable


def totals_within(array: np.ndarray[Any, Any], number: int) -> list[tuple[float, bool]]:
    assert type(Parallel()._backend).__name__ == "DaskDistributedBackend"
    return Parallel()(  # type: ignore[no-any-return]
        delayed(total_of)(array, 10 * number + i) for i in range(4)
    )


@pytest.fixture(params=[None, False], ids=["tls", "plain"])
def chosen(
    request: pytest.FixtureRequest, embedded_client: Client, plain_client: Client
) -> Iterator[Client]:
    """Either cluster is joblib's choice."""
    with joblib.parallel_config(
        backend="dask.distributed",
        n_workers=EMBEDDED_WORKERS,
        embedded_tls=request.param,
    ):
        yield embedded_client if request.param is None else plain_client


def test_small_tasks(chosen: Client) -> None:
    assert Parallel()(delayed(abs)(-i) for i in range(200)) == list(range(200))


def test_large_data(chosen: Client) -> None:
    array = numbers(7)
    total = float(array.sum())
    expected = [(total + i, False) for i in range(6)]
    assert Parallel()(delayed(total_of)(array, i) for i in range(6)) == expected
    found = traffic_of_last_call().found  # by the other cluster's call, perhaps
    assert traffic_of_last_call() == Traffic(array.nbytes, found=found)


def test_large_data_that_travels_with_the_tasks(chosen: Client) -> None:
    array = numbers(8)
    total = float(array.sum())
    tasks = Parallel(max_nbytes=None)(delayed(total_of)(array, i) for i in range(4))
    assert [found for found, _ in tasks] == [total + i for i in range(4)]


def test_large_results(chosen: Client) -> None:
    for i, result in enumerate(Parallel()(delayed(numbers)(i) for i in range(6))):
        assert np.array_equal(result, numbers(i))


def test_nested_calls(chosen: Client) -> None:
    array = numbers(9)
    total = float(array.sum())
    assert Parallel()(delayed(totals_within)(array, i) for i in range(3)) == [
        [(total + 10 * i + j, False) for j in range(4)] for i in range(3)
    ]


def hold(folder: str, array: np.ndarray[Any, Any], number: int) -> float:
    mark(folder, f"{number}-{os.getpid()}")
    wait_for_file(os.path.join(folder, "go"))
    return float(array.sum()) + number


def test_a_worker_is_killed_in_the_middle(chosen: Client, tmp_path: Path) -> None:
    array = numbers(10)
    results = Parallel(return_as="generator")(
        delayed(hold)(str(tmp_path), array, i) for i in range(6)
    )
    wait_until(lambda: len(marks(tmp_path)) >= 2, 30, lambda: "no two tasks run")
    os.kill(int(min(marks(tmp_path)).partition("-")[2]), signal.SIGKILL)
    mark(str(tmp_path), "go")
    assert list(results) == [float(array.sum()) + i for i in range(6)]
    chosen.wait_for_workers(EMBEDDED_WORKERS, timeout=30)
    assert Parallel()(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


def test_dask_itself_may_use_it(chosen: Client) -> None:
    def client_within() -> int:
        with distributed.worker_client() as client:
            return int(client.submit(abs, -5, pure=False).result(20))

    assert chosen.submit(client_within, pure=False).result(30) == 5


# ------------------------------------------------------------------------ whole programs
SCRIPT = """
import os, sys, threading
import joblib, joblib_distributed, psutil
from joblib import Parallel, delayed
folders = []
for tls in map(eval, sys.argv[1:]):
    keywords = dict(n_workers=2, embedded_tls=tls)
    with joblib.parallel_config(backend="dask.distributed", **keywords):
        assert Parallel()(delayed(abs)(-i) for i in range(8)) == list(range(8))
    client = joblib_distributed.get_client(**keywords)
    print(client.scheduler.address[:3])
    folders += client.run(lambda dask_worker: dask_worker.local_directory).values()
joblib_distributed.shutdown()
helpers = "resource_tracker"
print(*[c.cmdline() for c in psutil.Process().children(recursive=True)
        if helpers not in " ".join(c.cmdline())])
print(*[f for f in folders if os.path.exists(f)])
print(*[c for c in psutil.Process().net_connections() if c.status == "LISTEN"])
"""


def run(script: str, *arguments: str, **environment: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


LOOK_FOR_MODULES = """
import os, sys
import joblib, joblib_distributed
from joblib import Parallel, delayed
def entries():
    return [e for e in sys.path if e.startswith(sys.argv[1])]
with joblib.parallel_config(backend="dask.distributed", n_workers=2):
    within = Parallel()([delayed(entries)(), delayed(entries)()])
print(*entries(), *within[0], sep="\\n")
(folder,) = [n for n in os.listdir(sys.argv[1]) if "-workers-" in n]
found = os.stat(os.path.join(sys.argv[1], folder))
print(folder, found.st_uid, oct(found.st_mode), file=sys.stderr)
"""


def test_modules_are_imported_from_nowhere_that_others_may_write_to(
    tmp_path: Path,
) -> None:
    """Where they keep files is where dask has modules looked for first."""
    out, err = run(LOOK_FOR_MODULES, str(tmp_path), TMPDIR=str(tmp_path))
    entries = [Path(line) for line in out.split()]
    private = tmp_path / f"joblib-distributed-{os.getuid()}-workers-0"
    names = {entry.name.partition("-")[0] for entry in entries}
    assert names >= {"worker", "scheduler", "dask"}, "dask has changed: so may we"
    assert [entry for entry in entries if not entry.is_relative_to(private)] == []
    assert err.split() == [private.name, str(os.getuid()), oct(stat.S_IFDIR | 0o700)]
    assert not private.exists(), "the last one out removes it"


def test_shutdown_leaves_nothing_of_either() -> None:
    assert run(SCRIPT, "True", "False") == ("tls\ntcp\n\n\n\n", "")


def test_the_users_settings_for_other_clusters_do_not_matter() -> None:
    settings = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__CIPHERS": "no-such-cipher",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": "/no/such/file",
    }
    assert run(SCRIPT, "None", **settings) == ("tls\n\n\n\n", "")


def test_without_cryptography_it_is_plain_and_says_so_once() -> None:
    hidden = "import sys\nsys.modules['cryptography'] = None\n"
    out, err = run(hidden + SCRIPT, "None", "None")
    assert out == "tcp\ntcp\n\n\n\n"
    assert err.count("Any user of this machine can run code as you through") == 1
