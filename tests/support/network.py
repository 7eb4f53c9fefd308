"""Hosts of a network, as namespaces of this machine.

Each host has a network interface and addresses of its own, its own ``/dev/shm`` and host
name; what crosses its interface is counted. All traffic stays within the namespaces.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from support.processes import die_with_parent
from support.waiting import wait_until

_numbers = itertools.count()

DEADLINE = 30

#: Run in the namespaces of a host, as ``sh -c SCRIPT NAME SHM_MEGABYTES COMMAND...``.
_ENTER = """
mount --make-rprivate / && mount -t tmpfs -o "size=$1m" tmpfs /dev/shm &&
hostname "$0" && shift && exec "$@"
"""


def obstacle() -> str:
    """Say what keeps this machine from having such hosts; empty if nothing does."""
    if sys.platform != "linux" or os.getuid():
        return "network namespaces need Linux and root"
    missing = [tool for tool in ("ip", "unshare", "mount") if not shutil.which(tool)]
    if missing:
        return f"these commands are missing: {', '.join(missing)}"
    name = f"jd-probe-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
        subprocess.run(
            ["unshare", "--mount", "--uts", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"],
            check=True,
            capture_output=True,
            timeout=DEADLINE,
        )
    except subprocess.CalledProcessError as error:
        return f"namespaces are refused: {error.stderr!r}"
    return ""


def _ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", *arguments], check=True, capture_output=True, text=True, timeout=DEADLINE
    )
    return done.stdout


class Host:
    """One host of a `Network`."""

    def __init__(self, namespace: str, shm_megabytes: int) -> None:
        self.namespace = namespace
        self._shm = shm_megabytes
        self.addresses: list[str] = []
        self.processes: list[subprocess.Popen[str]] = []

    @property
    def address(self) -> str:
        return self.addresses[0]

    def start(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        **options: object,
    ) -> subprocess.Popen[str]:
        """Start a command here, as a process group of its own."""
        process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
            [
                *("ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts"),
                *("sh", "-c", _ENTER, self.namespace, str(self._shm), *command),
            ],
            env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=die_with_parent,
            text=True,
            **options,
        )
        self.processes.append(process)
        return process

    def shared_memory(self, process: subprocess.Popen[str]) -> int:
        """Return the bytes in use of the ``/dev/shm`` that a process here sees."""
        found = os.statvfs(f"/proc/{process.pid}/root/dev/shm")
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def traffic(self) -> tuple[int, int]:
        """Return the bytes received and sent so far, over all interfaces."""
        links = json.loads(_ip("-n", self.namespace, "-j", "-s", "link", "show"))
        stats = [link["stats64"] for link in links if link["ifname"] != "lo"]
        return (
            sum(s["rx"]["bytes"] for s in stats),
            sum(s["tx"]["bytes"] for s in stats),
        )

    def kill(self) -> None:
        """Kill all that runs here."""
        # Repeatedly: a process may start another while it is being killed.
        wait_until(
            lambda: not self._kill_once(), DEADLINE, lambda: f"left: {self._pids()}"
        )
        for process in self.processes:
            process.communicate(timeout=DEADLINE)

    def freeze(self) -> None:
        """Stop all that runs here, until it is killed."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def _kill_once(self) -> bool:
        pids = self._pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)

    def _pids(self) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]

    def close(self) -> None:
        self.kill()
        _ip("netns", "del", self.namespace)


class Network:
    """Hosts, and switches between them.

    Use as a context manager: at its end all processes and namespaces are gone.
    """

    def __init__(self) -> None:
        self._prefix = f"jd{os.getpid()}-{next(_numbers)}"
        self._switches = 0
        self.hosts: list[Host] = []

    def __enter__(self) -> Network:
        _ip("netns", "add", self._prefix)
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.close()
        _ip("netns", "del", self._prefix)

    def add_switch(self) -> int:
        """Add a switch that is connected to no other; return its number."""
        number = self._switches = self._switches + 1
        bridge = f"switch{number}"
        _ip("-n", self._prefix, "link", "add", bridge, "type", "bridge")
        _ip("-n", self._prefix, "link", "set", bridge, "up")
        return number

    def add_host(self, switches: Sequence[int], shm_megabytes: int = 1024) -> Host:
        """Add a host with an interface, and an address, at each of these switches."""
        number = len(self.hosts) + 1
        host = Host(f"{self._prefix}-{number}", shm_megabytes)
        _ip("netns", "add", host.namespace)
        self.hosts.append(host)
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        for switch in switches:
            inside, outside = f"eth{switch}", f"h{number}s{switch}"
            _ip(
                *("-n", host.namespace, "link", "add", inside, "type", "veth"),
                *("peer", "name", outside, "netns", self._prefix),
            )
            bridge = f"switch{switch}"
            _ip("-n", self._prefix, "link", "set", outside, "master", bridge, "up")
            address = f"10.77.{switch}.{number}"
            _ip("-n", host.namespace, "addr", "add", f"{address}/24", "dev", inside)
            _ip("-n", host.namespace, "link", "set", inside, "up")
            host.addresses.append(address)
        return host


class HostCluster:
    """A dask cluster on such a network: a scheduler, hosts with workers, a client.

    Parameters
    ----------
    hosts, workers : int
        Number of hosts, and of single-threaded workers on each.
    confined : bool
        Whether the client reaches the scheduler alone.
    """

    def __init__(self, hosts: int, workers: int, confined: bool = False) -> None:
        self._network = Network()
        self._counts = hosts, workers
        self._confined = confined

    def __enter__(self) -> HostCluster:
        network = self._network.__enter__()
        try:
            inner = network.add_switch()
            outer = network.add_switch() if self._confined else inner
            both = dict.fromkeys([inner, outer])
            self.scheduler = network.add_host(list(both))
            self.client = network.add_host([outer])
            self._inner = inner
            self._start_scheduler()
            self.hosts = [self.add_host() for _ in range(self._counts[0])]
        except BaseException:
            network.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._network.__exit__()

    def _start_scheduler(self) -> None:
        self.scheduler_process = self.scheduler.start(
            *(sys.executable, "-m", "distributed.cli.dask_scheduler"),
            *("--host", "0.0.0.0", "--port", "8786", "--no-dashboard"),
            stderr=subprocess.DEVNULL,
        )

    def add_host(self, workers: int | None = None, shm_megabytes: int = 1024) -> Host:
        """Start workers on a further host."""
        host = self._network.add_host([self._inner], shm_megabytes)
        number = self._counts[1] if workers is None else workers
        host.start(
            *(sys.executable, "-m", "distributed.cli.dask_worker"),
            f"{self.scheduler.address}:8786",
            *(f"--nworkers={number}", "--nthreads=1", "--memory-limit=0"),
            *("--no-dashboard", "--host", host.address),
            stderr=subprocess.DEVNULL,
        )
        return host

    @property
    def address(self) -> str:
        """The scheduler's, as the client reaches it."""
        return f"{self.scheduler.addresses[-1]}:8786"


@contextlib.contextmanager
def counted(*hosts: Host) -> Iterator[list[tuple[int, int]]]:
    """Give what each host received and sent meanwhile, in bytes."""
    before = [host.traffic() for host in hosts]
    found: list[tuple[int, int]] = []
    yield found
    for host, (received, sent) in zip(hosts, before, strict=True):
        now = host.traffic()
        found.append((now[0] - received, now[1] - sent))


#: Runs the code that it is sent, line by line as JSON, and answers with `result`.
_CONSOLE = """
import json, sys, traceback
names = globals()
for line in sys.stdin:
    names["result"] = None
    try:
        exec(json.loads(line), names)
        answer = {"result": result}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
"""


class Console:
    """A Python process at the client's host, which runs code and tells `result`.

    Functions that the code defines are the ``__main__`` module's.
    """

    def __init__(self, cluster: HostCluster) -> None:
        self._process = cluster.client.start(
            *(sys.executable, "-c", _CONSOLE, cluster.address),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, code: str) -> None:
        """Have code run."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()

    def result(self, deadline: float | None = None) -> Any:
        """Wait for what was started, for so many seconds; return `result`."""
        assert self._process.stdout is not None
        # Nothing is left of earlier answers, which are a line each.
        ready, _, _ = select.select([self._process.stdout], [], [], deadline)
        assert ready, f"hung: no result after {deadline} seconds"
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def run(self, code: str) -> Any:
        self.start(code)
        return self.result()
