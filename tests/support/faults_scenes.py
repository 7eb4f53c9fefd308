"""Clusters that faults are fired at: see `support.faults_cell`.

Both kinds have two workers of two threads, and a client of their own that looks at them,
past whatever stands between the driver and its scheduler. They speak TLS if the process
that makes them is to: see `support.certificate`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, LocalCluster

from support.certificate import protocol
from support.processes import CommandLineCluster
from support.relay import Relay
from support.waiting import wait_until

WORKERS = 2
THREADS_OF_EACH = 2

DEADLINE = 30

#: How each worker comes to have a store of its own, as if on a host of its own. Run as
#: ``sh -c SCRIPT STORE COMMAND...``.
_ENTER = """
mount --make-rprivate / && mount -t tmpfs -o size=512m tmpfs "$0" && exec "$@"
"""

#: Bytes from which a file of a store is a buffer.
_LARGE = 2**20

_never = threading.Event()


class SupervisedCluster(CommandLineCluster):
    """Worker commands that are started again when they end, and a scheduler that may be.

    Parameters
    ----------
    store : str
        The folder that is each worker's own, if `is_apart`.
    is_apart : bool
        Whether each worker is as if on a host of its own.
    for_workers : tuple of str
        Further arguments of ``dask worker``.
    """

    def __init__(
        self, store: str, is_apart: bool = False, for_workers: tuple[str, ...] = ()
    ) -> None:
        super().__init__(WORKERS, THREADS_OF_EACH, f"--protocol={protocol()}")
        self._store = store
        self._is_apart = is_apart
        self._for_workers = for_workers
        self.workers: list[subprocess.Popen[bytes]] = []
        self._wanted = 0
        self._restarting = threading.Event()
        self._port = "0"
        # Processes die with the thread that started them: this one lives to the end.
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    def __enter__(self) -> SupervisedCluster:
        self.start_scheduler()
        self._supervisor.start()
        self.add_workers(WORKERS)
        return self

    def _command(self, role: str, *arguments: str) -> list[str]:
        command = super()._command(role, *arguments)
        if role == "worker" and self._is_apart:
            enter = ["unshare", "--mount", "sh", "-c", _ENTER, self._store]
            return [*enter, *command]
        return command

    def add_workers(self, number: int) -> None:
        """Have the supervisor start more of them."""
        self._wanted += number

    def _supervise(self) -> None:
        while not _never.wait(0.05):
            self.workers = [w for w in self.workers if w.poll() is None]
            while len(self.workers) < self._wanted:
                self.workers.append(self.start_worker(*self._for_workers))
            if self._restarting.is_set():
                self._restarting.clear()
                self.start_scheduler(f"--port={self._port}")

    def restart_scheduler(self, address: str) -> None:
        """Kill it, have it started again there, and return when it listens."""
        host, self._port = address.partition("://")[2].split(":")
        scheduler = self.processes[0]
        scheduler.kill()
        scheduler.wait(DEADLINE)
        self._restarting.set()

        def listens() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(self._port))).close()
                return True
            return False

        wait_until(listens, DEADLINE, lambda: "the scheduler has not come back")


class Scene:
    """A cluster that a call is to run on, and what can be done to it.

    Parameters
    ----------
    folder : pathlib.Path
        For the store, and for what this writes.
    """

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.store.mkdir(exist_ok=True)
        #: A client of the test's own.
        self.observer: Client
        #: The client that the call runs on, if it is to be given one.
        self.client: Client | None = None
        #: Address that the driver connects to.
        self.address = ""

    def _observe(self, address: str, workers: int) -> None:
        self.observer = Client(address, set_as_default=False)
        self.wait_for_workers(workers)

    def connect(self, target: object) -> None:
        """Make the client that the call is given."""
        self.client = Client(target, set_as_default=False)

    def members(self) -> set[str]:
        """Return the addresses of the workers."""
        return set(self.observer.nthreads())

    def wait_for_workers(self, number: int) -> None:
        """Return when there are exactly that many."""
        wait_until(
            lambda: len(self.members()) == number,
            DEADLINE,
            lambda: f"workers: {self.members()}, not {number}",
        )

    def pids(self) -> dict[str, int]:
        """Return the process of each worker, by its address."""
        return dict(self.observer.run(os.getpid))

    def statuses(self) -> list[str]:
        """Return what state each worker is in, for dask."""
        return list(self.observer.run_on_scheduler(_statuses))

    def holders(self) -> list[int]:
        """Return the processes that hold shared data, by what lies in their stores."""
        found = [pid for pid in self.pids().values() if self._holds(pid)]
        return found or self._holders_by_key()

    def _holds(self, pid: int) -> bool:
        store = Path(f"/proc/{pid}/root{self.store}")
        with contextlib.suppress(OSError):
            return any(
                path.is_file() and path.stat().st_size >= _LARGE
                for path in store.rglob("*")
            )
        return False

    def _holders_by_key(self) -> list[int]:
        """Return the processes that hold keys of data, as the scheduler knows them."""
        addresses = self.observer.run_on_scheduler(_holders)
        pids = self.pids()
        return [pids[address] for address in addresses if address in pids]


def _statuses(dask_scheduler: Any) -> list[str]:
    return [worker.status.name for worker in dask_scheduler.workers.values()]


def _holders(dask_scheduler: Any) -> list[str]:
    return sorted(
        {
            worker.address
            for task in dask_scheduler.tasks.values()
            if task.nbytes is not None and task.nbytes >= 2**20
            for worker in task.who_has or ()
        }
    )


class CommandScene(Scene):
    """Real ``dask scheduler`` and ``dask worker`` processes.

    Parameters
    ----------
    folder : pathlib.Path
    is_relayed : bool
        Whether the driver reaches the scheduler through a relay.
    given : bool
        Whether the call is given a client, rather than an address.
    is_apart, for_workers
        See `SupervisedCluster`.
    """

    def __init__(
        self,
        folder: Path,
        is_relayed: bool = False,
        given: bool = True,
        is_apart: bool = False,
        for_workers: tuple[str, ...] = (),
    ) -> None:
        super().__init__(folder)
        self.cluster = self.make_cluster(is_apart, for_workers)
        self.cluster.__enter__()
        # Not read again: it is written anew when the scheduler restarts.
        self._direct = self.address = self.cluster.address
        self._observe(self.address, WORKERS)
        self.relay: Relay | None = None
        if is_relayed:
            self.relay = Relay(int(self.address.rsplit(":", 1)[1])).__enter__()
            self.address = self.relay.address.replace("tcp", protocol())
        if given:
            self.connect(self.address)

    def make_cluster(
        self, is_apart: bool, for_workers: tuple[str, ...]
    ) -> SupervisedCluster:
        """Return the cluster, which is not started yet."""
        return SupervisedCluster(str(self.store), is_apart, for_workers)

    def restart_scheduler(self) -> None:
        """Kill the scheduler and have it started again; look at the new one."""
        self.observer.close()
        self.cluster.restart_scheduler(self._direct)
        self.observer = Client(self._direct, set_as_default=False)

    def restart_workers(self) -> None:
        """End every worker command as a user would; the supervisor starts it again."""
        before = list(self.cluster.workers)
        for process in before:
            process.send_signal(signal.SIGTERM)
        for process in before:
            process.wait(DEADLINE)

    def kill_host(self, pid: int) -> None:
        """Kill the whole tree of the command whose worker has this process id."""
        for command in list(self.cluster.workers):
            try:
                tree = [psutil.Process(command.pid)]
                tree += tree[0].children(recursive=True)
            except psutil.NoSuchProcess:
                continue  # it has been killed just now
            if pid in [process.pid for process in tree]:
                # The nanny first, or it would start the worker again.
                for process in tree:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        # It removes semaphores, which a host would lose with its memory.
                        if "resource_tracker" not in " ".join(process.cmdline()):
                            process.kill()


class LocalScene(Scene):
    """A `LocalCluster` in the driver's process, which it can scale.

    Parameters
    ----------
    folder : pathlib.Path
    workers : int
        How many it has at first.
    given : bool
        Whether the call is given a client that knows the cluster.
    adapt : dict, optional
        Keywords of ``cluster.adapt``.
    """

    def __init__(
        self,
        folder: Path,
        workers: int = WORKERS,
        given: bool = True,
        adapt: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(folder)
        self.cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=THREADS_OF_EACH,
            host="127.0.0.1",
            protocol=f"{protocol()}://",
            dashboard_address=None,
            memory_limit=0,
            silence_logs=50,
        )
        self.address = self.cluster.scheduler_address
        self._observe(self.address, workers)
        if adapt is not None:
            self.cluster.adapt(**adapt)
        if given:
            self.connect(self.cluster)

    def scale(self, workers: int) -> None:
        """Scale, and wait for it."""
        self.cluster.scale(workers)
        self.wait_for_workers(workers)


#: What makes a scene in a folder.
Setting = Callable[[Path], Scene]
