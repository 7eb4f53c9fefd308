"""Random faults at random times under random calls: nothing lost, wrong, hung or left.

A few threads make random calls whose exact results are known, on a ``dask scheduler`` and
supervised ``dask worker`` processes, reached through a relay. Meanwhile one fault after
the other is fired, of those that end with all results; after each the cluster is given
the time to be whole again. What died is started again, as a supervisor would.

Prints each fault; each result that was lost or wrong, with the faults that its call has
seen; and at the end what was fired and delivered, and the memory, threads, descriptors
and dask keys, as ``tools/soak.py`` does. A call that takes longer than its deadline is
hung: then the run ends, after the stacks of the driver and the workers and the state of
the scheduler. Exits with 1 if anything was lost, wrong or hung, or is left, or grows.

The same seed gives the same faults in the same order, and each thread the same calls.
When a fault hits which call is up to the machine: a seed that has failed may pass.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import dask
import joblib
import psutil
from distributed.utils import offload

import joblib_distributed
from joblib_distributed.errors import WorkerDiedError
from soak import FLAT_MB, LOG_LENGTH, Footprint, Memory, forget_spans, keys_left, settle

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import chaos_calls
from support.certificate import Certificate
from support.chaos_scene import DEADLY, FAULTS, ChaosScene, can_be_apart
from support.chaos_state import brief, known_tasks, print_state

#: Seconds a call may take before it counts as hung.
CALL_TIMEOUT = 120

#: Seconds a fault may take, with what it takes to mend it, before the run is given up.
FAULT_TIMEOUT = 240

#: Seconds between a cluster that is whole and the next fault.
PAUSE = (0.3, 4.0)

#: Seconds without any worker after which a call may give up: longer than all of it takes
#: to start again here.
WAIT_FOR_WORKERS = 100

#: Workers that a task may take with it before it is blamed: the default.
DEATHS_ALLOWED = 3


@dataclasses.dataclass
class Fired:
    """A fault: when it was fired, and when the cluster was whole again."""

    name: str
    at: float
    whole: float | None = None

    def __str__(self) -> str:
        end = "" if self.whole is None else f"{self.whole:.1f}"
        return f"{self.name} [{self.at:.1f}-{end}]"


class Clock:
    """Seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._start


def say(text: str) -> None:
    print(text, flush=True)


# ---------------------------------------------------------------------------- the faults
class Injector:
    """A thread that fires faults, one after the other."""

    def __init__(
        self, scene: ChaosScene, names: list[str], seed: int, clock: Clock
    ) -> None:
        self._scene = scene
        self._names = names
        self._rng = random.Random(f"{seed}-faults")
        self._clock = clock
        self._over = threading.Event()
        #: Set while the cluster is whole.
        self.mended = threading.Event()
        #: All of them, in order.
        self.fired: list[Fired] = []
        #: Why no more can be fired, if that is so.
        self.failure = ""
        self.memory: Memory | None = None
        self._memory_at = float("inf")
        self.thread = threading.Thread(target=self._run, name="injector", daemon=True)

    def start(self, memory_at: float) -> None:
        """Start; have a look at the memory when the cluster is whole at that time."""
        self._memory_at = memory_at
        self.thread.start()

    def stop(self) -> None:
        """Fire no more; cut short what lasts."""
        self._over.set()
        self._scene.hurry.set()

    @property
    def is_stuck(self) -> bool:
        last = self.fired[-1] if self.fired else None
        return (
            last is not None
            and last.whole is None
            and self._clock() - last.at > FAULT_TIMEOUT
        )

    def since(self, start: float) -> list[Fired]:
        """Return what a call has seen that started then."""
        return [one for one in list(self.fired) if one.whole is None or one.whole > start]

    def _run(self) -> None:
        try:
            pids = self._scene.wait_until_whole()
            self.mended.set()
            while not self._over.wait(self._rng.uniform(*PAUSE)):
                pids = self._fire(pids)
                if self.memory is None and self._clock() > self._memory_at:
                    self.memory = Memory(self._scene.observer)
        except Exception as error:
            self.failure = f"{self.fired[-1:]}\n{brief(error)}"

    def _fire(self, pids: dict[str, int]) -> dict[str, int]:
        name = self._rng.choice(self._names)
        # Of its own, so that what one fault draws does not change the next.
        rng = random.Random(self._rng.random())
        fired = Fired(name, self._clock())
        self.mended.clear()
        self.fired.append(fired)
        gone = FAULTS[name](self._scene, rng, pids)
        over = self._clock()
        left = {address for address, pid in pids.items() if pid in gone}
        pids = self._scene.wait_until_whole(without=left)
        fired.whole = self._clock()
        self.mended.set()
        say(f"{fired.at:7.1f} s: {name}, over after {over - fired.at:.1f} s,"
            f" whole after {fired.whole - fired.at:.1f} s")  # fmt: skip
        return pids


# ----------------------------------------------------------------------------- the calls
class Calls:
    """Threads that make random calls, and what came of them."""

    def __init__(
        self, options: dict[str, Any], seconds: float, seed: int, injector: Injector,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._options = options
        self._seconds = seconds
        self._seed = seed
        self._injector = injector
        self._clock = clock
        self._lock = threading.Lock()
        self.done: Counter[str] = Counter()
        self.delivered = 0
        #: Calls that have seen a fault.
        self.hit = 0
        self.slowest = (0.0, "")
        self.lost: list[str] = []
        self.wrong: list[str] = []
        #: Calls that have seen more workers killed than a task may take with it.
        self.blamed: list[str] = []
        #: What each thread does, and since when.
        self.running: dict[int, tuple[float, str]] = {}

    def run_thread(self, thread: int) -> None:
        rng = random.Random(f"{self._seed}-{thread}")
        number = 0
        with joblib.parallel_config(backend="dask.distributed", **self._options):
            while self._clock() < self._seconds:
                number += 1
                call = rng.choice(chaos_calls.CALLS)
                # Of its own: how far a call comes does not change the next.
                self._run_one(
                    thread, f"{call.__name__} {thread}.{number}", call, rng.random()
                )
        self.running.pop(thread, None)

    def _run_one(self, thread: int, name: str, call: Any, draw: float) -> None:
        start = self._clock()
        self.running[thread] = start, name
        delivered, failure = 0, None
        try:
            delivered = call(random.Random(draw))
        except Exception as error:
            failure = error
        seconds = self._clock() - start
        seen = self._injector.since(start)
        with self._lock:
            self.done[call.__name__] += 1
            self.delivered += delivered
            self.hit += bool(seen)
            self.slowest = max(self.slowest, (seconds, name))
        if failure is not None:
            self._judge(name, start, failure, seen)
            # What has failed once is not to fail a hundred times.
            self._injector.mended.wait(CALL_TIMEOUT / 2)

    def _judge(
        self, name: str, start: float, failure: Exception, seen: list[Fired]
    ) -> None:
        deaths = sum(fired.name in DEADLY for fired in seen)
        what, verdict = self.lost, "LOST"
        if isinstance(failure, chaos_calls.WrongResultError):
            what, verdict = self.wrong, "WRONG"
        elif isinstance(failure, WorkerDiedError) and deaths > DEATHS_ALLOWED:
            what, verdict = self.blamed, "killed more often than allowed"
        what.append(f"{name}: {type(failure).__name__}")
        faults = ", ".join(map(str, seen)) or "none"
        say(f"{self._clock():7.1f} s: {verdict}: {name}, since {start:.1f}, faults seen: "
            f"{faults}\n{brief(failure)}")  # fmt: skip

    def hung(self) -> list[str]:
        now = self._clock()
        return [n for at, n in list(self.running.values()) if now - at > CALL_TIMEOUT]


# ------------------------------------------------------------------------------- the run
def end_at_once(folder: Path) -> None:
    """End with whatever hangs in here, and with all processes of the cluster."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            # multiprocessing's removes what the others have left, then ends.
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
    psutil.wait_procs(children, 10)
    shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    os._exit(1)


def warm_up(options: dict[str, Any]) -> None:
    """Make everything that is made once: clients, pools of threads, imports."""
    with joblib.parallel_config(backend="dask.distributed", **options):
        rng = random.Random(0)
        for call in chaos_calls.CALLS:
            call(rng)
    # Threads that dask makes once, to read large messages and to say what is done.
    asyncio.run(offload(int))
    client = joblib_distributed.get_client(scheduler_host=options["scheduler_host"])
    told = threading.Event()
    client.submit(int).add_done_callback(lambda _: told.set())
    if not told.wait(CALL_TIMEOUT):
        raise AssertionError("dask has not called back")


def watch(
    calls: Calls, injector: Injector, threads: list[threading.Thread], seconds: float,
    clock: Clock,
) -> list[str]:  # fmt: skip
    """Wait for the end; return why it is before its time, if it is."""
    next_line = interval = min(60.0, seconds / 4)
    while any(thread.is_alive() for thread in threads) or injector.thread.is_alive():
        for thread in (*threads, injector.thread):
            if thread.is_alive():
                thread.join(0.5)
                break
        if clock() > seconds:
            injector.stop()
        if clock() > next_line:
            next_line += interval
            say(
                f"{clock():7.1f} s: {sum(calls.done.values())} calls, "
                f"{calls.delivered} results, {len(injector.fired)} faults"
            )
        if calls.hung():
            return [f"hung: {name}" for name in calls.hung()]
        if injector.is_stuck:
            return [f"not mended: {injector.fired[-1]}"]
    return [f"no more faults: {injector.failure}"] if injector.failure else []


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=3, help="that make calls")
    parser.add_argument(
        "--faults", nargs="+", default=list(FAULTS), choices=FAULTS, metavar="FAULT",
        help=f"which to fire, of {', '.join(FAULTS)}",
    )  # fmt: skip
    parser.add_argument("--tls", action="store_true", help="over TLS, both ways")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*tasks.*")  # joblib's, of `dropped`
    logging.disable(logging.ERROR)  # dask's, of what is broken here
    name = "distributed.admin.low-level-log-length"
    dask.config.set({name: LOG_LENGTH})
    os.environ["DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH"] = str(LOG_LENGTH)
    with tempfile.TemporaryDirectory(prefix="joblib-distributed-chaos-") as folder:
        # All that is written goes there, also by what is killed.
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        if given.tls:
            Certificate(Path(folder)).use()
        return run(given, Path(folder))


def run(given: argparse.Namespace, folder: Path) -> int:
    apart = can_be_apart()
    say(f"seed {given.seed}, {given.threads} threads of calls, {given.seconds:g} s; "
        f"a worker on a host of its own: {'yes' if apart else 'no, not permitted here'}; "
        f"TLS: {'yes' if given.tls else 'no'}"
        )  # fmt: skip
    scene = ChaosScene(folder, apart)
    options = {
        "scheduler_host": scene.address,
        "temp_folder": str(scene.store),
        "wait_for_workers_timeout": WAIT_FOR_WORKERS,
        "deaths_allowed": DEATHS_ALLOWED,
    }
    chaos_calls.set_options(**options)
    warm_up(options)
    joblib_distributed.shutdown()
    scene.observer.close()
    before = settle(Footprint())
    scene.observe()
    clock = Clock()
    injector = Injector(scene, given.faults, given.seed, clock)
    calls = Calls(options, given.seconds, given.seed, injector, clock)
    threads = [
        threading.Thread(
            target=calls.run_thread, args=(i,), name=f"calls-{i}", daemon=True
        )
        for i in range(given.threads)
    ]
    injector.start(memory_at=given.seconds / 5)
    for thread in threads:
        thread.start()
    stopped = watch(calls, injector, threads, given.seconds, clock)
    if stopped:
        for one in stopped:
            say(f"{clock():7.1f} s: {one}")
        print_state(scene)
        report(given.seed, calls, injector, stopped)
        say("NOT GOOD")
        end_at_once(folder)
    report(given.seed, calls, injector, stopped)
    keys = keys_left(scene.observer)
    if keys:
        client = joblib_distributed.get_client(scheduler_host=scene.address)
        say(f"keys left: {scene.observer.run_on_scheduler(known_tasks)}")
        say(f"of these known to {client.id}: {sorted(set(keys) & set(client.futures))}")
    scene.observer.run_on_scheduler(forget_spans)
    last = Memory(scene.observer)
    joblib_distributed.shutdown()
    scene.observer.close()
    after = settle(before)
    sizes = [path.stat().st_size for path in scene.store.rglob("*") if path.is_file()]
    scene.close()
    first = injector.memory or last
    say(f"start: {before}; end: {after}; dask keys left: {len(keys)} {keys[:5]}")
    say(f"kept in the driver's store: {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB")
    say(f"memory after a fifth: {first}")
    say(f"memory at the end: {last}")
    growth = max(last.driver - first.driver, last.scheduler - first.scheduler)
    good = not (calls.lost or calls.wrong or keys) and after.within(before)
    good = good and growth < FLAT_MB
    say("good" if good else "NOT GOOD")
    return 0 if good else 1


def report(seed: int, calls: Calls, injector: Injector, stopped: list[str]) -> None:
    kinds = Counter(fired.name for fired in injector.fired)
    say(f"seed: {seed}")
    say(f"faults fired: {len(injector.fired)} {dict(kinds.most_common())}")
    say(f"calls: {sum(calls.done.values())} {dict(calls.done)}")
    say(f"calls that have seen a fault: {calls.hit}")
    say(f"results delivered: {calls.delivered}; "
        f"slowest call: {calls.slowest[0]:.1f} s, {calls.slowest[1]}")  # fmt: skip
    say(f"calls with results lost: {len(calls.lost)} {calls.lost[:10] or ''}")
    say(f"calls with wrong results: {len(calls.wrong)} {calls.wrong[:10] or ''}")
    say(f"calls hung: {sum(what.startswith('hung') for what in stopped)}")
    if calls.blamed:
        say(f"tasks killed more often than allowed, which is no failure: {calls.blamed}")


if __name__ == "__main__":
    sys.exit(main())
