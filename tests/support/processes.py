"""Real ``dask scheduler`` and ``dask worker`` processes, from their command lines."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from types import TracebackType

from distributed import Client

from support.waiting import wait_until

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class CommandLineCluster:
    """A scheduler and workers on loopback, each a process tree of its own.

    Parameters
    ----------
    n_workers : int
        Number of ``dask worker`` commands, each with its nanny.
    nthreads : int
        Threads of each.
    *for_scheduler : str
        Further arguments of ``dask scheduler``.
    env : mapping, optional
        Changes to the environment of all of them.
    """

    def __init__(
        self,
        n_workers: int,
        nthreads: int,
        *for_scheduler: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="joblib-distributed-test-")
        self.scheduler_file = os.path.join(self._folder.name, "scheduler.json")
        self._n_workers = n_workers
        self._nthreads = nthreads
        self._for_scheduler = for_scheduler
        self._env = dict(env or {})
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> CommandLineCluster:
        try:
            self.start_scheduler()
            for _ in range(self._n_workers):
                self.start_worker()
            if self._n_workers:
                with Client(self.address, set_as_default=False) as client:
                    client.wait_for_workers(self._n_workers, timeout=30)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The scheduler's, as ``tcp://HOST:PORT``."""
        with open(self.scheduler_file) as file:
            return str(json.load(file)["address"])

    @property
    def host_and_port(self) -> str:
        """The scheduler's address as users write it: ``HOST:PORT``."""
        return self.address.partition("://")[2]

    def start_scheduler(self, *arguments: str) -> None:
        self._start(
            "scheduler",
            "--host=127.0.0.1",
            "--port=0",
            "--no-dashboard",
            "--dashboard-address=127.0.0.1:0",
            f"--scheduler-file={self.scheduler_file}",
            *self._for_scheduler,
            *arguments,
        )
        wait_until(
            self._has_address, 30, lambda: "the scheduler has not written its file"
        )

    def _has_address(self) -> bool:
        # It is there before it has been written.
        with contextlib.suppress(FileNotFoundError, ValueError):
            return bool(self.address)
        return False

    def start_worker(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return self._start(
            "worker",
            f"--scheduler-file={self.scheduler_file}",
            "--host=127.0.0.1",
            f"--nthreads={self._nthreads}",
            "--memory-limit=0",
            "--no-dashboard",
            f"--local-directory={self._folder.name}",
            *arguments,
            env=env,
        )

    def _command(self, role: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", f"distributed.cli.dask_{role}", *arguments]

    def _start(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command(*arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # The workers must find the functions of the test modules.
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                **self._env,
                **(env or {}),
            },
            # A group of its own, so that a Ctrl-C of the developer ends it through us,
            # and an end of its own, should the test session be killed.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        # The scheduler last: workers that say goodbye to one that ends wait 8 s for it.
        scheduler, *workers = self.processes or [None]
        for some in (workers, [scheduler] if scheduler else []):
            for process in some:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            for process in some:
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(15)
        self._folder.cleanup()
