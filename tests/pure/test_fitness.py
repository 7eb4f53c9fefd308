"""Whether the processes of a cluster can run calls, and what is shown of them."""

from __future__ import annotations

import pytest

from joblib_distributed.command.check import table
from joblib_distributed.data.wire import SENT
from joblib_distributed.driver.fitness import PACKAGES, Found, problems
from joblib_distributed.worker.probe import Described

VERSIONS = dict.fromkeys(PACKAGES, "1.2")
HOST = Described("0.1", "ann", "/dev/shm/joblib-distributed-7", 2 * 10**9)
DRIVER = Found("driver", "3.11.7", VERSIONS, described=HOST)
SCHEDULER = Found("scheduler", "3.11.7", VERSIONS, seconds=0.001)
WORKER = Found("tcp://a:1", "3.11.9", VERSIONS, 4, 8 * 10**9, True, HOST, seconds=0.01)


def test_a_cluster_like_the_driver_has_no_problems() -> None:
    assert problems([DRIVER, SCHEDULER, WORKER]) == ([], [])


@pytest.mark.parametrize(
    ("workers", "begins"),
    [
        ([], "The scheduler has no worker: "),
        ([Found("tcp://a:1", obstacle="late")], "tcp://a:1 does not answer (late): "),
        (
            [WORKER._replace(python="3.12.7")],
            "tcp://a:1 runs Python 3.12.7, this process 3.11.7: ",
        ),
        (
            [WORKER._replace(described=None, obstacle="ImportError: joblib")],
            "tcp://a:1 cannot run tasks: ImportError: joblib. Install ",
        ),
    ],
)
def test_what_makes_calls_fail(workers: list[Found], begins: str) -> None:
    (text,), notes = problems([DRIVER, SCHEDULER, *workers])
    assert text.startswith(begins)
    assert notes == []


@pytest.mark.parametrize(
    ("worker", "begins"),
    [
        (WORKER._replace(is_direct=False), "tcp://a:1 is reached through the scheduler"),
        (
            WORKER._replace(described=HOST._replace(folder="")),
            "tcp://a:1 has no folder for large data: ",
        ),
        (
            WORKER._replace(packages={**VERSIONS, "joblib": "1.1"}),
            "tcp://a:1 has joblib 1.1, this process joblib 1.2: ",
        ),
        (
            WORKER._replace(packages={**VERSIONS, "numpy": None}),
            "tcp://a:1 has no numpy, this process numpy 1.2: ",
        ),
        (
            WORKER._replace(described=HOST._replace(version="0.2")),
            "tcp://a:1 has joblib-distributed 0.2, this process 0.1: ",
        ),
    ],
)
def test_what_may_surprise(worker: Found, begins: str) -> None:
    failing, (text,) = problems([DRIVER, SCHEDULER, worker])
    assert failing == []
    assert text.startswith(begins)


def test_a_scheduler_needs_only_what_it_has() -> None:
    """It is nobody's business there what the tasks are made of."""
    lacks = {**VERSIONS, "scikit-learn": None, "joblib": None}
    assert problems([DRIVER, SCHEDULER._replace(packages=lacks), WORKER]) == ([], [])
    differs = {**VERSIONS, "distributed": "1.1"}
    _, (text,) = problems([DRIVER, SCHEDULER._replace(packages=differs), WORKER])
    assert text.startswith("scheduler has distributed 1.1, this process ")


def test_a_table_shows_what_differs() -> None:
    other = WORKER._replace(python="3.11.7", packages={**VERSIONS, "numpy": None})
    gone = Found("tcp://b:2", obstacle="no answer")
    head, driver, scheduler, worker, last = table(
        [DRIVER, SCHEDULER, other, gone]
    ).splitlines()
    assert head.split() == [
        "Python", *PACKAGES, "threads", "memory", "direct", "answers", "large", "data",
        "free",
    ]  # fmt: skip
    assert driver.split() == [
        "driver", "3.11.7", *["1.2"] * 5, HOST.folder, "of", "ann", "2.0", "GB",
    ]  # fmt: skip
    assert scheduler.split() == ["scheduler", "3.11.7", *["1.2"] * 5, "1.0", "ms"]
    assert worker.split() == [
        "tcp://a:1", "3.11.7", "1.2", "1.2", "1.2", "none", "*", "1.2", "4", "8.0", "GB",
        "yes", "10.0", "ms", HOST.folder, "of", "ann", "2.0", "GB",
    ]  # fmt: skip
    assert last.split() == ["tcp://b:2", "no", "answer"]


def test_who_was_sent_this_package_has_no_other_version() -> None:
    def described(version: str) -> Found:
        return Found(
            "tcp://a:1", "3.11.7", described=Described(version, "me", "/dev/shm/x", 1)
        )

    here = described("1.2")._replace(name="driver")
    scheduler = Found("scheduler", "3.11.7")
    notes = [
        problems([here, scheduler, described(version)])[1]
        for version in ("1.2", SENT, "1.1")
    ]
    assert notes[:2] == [[], []]
    assert "has joblib-distributed 1.1, this process 1.2: install" in notes[2][0]
