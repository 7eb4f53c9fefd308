"""Run other projects' tests against our backend: ``python conformance/run.py``.

joblib's own tests of its backends, and those of scikit-learn that go through joblib,
are run from their installed packages; none is copied or changed. Those that do not
apply to our backend are named in ``skips.py``, each with its reason.

With ``--short`` only a few tests of each suite run; with ``--skipped`` only those that
are skipped, to see whether they still have to be.
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
    arguments, for_pytest = _parse()
    ran = [
        run_suite(name, arguments.choose, for_pytest)
        for name in arguments.suite or SUITES
    ]
    if arguments.choose == "all":
        print_skips()
    for suite in ran:
        print_results(suite)
    return 0 if all(suite.good for suite in ran) else 1


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="Other options are passed on to pytest.",
    )
    parser.set_defaults(choose="all")
    for choice, text in (
        ("short", "run only a few tests of each suite"),
        ("skipped", "run only the tests that are skipped otherwise"),
    ):
        parser.add_argument(
            f"--{choice}", action="store_const", dest="choose", const=choice, help=text
        )
    parser.add_argument(
        "--control",
        action="store_true",
        help="put joblib's loky with two jobs in the place of ours, where the suite has "
        "ours for all calls: what fails there, too, presupposes a single job",
    )
    parser.add_argument("--suite", action="append", choices=list(SUITES))
    return parser.parse_known_args()


class Ran(NamedTuple):
    """A suite that was run."""

    name: str
    results: list[Result]
    #: What pytest returned in the end.
    code: int

    @property
    def bad(self) -> list[Result]:
        """The tests that did not do what they should."""
        return [result for result in self.results if result.outcome in BAD]

    @property
    def calls(self) -> int:
        """Number of calls of our backend."""
        return sum(result.calls for result in self.results)

    @property
    def good(self) -> bool:
        """Whether all is well, and something has been tested."""
        return self.code in WORKED and self.calls > 0 and not self.bad


def run_suite(name: str, choose: str, for_pytest: Sequence[str] = ()) -> Ran:
    """Run the tests of a suite, also those after one that ends the process."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        died = 0
        while True:
            command = _command(name, choose, journal, for_pytest)
            code = _run(command, cwd=folder)
            results = read(journal)
            if count(results)["died"] == died:
                return Ran(name, results, code)
            died = count(results)["died"]


def _command(
    name: str, choose: str, journal: Path, for_pytest: Sequence[str]
) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--quiet", "--tb=short", "--no-summary"]
    command += ["-c", str(HERE / "pytest.ini"), "-p", "plugin", "-p", "no:cacheprovider"]
    # Tests are named after their place in the installed packages.
    command += ["--rootdir", sysconfig.get_path("purelib"), "--pyargs"]
    command += [f"--suite={name}", f"--choose={choose}", f"--journal={journal}"]
    return [*command, *for_pytest, *SUITES[name].modules]


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
        print(f"  {skip.module}::{skip.tests}\n    {skip.reason}")


def print_results(suite: Ran) -> None:
    """Print what came of a suite: the failures, then the counts."""
    for result in suite.bad:
        print(f"\n{result.outcome}: {result.test}\n{result.text}")
    outcomes = ", ".join(f"{n} {what}" for what, n in count(suite.results).most_common())
    print(f"\n{suite.name}: {outcomes or 'nothing ran'}; {suite.calls} calls")
    for result in suite.bad:
        print(f"  {result.outcome}: {result.test}")
    if suite.code not in WORKED:
        print(f"  pytest itself failed, with code {suite.code}")


if __name__ == "__main__":
    sys.exit(main())
