"""What happened to each test, in a file that survives the process that runs them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from skips import SKIPS

from joblib_distributed import DaskDistributedBackend

#: Outcomes that must not be: a test that failed, or that did not live to say so.
BAD = ("failed", "died")

#: Outcomes in the order in which they prevail: a test may pass, and fail in its teardown.
ORDER = ("failed", "xfailed", "skipped by us", "skipped itself", "passed", "died")


class Result(NamedTuple):
    """What came of a test."""

    test: str
    outcome: str
    #: Why it failed, for people.
    text: str = ""
    #: How many calls it made of our backend, in the tests' own process.
    calls: int = 0


class Journal:
    """The plugin that writes the file.

    Parameters
    ----------
    path : pathlib.Path
        Continued if it exists: a test has ended an earlier process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._calls = 0
        self._count_calls()

    def _count_calls(self) -> None:
        """Count what reaches the backend: a test that does not proves nothing of it."""
        start_call = DaskDistributedBackend.start_call

        def counted(backend: DaskDistributedBackend) -> None:
            self._calls += 1
            start_call(backend)

        DaskDistributedBackend.start_call = counted

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Take note of a test that may not end."""
        self._write(
            Result(
                nodeid,
                "died",
                "It ended its process, or was ended at its deadline: see above.",
            )
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of what a test did in one of its phases."""
        if report.passed and report.when != "teardown":
            return  # it may still not live to its end
        text = report.longreprtext if report.failed else ""
        self._write(Result(report.nodeid, _outcome(report), text, self._calls))
        self._calls = 0

    def _write(self, result: Result) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(result) + "\n")


def _outcome(report: pytest.TestReport) -> str:
    if not report.skipped:
        return report.outcome
    if hasattr(report, "wasxfail"):
        return "xfailed"
    _, _, text = report.longrepr
    ours = text.removeprefix("Skipped: ") in {skip.reason for skip in SKIPS}
    return "skipped by us" if ours else "skipped itself"


def read(path: Path) -> list[Result]:
    """Return what came of each test so far, in the order in which they were started."""
    lines = path.read_text().splitlines() if path.exists() else []
    results: dict[str, Result] = {}
    for new in (Result(*json.loads(line)) for line in lines):
        old = results.setdefault(new.test, new)
        first = min(old, new, key=lambda result: ORDER.index(result.outcome))
        results[new.test] = first._replace(calls=old.calls + new.calls)
    return list(results.values())


def count(results: list[Result]) -> Counter[str]:
    """Return the number of tests by outcome."""
    return Counter(result.outcome for result in results)
