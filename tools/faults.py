"""Fires every fault that is promised to be survived; prints what came of each.

For each fault, moment and variant, on each backend: the verdict, the seconds from the
fault to the end of the call, and those of the next call. The moments are: *before*
anything is sent, in the *middle* of the tasks, and when results are finished but
*unfetched*. The variants: a *flat* call or a *nested* one, its tasks with 4 MB of data in
common (*large*) or without. Each cell is a process and a cluster of its own, with a
deadline; what outlives it is killed. Where the system permits it has a network of its
own, too, so that no port that is free for a moment is taken by another cell.

Joblib's bundled backend is given one variant of each fault by default, the simplest that
there is; and three times the seconds that ours took, but not less than 20, or 40 where
dask has a timeout of 30.

Several cells run at a time (``--jobs``). Those with a promise in seconds come last: they
start their clusters at a time, but what is timed runs alone.

Verdicts: right; late, as it was promised sooner; wrong result, wrong error, results lost;
hung; not stopped; next call hung, broken or wrong; other error, where joblib's bundled
backend raises something; cell broken, if the fault could not be fired. Exits with 1 if
not all of our cells are right.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.certificate import Certificate
from support.faults_rows import MIDDLE, MOMENTS, ROWS
from support.faults_table import Table
from support.processes import die_with_parent
from support.waiting import wait_until

TESTS = str(Path(__file__).parents[1] / "tests")

BACKENDS = ("ours", "bundled")

VARIANTS = {
    "flat": (False, False),
    "flat-large": (False, True),
    "nested": (True, False),
    "nested-large": (True, True),
}

#: Seconds beyond the deadline of the call itself: to start the cluster and to come to the
#: moment, for the next call, and for the process to end.
ALLOWANCE = 150

#: Seconds that a process may take to end. More is told.
EXIT_WITHIN = 5.0

#: Runs a command in a network that has a loopback of its own, and nothing else.
_ENTER = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]

#: Names, in the environment of all processes of a cell, the cell.
_TAG = "JOBLIB_DISTRIBUTED_FAULTS_CELL"


def processes_of(cell: str) -> list[psutil.Process]:
    """Return the processes that a cell has left."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_TAG) != cell:
                continue
            # multiprocessing's removes what the others have left, then ends.
            if "resource_tracker" not in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_all_of(cell: str) -> None:
    """Kill what a cell has left."""

    def none_left() -> bool:
        left = processes_of(cell)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return not left

    wait_until(none_left, 30, lambda: f"left: {processes_of(cell)}")


class Cell(NamedTuple):
    """What is to be run, but for the backend."""

    row: str
    moment: str
    variant: str


class Runner:
    """Runs cells.

    Parameters
    ----------
    folder : str
        For what cells have in common.
    deadline : float
        Seconds from the fault to the end of a call, for ours.
    keep : str or None
        Folder for what each cell has written.
    tls : bool
        Whether clusters speak TLS.
    """

    def __init__(self, folder: str, deadline: float, keep: str | None, tls: bool) -> None:
        self._deadline = deadline
        self._keep = keep
        self._quiet = str(Path(folder, "quiet"))
        self._env = Certificate(Path(folder)).demanding_environment if tls else {}
        self.enter = _ENTER if has_networks() else []

    def run_both(self, cell: Cell, backends: list[str]) -> dict[str, dict[str, Any]]:
        """Run a cell on each of these backends; return their reports."""
        reports = {}
        for backend in backends:
            deadline = self._deadline
            if backend == "bundled":
                ours = reports.get("ours", {}).get("seconds") or 0
                deadline = max(ROWS[cell.row].patience, 3 * ours)
            start = time.monotonic()
            reports[backend] = self.run(cell, backend, deadline)
            reports[backend]["took"] = time.monotonic() - start
        return reports

    def run(self, cell: Cell, backend: str, deadline: float) -> dict[str, Any]:
        """Run a cell on one backend; return its report."""
        tag = uuid.uuid4().hex
        nested, large = VARIANTS[cell.variant]
        with tempfile.TemporaryDirectory(prefix="joblib-distributed-faults-") as folder:
            order = {
                "row": cell.row, "moment": cell.moment, "backend": backend,
                "nested": nested, "large": large, "folder": folder,
                "deadline": deadline, "quiet": self._quiet,
            }  # fmt: skip
            command = [sys.executable, "-m", "support.faults_cell", json.dumps(order)]
            process = self._start([*self.enter, *command], folder, tag)
            try:
                report: dict[str, Any] = _watch(process, Path(folder), deadline)
            finally:
                kill_all_of(tag)
                process.wait(30)
            if self._keep is not None:
                _keep(Path(folder), Path(self._keep, "-".join([*cell, backend])))
        return report

    def _start(
        self, command: list[str], folder: str, tag: str
    ) -> subprocess.Popen[bytes]:
        path = [TESTS, os.environ.get("PYTHONPATH", "")]
        with open(f"{folder}/output.txt", "w") as output:
            return subprocess.Popen(
                command,
                env={
                    **os.environ,
                    **self._env,
                    "PYTHONPATH": os.pathsep.join(filter(None, path)),
                    _TAG: tag,
                    # Removed with it, also what was killed; no store is anywhere else.
                    "TMPDIR": folder,
                    "JOBLIB_TEMP_FOLDER": folder,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )


def has_networks() -> bool:
    """Whether a process may be given a network of its own here."""
    try:
        done = subprocess.run([*_ENTER, "true"], stderr=subprocess.DEVNULL, timeout=30)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def _watch(process: subprocess.Popen[bytes], folder: Path, deadline: float) -> Any:
    """Wait for a cell's process to end; return its last report."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        end = time.monotonic() + deadline + ALLOWANCE
        while process.poll() is None and not _report(folder).get("over"):
            process.wait(0.2) if time.monotonic() > end else _pause(process)
    over = time.monotonic()
    report = _report(folder)
    if not report:
        tail = (folder / "output.txt").read_text()[-1500:]
        return {"verdict": "cell broken", "detail": tail}
    if report.get("over"):
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            report["detail"] += "; its process did not end"
        if time.monotonic() - over > EXIT_WITHIN:
            report["detail"] += f"; ended {time.monotonic() - over:.0f} s later"
    elif process.poll() is None:
        report.update(verdict="hung", detail="its process did not even notice")
    return report


def _pause(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)


def _report(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def _keep(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "stacks.txt", "output.txt"):
        if (folder / name).exists():
            (target / name).write_bytes((folder / name).read_bytes())


def cells(given: argparse.Namespace) -> list[Cell]:
    """Return what has a meaning of what was asked for; what is timed comes last."""
    found = [
        Cell(name, moment, variant)
        for name in given.rows
        for moment in moments(given, name)
        for variant in variants(given, name)
    ]
    return sorted(found, key=lambda cell: ROWS[cell.row].is_timed)


def moments(given: argparse.Namespace, name: str) -> list[str]:
    row = ROWS[name]
    found = [moment for moment in given.moments if moment in row.moments]
    if not given.short or row.is_of_connection:
        return found
    return [MIDDLE] if MIDDLE in found else found[:1]


def variants(given: argparse.Namespace, name: str) -> list[str]:
    row = ROWS[name]
    found = [
        variant
        for variant in given.variants
        if VARIANTS[variant][0] in row.nested and VARIANTS[variant][1] in row.large
    ]
    if not given.short:
        return found
    return [v for v in found if "flat" in v] or found


def backends(given: argparse.Namespace, cell: Cell) -> list[str]:
    """Return what a cell is to be run on."""
    if given.bundled_variants == "all" or cell.variant == variants(given, cell.row)[0]:
        return list(given.backends)
    return [backend for backend in given.backends if backend == "ours"]


def run_all(
    given: argparse.Namespace,
    runner: Runner,
    tell: Callable[[Cell, dict[str, dict[str, Any]]], None],
) -> None:
    """Run all cells, several at a time; tell of each, in order."""
    both = [cell for cell in cells(given) if backends(given, cell)]
    for is_timed in (False, True):
        some = [cell for cell in both if ROWS[cell.row].is_timed == is_timed]
        with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
            try:
                reports = pool.map(
                    lambda cell: runner.run_both(cell, backends(given, cell)), some
                )
                for cell, report in zip(some, reports, strict=True):
                    tell(cell, report)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--moments", nargs="+", default=MOMENTS, choices=MOMENTS)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument(
        "--bundled-variants", choices=("first", "all"), default="first",
        help="what the bundled backend is given: by default the first that a fault has",
    )  # fmt: skip
    parser.add_argument(
        "--short", action="store_true",
        help="flat calls only, at one moment; but faults of the connection at each",
    )  # fmt: skip
    parser.add_argument(
        "--deadline", type=float, default=60,
        help="seconds from the fault to the end, for ours",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=4, help="cells at a time")
    parser.add_argument("--tls", action="store_true", help="clusters speak TLS")
    parser.add_argument("--keep", help="folder for what each cell has written")
    parser.add_argument("--markdown", help="file for the table, a fault in each row")
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    given = parse()
    table = Table(given.rows, given.moments, given.backends)

    def tell(cell: Cell, reports: dict[str, dict[str, Any]]) -> None:
        for backend, report in reports.items():
            table.add(cell.row, cell.moment, backend, report)
            place = f"{cell.row:20}{cell.moment:10}{cell.variant:13}"
            print(f"{place}{_line(backend, report)}", flush=True)

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="joblib-distributed-faults-") as folder:
        runner = Runner(folder, given.deadline, given.keep, given.tls)
        print(f"{given.jobs} cells at a time, each with a network of its own: "
              f"{'yes' if runner.enter else 'no, not permitted here'}; "
              f"TLS: {'yes' if given.tls else 'no'}")  # fmt: skip
        print("seconds from the fault to the end of the call, + those of the next call")
        run_all(given, runner, tell)
    print(f"took {time.monotonic() - start:.0f} s; "
          f"one after the other: {table.seconds:.0f} s")  # fmt: skip
    for line in table.counts():
        print(line)
    if given.markdown is not None:
        Path(given.markdown).write_text(table.markdown())
    return 0 if table.all_right("ours") else 1


def _line(backend: str, report: dict[str, Any]) -> str:
    seconds = report.get("seconds")
    times = "" if seconds is None else f"{seconds:5.1f}"
    if report.get("next") is not None:
        times += f" + {report['next']:.1f}"
    detail = " ".join(report["detail"].split())
    return f"{backend:9}{report['verdict']:17}{times:14}{detail}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
