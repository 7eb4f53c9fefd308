"""The faults that are promised to be survived, or told by name: one row for each.

What a row is fired at is in `support.faults_scenes`; who fires it, and judges what comes
of it, in `support.faults_cell`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from support.faults_scenes import CommandScene, LocalScene, Setting
from support.faults_tasks import HARMFUL, OUTER
from support.waiting import wait_until

BEFORE, MIDDLE, UNFETCHED = MOMENTS = ("before", "middle", "unfetched")

#: Seconds for which what is to pass lasts.
PASSING = 3.0

#: Seconds without a worker after which a call is to give up.
WAIT_FOR_WORKERS = 3

#: Seconds that ``Parallel(timeout=...)`` is given: less than those after which a result
#: that does not come is asked for by another way, where nothing holds it.
TIMEOUT = 1

#: Seconds in which a worker that joins is to be used.
USED_WITHIN = 2.0

#: Workers that an adaptive cluster has at most.
MOST = 3

DEADLINE = 30

#: What is done once the tasks have been let go; the fault may last longer than they do.
Afterwards = Callable[[], None] | None
Fire = Callable[[Any], Afterwards]

_never = threading.Event()


@dataclasses.dataclass(frozen=True)
class Row:
    """One fault, and what is promised of it.

    Parameters
    ----------
    promise : str
        ``"results"``, ``"no workers"``, ``"closed"``, ``"task"`` for an error that names
        the one task that does harm, ``"retried"``, or ``"stopped"``.
    fire : callable
        Fires it at a cell; may return what is to be done after the tasks are let go.
    setting : callable
        Makes the cluster.
    moments, nested, large : tuple
        At which moments, and in which variants, it has a meaning.
    within : float
        Seconds from the fault in which the call is to end.
    how : str
        What harm one of the tasks does; see `support.faults_tasks.HARM`.
    count : int
        Number of tasks.
    parallel, options : dict
        Arguments of `Parallel`; options of the backend.
    call : str
        Its name in `support.faults_cell`.
    is_cold : bool
        Whether no call goes before.
    restore : callable, optional
        What the user does before the next call.
    patience : float
        Seconds from the fault that joblib's bundled backend is given, at least: always
        three times what ours takes.
    """

    promise: str
    fire: Fire
    setting: Setting = CommandScene
    moments: tuple[str, ...] = MOMENTS
    nested: tuple[bool, ...] = (False, True)
    large: tuple[bool, ...] = (False, True)
    within: float = float("inf")
    how: str = ""
    count: int = 12
    parallel: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    call: str = "work"
    is_cold: bool = False
    restore: Callable[[Any], object] | None = None
    patience: float = 20

    @property
    def is_timed(self) -> bool:
        """Whether it is promised to be over in seconds: so the machine is to be idle."""
        return self.within < 10 or self.fire is join

    @property
    def is_of_connection(self) -> bool:
        """Whether it is the connection to the scheduler that breaks."""
        return self.setting is _relayed or self.fire is restart_scheduler


# -------------------------------------------------------------------------------- workers
def kill_one(cell: Any) -> None:
    os.kill(next(iter(cell.pids.values())), signal.SIGKILL)


def kill_all(cell: Any) -> None:
    for pid in cell.pids.values():
        os.kill(pid, signal.SIGKILL)


def kill_holder(cell: Any) -> None:
    cell.scene.kill_host(holders(cell)[0])


def kill_holders(cell: Any) -> None:
    for pid in holders(cell):
        cell.scene.kill_host(pid)


def holders(cell: Any) -> list[int]:
    """Return who holds shared data; any worker if it lies nowhere yet."""
    found: list[int] = cell.scene.holders()
    cell.say(f"{len(found)} hold it")
    return found or list(cell.pids.values())


def restart(cell: Any) -> None:
    cell.scene.client.restart()


def restart_workers(cell: Any) -> None:
    cell.scene.restart_workers()


def retire_one(cell: Any) -> None:
    cell.scene.observer.retire_workers([next(iter(cell.pids))], close_workers=True)


def pause_one(cell: Any) -> None:
    """Have a task fill its worker, and hold that until all else has ended."""
    cell.open("fire", "begin")
    wait_until(
        lambda: "paused" in cell.scene.statuses(),
        DEADLINE,
        lambda: f"no worker is paused: {cell.scene.statuses()}",
    )
    cell.open("go", "on", "fetch")
    others = cell.count - 1
    wait = min(DEADLINE, cell.order.deadline / 2)
    cell.note_when(lambda: len(cell.arrived) == others, "others here", DEADLINE, wait)
    cell.say(f"{len(cell.arrived)} of {others}")
    cell.say(f"workers are {', '.join(cell.scene.statuses())}")
    cell.open("release")


def freeze(cell: Any) -> None:
    os.kill(next(iter(cell.pids.values())), signal.SIGSTOP)


def freeze_for_a_while(cell: Any) -> Afterwards:
    pid = next(iter(cell.pids.values()))
    os.kill(pid, signal.SIGSTOP)
    return passing(lambda: os.kill(pid, signal.SIGCONT))


def passing(end: Callable[[], object]) -> Afterwards:
    """Return what ends a fault that is to last for a while."""
    ends_at = time.monotonic() + PASSING

    def wait() -> None:
        _never.wait(max(0.0, ends_at - time.monotonic()))
        end()

    return wait


def join(cell: Any) -> None:
    cell.scene.cluster.add_workers(1)
    cell.scene.wait_for_workers(3)
    (pid,) = set(cell.scene.pids().values()) - set(cell.pids.values())
    cell.open("begin", "fetch")
    wait = min(DEADLINE, cell.order.deadline)
    cell.note_when(lambda: pid in cell.pids_used(), "used", USED_WITHIN, wait)


def demand(cell: Any) -> None:
    cell.open("begin", "fetch")
    cell.note_when(lambda: len(cell.pids_used()) == MOST, "grown", DEADLINE, DEADLINE)


# ------------------------------------------------------------------------ the connection
def reset(cell: Any) -> None:
    cell.scene.relay.reset()


def cut(cell: Any) -> Afterwards:
    cell.scene.relay.cut()
    return passing(cell.scene.relay.heal)


def refuse(cell: Any) -> Afterwards:
    cell.scene.relay.refuse()
    return passing(cell.scene.relay.heal)


def lose_scheduler(cell: Any) -> None:
    cell.scene.relay.lose(near=False)


def lose_driver(cell: Any) -> None:
    # The scheduler finds out later, when the driver is long there again, and its tasks
    # are under way.
    lose_the_rest = cell.scene.relay.lose(near=True)
    cell.open("begin", "fetch")
    _never.wait(PASSING)
    lose_the_rest()


def restart_scheduler(cell: Any) -> None:
    cell.scene.restart_scheduler()


# ------------------------------------------------------------------------------ the size
def scale_to_zero(cell: Any) -> None:
    cell.scene.scale(0)


def scale_to_zero_and_back(cell: Any) -> None:
    cell.scene.scale(0)
    cell.scene.cluster.scale(2)


def close_client(cell: Any) -> None:
    cell.scene.client.close()


def close_cluster(cell: Any) -> None:
    # In the background: with busy workers it takes seconds, but the call is not to.
    threading.Thread(target=cell.scene.cluster.close, daemon=True).start()
    wait_until(
        lambda: cell.scene.cluster.status.name in ("closing", "closed"),
        DEADLINE,
        lambda: f"the cluster is {cell.scene.cluster.status}",
    )


# ------------------------------------------------------------------- of the call's own
def let_harm(cell: Any) -> None:
    cell.open("fire")


def interrupt(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def nothing(_: Any) -> None:
    pass


_relayed: Setting = functools.partial(CommandScene, is_relayed=True, given=False)
_addressed: Setting = functools.partial(CommandScene, given=False)
_apart: Setting = functools.partial(CommandScene, is_apart=True)
_small: Setting = functools.partial(CommandScene, for_workers=("--memory-limit=600MB",))
_none: Setting = functools.partial(LocalScene, workers=0)


def _adaptive(folder: Any) -> LocalScene:
    return LocalScene(folder, workers=0, adapt={"minimum": 0, "maximum": MOST})


_awaiting = {"wait_for_workers_timeout": WAIT_FOR_WORKERS}
#: A look at the scheduler takes place every second, after two without news.
_gives_up_within = WAIT_FOR_WORKERS + 3.5
_unordered = {"return_as": "generator_unordered"}


def _two_workers(cell: Any) -> None:
    cell.scene.scale(2)


def _connection(fire: Fire) -> Row:
    # What dask times out of itself it does after 30 s.
    return Row("results", fire, _relayed, patience=40)


def _harm(how: str, setting: Setting = CommandScene) -> Row:
    return Row("task", let_harm, setting, how=how, parallel=_unordered, within=60)


ROWS: dict[str, Row] = {
    "worker-killed": Row("results", kill_one),
    "workers-killed": Row("results", kill_all),
    "holder-killed": Row("results", kill_holder, _apart, large=(True,)),
    "holders-killed": Row("results", kill_holders, _apart, large=(True,)),
    "client-restart": Row("results", restart),
    "workers-restarted": Row("results", restart_workers),
    "reset": _connection(reset),
    "cut-3-s": _connection(cut),
    "unreachable-3-s": _connection(refuse),
    "half-open-here": _connection(lose_scheduler),
    "half-open-there": _connection(lose_driver),
    "scheduler-restarted": Row("results", restart_scheduler, _addressed, patience=40),
    "zero-and-back": Row("results", scale_to_zero_and_back, LocalScene),
    "zero-for-ever": Row(
        "no workers",
        scale_to_zero,
        LocalScene,
        within=_gives_up_within,
        options=_awaiting,
        restore=_two_workers,
    ),
    "no-worker": Row(
        "no workers",
        nothing,
        _none,
        moments=(BEFORE,),
        nested=(False,),
        within=_gives_up_within,
        options=_awaiting,
        is_cold=True,
        restore=_two_workers,
    ),
    "worker-retires": Row("results", retire_one),
    "worker-paused": Row(
        "results",
        pause_one,
        _small,
        nested=(False,),
        how="fill",
        parallel=_unordered,
        within=60,
    ),
    "frozen": Row("results", freeze, patience=40),
    "frozen-3-s": Row("results", freeze_for_a_while),
    "joins": Row("results", join, nested=(False,), count=24),
    "adaptive": Row(
        "results", demand, _adaptive, nested=(False,), count=40, is_cold=True
    ),
    "leak": _harm("leak", _small),
    "client-closed": Row("closed", close_client, within=2),
    "cluster-closed": Row("closed", close_cluster, LocalScene, within=2),
    "os._exit": _harm("os._exit"),
    "SIGSEGV": _harm("SIGSEGV"),
    "error-retried": Row("retried", let_harm, how="raise", options={"retries": 2}),
    "error": Row("stopped", let_harm, how="raise", within=1),
    "timeout": Row(
        "stopped",
        nothing,
        moments=(MIDDLE, UNFETCHED),
        parallel={"timeout": TIMEOUT},
        within=1,
    ),
    "ctrl-c": Row("stopped", interrupt, within=1),
    "dropped": Row(
        "stopped", let_harm, moments=(MIDDLE, UNFETCHED), call="drop", within=1
    ),
    "nested-error": Row(
        "results", nothing, moments=(MIDDLE,), nested=(True,), call="catch"
    ),
}

#: Tries of a task that raises, by whether it is nested: then its caller is tried, too.
TRIES = {False: 3, True: 9}

#: Numbers that may be blamed for harm, as the caller sees them.
BLAMED = {False: (HARMFUL,), True: (HARMFUL, OUTER - 1)}
