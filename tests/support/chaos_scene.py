"""A cluster that is broken and made whole, again and again: see ``tools/chaos.py``.

A ``dask scheduler`` and supervised ``dask worker`` commands, which the driver reaches
through a relay. The first worker shares the driver's host; the second is as if on a host
of its own where the system lets us, so that large data takes both ways.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import Any

from distributed import Client

import joblib_distributed
from support.faults_scenes import (
    DEADLINE,
    WORKERS,
    CommandScene,
    SupervisedCluster,
)
from support.relay import Relay

#: Seconds for which what is to pass lasts.
PASSING = 3.0

#: Seconds for which a worker is frozen that its call is not to wait for.
LONG = (12.0, 25.0)

#: Seconds for which a worker that joins stays.
STAYS = (2.0, 6.0)

#: Seconds until the cluster is whole again after a fault: the machine may be busy, and
#: all of it may have to be started.
WHOLE_WITHIN = 90.0

#: Seconds between two looks at the cluster.
LOOK_INTERVAL = 0.1


@dataclasses.dataclass
class Slot:
    """A worker command that is started again whenever it has ended."""

    is_apart: bool = False
    is_wanted: bool = True
    process: subprocess.Popen[bytes] | None = None

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


def can_be_apart() -> bool:
    """Whether a process may be given a mount of its own here."""
    try:
        done = subprocess.run(
            ["unshare", "--mount", "mount", "--make-rprivate", "/"],
            stderr=subprocess.DEVNULL,
            timeout=DEADLINE,
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


class SlottedCluster(SupervisedCluster):
    """Worker commands in slots, of which some may be out of use for a while.

    Parameters
    ----------
    store : str
        The folder of the stores.
    apart : bool
        Whether the second worker is as if on a host of its own.
    """

    def __init__(self, store: str, apart: bool) -> None:
        super().__init__(store)
        self.slots = [Slot(is_apart=apart and i == 1) for i in range(WORKERS)]
        #: The one that joins and leaves again.
        self.guest = Slot(is_wanted=False)
        self._over = threading.Event()
        self._is_closing = False
        self._starting = threading.Lock()
        self._scheduler_is_back = threading.Event()

    def __enter__(self) -> SlottedCluster:
        self.start_scheduler()
        self._supervisor.start()
        return self

    def _supervise(self) -> None:
        while not self._over.wait(0.05):
            with self._starting:
                if not self._is_closing:
                    self._start_what_is_wanted()

    def _start_what_is_wanted(self) -> None:
        if self._restarting.is_set():
            self._restarting.clear()
            self.start_scheduler(f"--port={self._port}")
            self.processes[0] = self.processes.pop()  # where `close` looks for it
            self._scheduler_is_back.set()
        for slot in (*self.slots, self.guest):
            if slot.is_wanted and not slot.is_alive:
                self._is_apart = slot.is_apart  # which `start_worker` goes by
                slot.process = self.start_worker()
        scheduler, *others = self.processes
        self.processes = [scheduler, *(p for p in others if p.poll() is None)]
        self.workers = [p for slot in self.slots if (p := slot.process) and slot.is_alive]

    def restart_scheduler(self, address: str) -> None:
        self._scheduler_is_back.clear()
        super().restart_scheduler(address)
        if not self._scheduler_is_back.wait(DEADLINE):
            raise AssertionError("the scheduler has not been started again")

    def close(self) -> None:
        with self._starting:
            self._is_closing = True
        super().close()
        # Last: what it started dies with it.
        self._over.set()
        self._supervisor.join(DEADLINE)


class ChaosScene(CommandScene):
    """What faults are fired at.

    Its methods are the faults' and are to be called from one thread.

    Parameters
    ----------
    folder : pathlib.Path
        For the stores.
    apart : bool
        Whether the second worker is as if on a host of its own.
    """

    cluster: SlottedCluster

    def __init__(self, folder: Path, apart: bool) -> None:
        self._apart = apart
        super().__init__(folder, is_relayed=True, given=False)
        assert self.relay is not None
        self.lines: Relay = self.relay
        #: Set when the run is to end: what lasts is then cut short.
        self.hurry = threading.Event()

    def make_cluster(self, *_: Any) -> SlottedCluster:
        return SlottedCluster(str(self.store), self._apart)

    def observe(self) -> None:
        """Look at the cluster again after the observer was closed."""
        self.observer = Client(self._direct, set_as_default=False)

    def driver_client(self) -> Client:
        """Return the client that the calls run on."""
        return joblib_distributed.get_client(scheduler_host=self.address)

    def last(self, seconds: float) -> None:
        """Let a fault last."""
        self.hurry.wait(seconds)

    def retire(self, addresses: Iterable[str], slots: list[Slot]) -> None:
        """Retire workers, and end their commands, as who scales a cluster down does."""
        self.observer.retire_workers(list(addresses), close_workers=True)
        processes = [slot.process for slot in slots if slot.process is not None]
        # By itself not every nanny ends when its worker was retired.
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(DEADLINE)

    def look(self, without: Set[str]) -> dict[str, int] | None:
        """Return the worker processes by address if all that is wanted is there."""
        slots = [slot for slot in self.cluster.slots if slot.is_wanted]
        if not all(slot.is_alive for slot in slots) or self.cluster.guest.is_alive:
            return None
        try:
            members = self.members()
            # One that is gone is not to be asked: that would take until it times out.
            if len(members) != len(slots) or members & without:
                return None
            found = self.observer.run(os.getpid, on_error="return")
        except (OSError, RuntimeError, TimeoutError):
            return None  # one has gone just now
        good = len(found) == len(slots) and all(
            isinstance(p, int) for p in found.values()
        )
        return dict(found) if good else None

    def wait_until_whole(self, without: Set[str] = frozenset()) -> dict[str, int]:
        """Return the worker processes when all are there and none of `without` is.

        Raises
        ------
        AssertionError
            If they are not there in time.
        """
        never = threading.Event()
        deadline = time.monotonic() + WHOLE_WITHIN
        while time.monotonic() < deadline:
            found = self.look(without)
            if found is not None:
                return found
            never.wait(LOOK_INTERVAL)
        raise AssertionError(
            f"the cluster is not whole again after {WHOLE_WITHIN:g} s: "
            f"slots {self.cluster.slots}, members {self.members()}"
        )

    def close(self) -> None:
        self.observer.close()
        self.cluster.close()
        self.lines.__exit__(None, None, None)


# ----------------------------------------------------------------------------- the faults
#: Fires a fault at the scene, whose workers have these processes, and returns when it is
#: over but for what the cluster and its supervisor have to mend; with the processes that
#: are to be gone by then.
Fault = Callable[[ChaosScene, random.Random, dict[str, int]], set[int]]


def _one(rng: random.Random, pids: dict[str, int]) -> int:
    return pids[sorted(pids)[int(rng.random() * len(pids))]]


def kill_one(_: ChaosScene, rng: random.Random, pids: dict[str, int]) -> set[int]:
    pid = _one(rng, pids)
    os.kill(pid, signal.SIGKILL)
    return {pid}


def kill_all(_: ChaosScene, __: random.Random, pids: dict[str, int]) -> set[int]:
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    return set(pids.values())


def kill_holder(scene: ChaosScene, rng: random.Random, pids: dict[str, int]) -> set[int]:
    holders = sorted(scene.holders()) or [_one(rng, pids)]
    pid = holders[int(rng.random() * len(holders))]
    scene.kill_host(pid)
    return {pid}


def kill_holders(scene: ChaosScene, _: random.Random, pids: dict[str, int]) -> set[int]:
    holders = scene.holders() or list(pids.values())
    for pid in holders:
        scene.kill_host(pid)
    return set(holders)


def restart_client(scene: ChaosScene, _: random.Random, pids: dict[str, int]) -> set[int]:
    scene.driver_client().restart(timeout=WHOLE_WITHIN)
    return set(pids.values())


def restart_workers(
    scene: ChaosScene, _: random.Random, pids: dict[str, int]
) -> set[int]:
    scene.restart_workers()
    return set(pids.values())


def reset(scene: ChaosScene, _: random.Random, __: dict[str, int]) -> set[int]:
    scene.lines.reset()
    return set()


def cut(scene: ChaosScene, _: random.Random, __: dict[str, int]) -> set[int]:
    scene.lines.cut()
    scene.last(PASSING)
    scene.lines.heal()
    return set()


def refuse(scene: ChaosScene, _: random.Random, __: dict[str, int]) -> set[int]:
    scene.lines.refuse()
    scene.last(PASSING)
    scene.lines.heal()
    return set()


def lose_scheduler(scene: ChaosScene, rng: random.Random, _: dict[str, int]) -> set[int]:
    """Leave the driver with a connection that nobody is at the other end of."""
    lose_the_rest = scene.lines.lose(near=False)
    # A driver that finds out by itself has dropped it long before.
    scene.last(rng.uniform(*LONG))
    lose_the_rest()
    return set()


def lose_driver(scene: ChaosScene, _: random.Random, __: dict[str, int]) -> set[int]:
    """Have the scheduler find out later that the driver has come back anew."""
    lose_the_rest = scene.lines.lose(near=True)
    scene.last(PASSING)
    lose_the_rest()
    return set()


def restart_scheduler(
    scene: ChaosScene, _: random.Random, __: dict[str, int]
) -> set[int]:
    scene.restart_scheduler()
    return set()  # its workers may come back to it


def scale_to_zero(
    scene: ChaosScene, rng: random.Random, pids: dict[str, int]
) -> set[int]:
    for slot in scene.cluster.slots:
        slot.is_wanted = False
    try:
        scene.retire(pids, scene.cluster.slots)
        scene.last(rng.uniform(0, PASSING))
    finally:
        for slot in scene.cluster.slots:
            slot.is_wanted = True
    return set(pids.values())


def freeze_for_a_while(
    scene: ChaosScene, rng: random.Random, pids: dict[str, int]
) -> set[int]:
    pid = _one(rng, pids)
    os.kill(pid, signal.SIGSTOP)
    try:
        scene.last(PASSING)
    finally:
        os.kill(pid, signal.SIGCONT)
    return set()


def freeze(scene: ChaosScene, rng: random.Random, pids: dict[str, int]) -> set[int]:
    """Freeze a worker for longer than it is waited for; kill it, or let it go on."""
    pid, seconds, wakes = _one(rng, pids), rng.uniform(*LONG), rng.random() < 0.5
    os.kill(pid, signal.SIGSTOP)
    try:
        scene.last(seconds)
    finally:
        os.kill(pid, signal.SIGCONT if wakes else signal.SIGKILL)
    return set() if wakes else {pid}


def join(scene: ChaosScene, rng: random.Random, pids: dict[str, int]) -> set[int]:
    """Have a worker join; retire it a little later."""
    guest = scene.cluster.guest
    guest.is_wanted = True
    try:
        scene.wait_for_workers(WORKERS + 1)
        joined = scene.members() - set(pids)
        scene.last(rng.uniform(*STAYS))
    finally:
        guest.is_wanted = False
    scene.retire(joined, [guest])
    return set()


#: By the names that they have in `support.faults_rows`.
FAULTS: dict[str, Fault] = {
    "worker-killed": kill_one,
    "workers-killed": kill_all,
    "holder-killed": kill_holder,
    "holders-killed": kill_holders,
    "client-restart": restart_client,
    "workers-restarted": restart_workers,
    "reset": reset,
    "cut-3-s": cut,
    "unreachable-3-s": refuse,
    "half-open-here": lose_scheduler,
    "half-open-there": lose_driver,
    "scheduler-restarted": restart_scheduler,
    "zero-and-back": scale_to_zero,
    "frozen": freeze,
    "frozen-3-s": freeze_for_a_while,
    "joins": join,
}

#: Those that a worker does not survive: a task that was on it is blamed once.
DEADLY = frozenset(
    {"worker-killed", "workers-killed", "holder-killed", "holders-killed", "frozen"}
)
