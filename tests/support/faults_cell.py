"""One cell of the table of faults: a call, a fault at a moment of it, and the next call.

Run as a program, with what `Order` says as JSON: it is a process and a cluster of its
own, so that what one cell breaks does not spoil the next. Writes what came of it to
``report.json`` in its folder, again with each step, and the stacks of its threads to
``stacks.txt`` should it hang.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib import Parallel, delayed

from joblib_distributed import errors  # which registers our backend, under its own name
from support import faults_rows as rows
from support.faults_quiet import Quiet
from support.faults_scenes import Scene
from support.faults_tasks import (
    APART,
    HARMFUL,
    OUTER,
    busy,
    catch_and_go_on,
    double,
    hold_results,
    outer,
    tasks,
    value,
    warm,
)
from support.tasks import mark, marks
from support.waiting import wait_until

#: Seconds until the cluster is there and the call has come to its moment.
SETUP_DEADLINE = 60

#: Seconds without any worker after which a call may give up, where a row does not say:
#: longer than they take to start again while other cells start theirs.
WAIT_FOR_WORKERS = 50

#: Seconds that the next call may take.
NEXT_DEADLINE = 15

#: Seconds after which nothing of a call that was stopped is to be left.
STOPPED_WITHIN = 2.0

#: Elements of the array that is shared: 4 MB.
SHARED = 500_000

#: Files that let tasks, and their results, go.
GATES = ("fire", "begin", "go", "on", "fetch", "release")

#: More than those that `support.faults_tasks.FIRST` counts.
NESTED_COUNT = 10


@dataclasses.dataclass(frozen=True)
class Order:
    """Which cell it is to be."""

    row: str
    moment: str
    backend: str
    nested: bool
    large: bool
    folder: str
    deadline: float
    #: A file by which cells agree on who is to have the machine for itself; or none.
    quiet: str = ""


class Cell:
    """What a fault is fired at."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.row = rows.ROWS[order.row]
        self.folder = Path(order.folder, "marks")
        self.folder.mkdir()
        self.given = np.arange(SHARED) if order.large else None
        self.count = NESTED_COUNT if order.nested else self.row.count
        self.fired_at = float("inf")
        self.fired = threading.Event()
        self.quiet = Quiet(order.quiet if self.row.is_timed else "")
        self.quiet.share()
        self.scene: Scene = self.row.setting(Path(order.folder))
        self.pids = self.scene.pids()
        #: What a generator has given so far.
        self.arrived: list[Any] = []
        self.report: dict[str, Any] = {"verdict": "cell broken", "detail": ""}

    # ---------------------------------------------------------------- what faults need
    def open(self, *gates: str) -> None:
        for gate in gates:
            mark(str(self.folder), gate)

    def numbers_running(self) -> set[str]:
        return {name.split("-")[1] for name in marks(self.folder) if "running" in name}

    def pids_used(self) -> set[int]:
        return {int(n.split("-")[2]) for n in marks(self.folder) if "running" in n}

    def count_of(self, prefix: str) -> int:
        return sum(name.startswith(prefix + "-") for name in marks(self.folder))

    def note_when(
        self, condition: Callable[[], bool], what: str, within: float, wait: float
    ) -> bool:
        """Add to the report when something was so, and whether that was as promised.

        Returns whether it was so within `wait` seconds.
        """
        start = time.monotonic()
        try:
            self._wait_until(condition, within, wait)
            passed = time.monotonic() - start
            self.say(f"{what} after {passed:.1f} s")
        except AssertionError:
            passed = float("inf")
            self.say(f"not {what} after {wait:g} s")
        if passed > within:
            self.report["late"] = True
        return passed < float("inf")

    def _wait_until(
        self, condition: Callable[[], bool], within: float, wait: float
    ) -> None:
        with contextlib.suppress(AssertionError):
            wait_until(condition, min(within, wait), lambda: "")
            return
        # It is late, so that how late is of no interest.
        self.quiet.end()
        wait_until(condition, max(0.0, wait - within), lambda: "")

    def say(self, what: str) -> None:
        self.report["detail"] = "; ".join(filter(None, [self.report["detail"], what]))

    def write(self, **entries: Any) -> None:
        """Write the report as it is now."""
        self.report.update(entries)
        path = Path(self.order.folder, "report.json")
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self.report))
        new.replace(path)

    # ------------------------------------------------------------------------ the fault
    @property
    def keeps_gates(self) -> bool:
        """Whether tasks are held until the call has ended: or they would end by it."""
        return self.row.promise in ("stopped", "no workers", "closed")

    def reach_moment(self) -> None:
        """Return when the call is where the fault is to hit it."""
        wanted = 2 if self.order.nested or not self.pids else 4
        # One batch is held by the task that is to do harm.
        held = min(wanted, 2) if self.row.how else wanted
        reached: Callable[[], bool] = {
            rows.BEFORE: lambda: "reading" in marks(self.folder),
            rows.MIDDLE: lambda: len(self.numbers_running()) >= wanted,
            rows.UNFETCHED: lambda: self.count_of("held") >= held,
        }[self.order.moment]
        wait_until(
            reached, SETUP_DEADLINE, lambda: f"the call only came to {marks(self.folder)}"
        )

    def fire(self) -> None:
        """Fire the fault at its moment; then let the tasks go."""
        self.fired_at = time.monotonic()
        if "timeout" in self.row.parallel:
            self.fired_at += rows.TIMEOUT
        elif self.row.fire is not rows.nothing:
            self.reach_moment()
            self.fired_at = time.monotonic()
        afterwards = self.row.fire(self)
        self.fired.set()
        if not self.keeps_gates:
            self.open(*GATES)
        elif "timeout" not in self.row.parallel:
            self.open("begin", "fetch")
        if afterwards is not None:
            afterwards()

    # ------------------------------------------------------------------------- the call
    def work(self) -> Any:
        found = Parallel(**self.row.parallel)(self.all_tasks())
        return found if isinstance(found, list) else self.collect(found)

    def all_tasks(self) -> Any:
        folder = str(self.folder)
        if not self.order.nested:
            return tasks(folder, range(self.count), self.given, self.row.how)
        # All of them do harm if their tasks are held: it may be that those of one run.
        harmful = range(OUTER) if self.keeps_gates else [OUTER - 1]
        return (
            delayed(outer)(
                folder, i, self.count, self.given, self.row.how if i in harmful else ""
            )
            for i in range(OUTER)
        )

    def collect(self, generator: Any) -> Any:
        """Return what arrives; keep it should an error come in between."""
        for result in generator:
            self.arrived.append(result)
        return self.arrived

    def drop(self) -> Any:
        generator = Parallel(return_as="generator")(self.all_tasks())
        wait_until(self.fired.is_set, SETUP_DEADLINE, lambda: "it was not fired")
        self.fired_at = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib's, that results are dropped
            del generator
            gc.collect()
        raise GeneratorExit

    def catch(self) -> Any:
        return Parallel()(
            delayed(catch_and_go_on)(str(self.folder), i, self.count, self.given)
            for i in range(OUTER)
        )

    @property
    def expected(self) -> list[Any]:
        nested = [
            [value(i * APART + j, self.given) for j in range(self.count)]
            for i in range(OUTER)
        ]
        flat = [value(i, self.given) for i in range(self.count)]
        return nested if self.order.nested else flat

    # ------------------------------------------------------------------------ judgement
    def judge(self, found: Any, error: BaseException | None, seconds: float) -> str:
        """Return the verdict on a call that has ended."""
        verdict = getattr(self, f"_judge_{self.row.promise.replace(' ', '_')}")(
            found, error
        )
        if error is not None:
            self.say(f"{type(error).__name__}: {error}"[:300])
        late = seconds > self.row.within or self.report.get("late")
        return "late" if verdict == "right" and late else verdict

    def _judge_results(self, found: Any, error: BaseException | None) -> str:
        if error is not None:
            return "wrong error"
        if self.row.parallel.get("return_as") == "generator_unordered":
            found = sorted(found)
        return "right" if found == self.expected else "wrong result"

    def _named(self, error: BaseException | None, kind: type[BaseException]) -> str:
        if error is None:
            return "wrong result"
        if self.order.backend == "bundled" and isinstance(error, Exception):
            return "other error"
        return "right" if isinstance(error, kind) else "wrong error"

    def _judge_no_workers(self, _: Any, error: BaseException | None) -> str:
        return self._named(error, errors.NoWorkersError)

    def _judge_closed(self, _: Any, error: BaseException | None) -> str:
        return self._named(error, errors.ClusterClosedError)

    def _judge_task(self, _: Any, error: BaseException | None) -> str:
        verdict = self._named(error, errors.WorkerDiedError)
        nested = self.order.nested
        index = getattr(error, "index", None)
        if verdict == "right" and index not in rows.BLAMED[nested]:
            return "wrong error"
        innocent = list(self.expected)
        del innocent[OUTER - 1 if nested else HARMFUL]
        arrived = self.arrived
        self.say(f"{len(arrived)} of {len(innocent)} others arrived")
        if any(arrived.count(one) > 1 or one not in innocent for one in arrived):
            return "wrong result"
        return verdict if len(arrived) == len(innocent) else "results lost"

    def _judge_retried(self, _: Any, error: BaseException | None) -> str:
        tries = self.count_of("tried")
        self.say(f"tried {tries} times")
        if not isinstance(error, LookupError):
            return "wrong error"
        wanted = rows.TRIES[self.order.nested]
        return "right" if tries == wanted else "wrong result"

    def _judge_stopped(self, _: Any, error: BaseException | None) -> str:
        kinds: dict[str, Any] = {
            "error": LookupError,
            "timeout": multiprocessing.TimeoutError,
            "ctrl-c": KeyboardInterrupt,
            "dropped": GeneratorExit,
        }
        expected = isinstance(error, kinds[self.order.row])
        return self._stopped() if expected else "wrong error"

    def _stopped(self) -> str:
        def nothing_runs() -> bool:
            return not any(self.scene.observer.run(busy).values())

        stopped = self.note_when(nothing_runs, "stopped", STOPPED_WITHIN, NEXT_DEADLINE)
        return "right" if stopped else "not stopped"

    # ---------------------------------------------------------------------- one by one
    def run(self) -> None:
        options: dict[str, Any] = {
            "temp_folder": str(self.scene.store),
            "wait_for_workers_timeout": WAIT_FOR_WORKERS,
            **self.row.options,
        }
        if self.scene.client is not None:
            options["client"] = self.scene.client
        else:
            options["scheduler_host"] = self.scene.address
        name = "dask" if self.order.backend == "bundled" else "dask.distributed"
        with joblib.parallel_config(backend=name, **options):
            if not self.row.is_cold:
                Parallel()(delayed(warm)(self.given) for _ in range(8))
            hold_results(str(self.folder))
            self.scene.observer.run(hold_results, str(self.folder))
            self.quiet.begin()
            self._set_up()
            firing = self._in_thread(self.fire)
            self._run_call()
            firing.join(rows.DEADLINE)
            self.quiet.end()
            self._run_next()
        self.open(*GATES)

    def _set_up(self) -> None:
        """Let the tasks go as far as they may before the fault."""
        if self.order.moment != rows.BEFORE:
            self.open("begin")
        if self.order.moment == rows.UNFETCHED:
            self.open("go", "hold")

    def _in_thread(self, function: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                function()
            except BaseException as error:
                # Without its fault a cell says nothing.
                self._give_up("cell broken", f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def _give_up(self, verdict: str, what: str) -> None:
        self.say(what)
        with open(Path(self.order.folder, "stacks.txt"), "w") as file:
            faulthandler.dump_traceback(file)
        self.write(verdict=verdict)
        os._exit(3)

    def _run_call(self) -> None:
        def watch() -> None:
            if not self.fired.wait(SETUP_DEADLINE + self.order.deadline):
                self._give_up("cell broken", "nothing was fired")
            first = min(self.row.within, self.order.deadline)
            if ended.wait(first):
                return
            self.quiet.end()  # it is late
            if not ended.wait(self.order.deadline - first):
                self.report["seconds"] = self.order.deadline
                self._give_up("hung", f"files: {sorted(self._names())}")

        ended = threading.Event()
        self._in_thread(watch)
        found, error = None, None
        try:
            found = getattr(self, self.row.call)()
        except BaseException as raised:
            error = raised
        seconds = max(0.0, time.monotonic() - self.fired_at)
        ended.set()
        verdict = self.judge(found, error, seconds)
        self.write(verdict=verdict, seconds=round(seconds, 2))

    def _names(self) -> set[str]:
        return {name for name in marks(self.folder) if not name.startswith("held")}

    def _run_next(self) -> None:
        """Run another call in the same context, at once."""
        if not self.keeps_gates:
            self.open(*GATES)
        self.open("fetch")
        if self.row.restore is not None:
            self.row.restore(self)
        start = time.monotonic()
        ended = threading.Event()

        def watch() -> None:
            if not ended.wait(NEXT_DEADLINE):
                self._give_up("next call hung", "")

        self._in_thread(watch)
        try:
            found = Parallel()(delayed(double)(i) for i in range(8))
            broken = "" if found == [2 * i for i in range(8)] else "next call wrong"
        except Exception as error:
            # There is nothing left that it could run on, which is to be said.
            named = self.row.promise == "closed" and self._named(
                error, errors.ClusterClosedError
            )
            broken = "" if named in ("right", "other error") else "next call broken"
            if broken:
                self.say(f"next: {type(error).__name__}: {error}"[:300])
        ended.set()
        seconds = round(time.monotonic() - start, 2)
        if broken and self.report["verdict"] in ("right", "late"):
            self.report["verdict"] = broken
        self.write(next=seconds)


def main() -> None:
    # A shell ignores it for what it starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    order = Order(**json.loads(sys.argv[1]))
    cell = Cell(order)
    cell.write()
    cell.run()
    cell.write(over=True)
    with contextlib.suppress(Exception):
        cell.scene.observer.close()


if __name__ == "__main__":
    main()
