"""Fires every fault that is promised to be survived; prints what came of each.

For each fault, moment and variant, on each backend: the verdict, the seconds from the
fault to the end of the call, and those of the next call. The moments are: *before*
anything is sent, in the *middle* of the tasks, and when results are finished but
*unfetched*. The variants: a *flat* call or a *nested* one, its tasks with 4 MB of data in
common (*large*) or without. Each cell is a process and a cluster of its own, with a
deadline; what outlives it is killed.

Verdicts: right; late, as it was promised sooner; wrong result, wrong error, results lost;
hung; not stopped; next call hung, broken or wrong; other error, where joblib's bundled
backend raises something; cell broken, if the fault could not be fired. Exits with 1 if
not all of our cells are right.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.faults_rows import MOMENTS, ROWS
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


def run_cell(
    row: str, moment: str, variant: str, backend: str, deadline: float, keep: str | None
) -> dict[str, Any]:
    """Run one cell; return its report."""
    tag = uuid.uuid4().hex
    nested, large = VARIANTS[variant]
    with tempfile.TemporaryDirectory(prefix="joblib-distributed-faults-") as folder:
        order = {
            "row": row, "moment": moment, "backend": backend, "nested": nested,
            "large": large, "folder": folder, "deadline": deadline,
        }  # fmt: skip
        path = [TESTS, os.environ.get("PYTHONPATH", "")]
        with open(f"{folder}/output.txt", "w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "support.faults_cell", json.dumps(order)],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, path)),
                    _TAG: tag,
                    "TMPDIR": folder,  # removed with it, also what was killed
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
            try:
                report = _watch(process, Path(folder), deadline)
            finally:
                kill_all_of(tag)
                process.wait(30)
        if keep is not None:
            _keep(Path(folder), Path(keep, f"{row}-{moment}-{variant}-{backend}"))
    return report


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


def cells(given: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield what has a meaning of what was asked for."""
    for name, moment, variant in itertools.product(
        given.rows, given.moments, given.variants
    ):
        row = ROWS[name]
        nested, large = VARIANTS[variant]
        if moment in row.moments and nested in row.nested and large in row.large:
            yield name, moment, variant


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--moments", nargs="+", default=MOMENTS, choices=MOMENTS)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument(
        "--deadline", type=float, default=60, help="seconds from the fault to the end"
    )
    parser.add_argument("--keep", help="folder for what each cell has written")
    given = parser.parse_args()
    print("seconds from the fault to the end of the call, + those of the next call")
    counts: dict[str, Counter[str]] = {backend: Counter() for backend in given.backends}
    for row, moment, variant in cells(given):
        for backend in given.backends:
            report = run_cell(row, moment, variant, backend, given.deadline, given.keep)
            counts[backend][report["verdict"]] += 1
            print(f"{row:20}{moment:10}{variant:13}{_line(backend, report)}", flush=True)
    for backend, verdicts in counts.items():
        print(f"{backend}: {sum(verdicts.values())} cells:", dict(verdicts))
    return 0 if set(counts.get("ours", ())) <= {"right"} else 1


def _line(backend: str, report: dict[str, Any]) -> str:
    seconds = report.get("seconds")
    times = "" if seconds is None else f"{seconds:5.1f}"
    if report.get("next") is not None:
        times += f" + {report['next']:.1f}"
    detail = " ".join(report["detail"].split())
    return f"{backend:9}{report['verdict']:17}{times:14}{detail}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
