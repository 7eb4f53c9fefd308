"""Run other projects' tests against our backend: ``python conformance/run.py``.

joblib's own tests of its backends, and those of scikit-learn that go through joblib,
are run from their installed packages; none is copied or changed. Those that do not
apply to our backend are named in ``skips.py``, each with its reason.

Options other than ``--suite`` are passed on to pytest. Three are ours:

- ``--short`` runs only a few tests of each suite;
- ``--skipped`` runs only those that are skipped, and tells which of them pass;
- ``--control`` puts joblib's loky with two jobs in the place of ours, where a suite has
  ours for all calls. What fails there, too, is not due to our backend.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from journal import BAD, Result, count, read
from skips import SKIPS
from suites import SUITES

HERE = Path(__file__).resolve().parent

#: Cores that the tests may believe in, so that a run means the same everywhere.
CORES = "2"

#: What pytest returns when it could do its work. Nothing may be left to run if the last
#: test has ended the process before.
WORKED = (
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.NO_TESTS_COLLECTED,
)


def main() -> int:
    """Run the suites, print what came of them, return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", action="append", choices=list(SUITES))
    arguments, options = parser.parse_known_args()
    # As Ctrl-C does: an exception, so that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    ran = [run_suite(name, options) for name in arguments.suite or SUITES]
    if not {"--short", "--skipped"} & set(options):
        print_skips()
    for suite in ran:
        print_results(suite, told=("passed",) if "--skipped" in options else BAD)
    return 0 if all(suite.good for suite in ran) else 1


class Ran(NamedTuple):
    """A suite that was run."""

    name: str
    results: list[Result]
    #: What pytest returned in the end.
    code: int

    @property
    def calls(self) -> int:
        """Number of calls of our backend."""
        return sum(result.calls for result in self.results)

    @property
    def good(self) -> bool:
        """Whether all is well, and something has been tested."""
        bad = any(result.outcome in BAD for result in self.results)
        return self.code in WORKED and self.calls > 0 and not bad


def run_suite(name: str, options: Sequence[str]) -> Ran:
    """Run the tests of a suite, also those after one that ends the process."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        died = 0
        while True:
            code = _run(_command(name, journal, options), cwd=folder)
            results = read(journal)
            if count(results)["died"] == died:
                return Ran(name, results, code)
            died = count(results)["died"]


def _command(name: str, journal: Path, options: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--quiet", "--tb=short", "--no-summary"]
    command += ["-c", str(HERE / "pytest.ini"), "-p", "plugin", "-p", "no:cacheprovider"]
    # Tests are named after their place in the installed packages.
    command += ["--rootdir", sysconfig.get_path("purelib"), "--pyargs"]
    command += [f"--conform={name}", f"--journal={journal}", *options]
    suite = SUITES[name]
    return command + list(suite.short if "--short" in options else suite.modules)


def _run(command: Sequence[str], cwd: str) -> int:
    """Run a command, and end all that it has left behind."""
    path = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        command,
        cwd=cwd,  # elsewhere pytest would load the fixtures of our own tests
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "LOKY_MAX_CPU_COUNT": CORES,
        },
        start_new_session=True,
    )
    try:
        return process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def print_skips() -> None:
    """Print which tests do not apply, and why."""
    print("\nSkipped, as they do not apply to this backend:")
    for skip in SKIPS:
        for pattern in skip.tests:
            print(f"  {skip.module}::{pattern}")
        print(f"    {skip.reason}")


def print_results(suite: Ran, told: Sequence[str]) -> None:
    """Print what came of a suite: the tests with some outcomes, and the counts."""
    chosen = [result for result in suite.results if result.outcome in told]
    for result in chosen:
        print(f"\n{result.outcome}: {result.test}\n{result.text}")
    outcomes = ", ".join(f"{n} {what}" for what, n in count(suite.results).most_common())
    print(f"\n{suite.name}: {outcomes or 'nothing ran'}; {suite.calls} calls of ours")
    for result in chosen:
        print(f"  {result.outcome}: {result.test}")
    if suite.code not in WORKED:
        print(f"  pytest itself failed, with code {suite.code}")


if __name__ == "__main__":
    sys.exit(main())
