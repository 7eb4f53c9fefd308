"""What is said of clusters that cannot serve a call."""

from __future__ import annotations

import sys

import pytest
from distributed.scheduler import KilledWorker

from joblib_distributed.data.wire import wire_format
from joblib_distributed.driver import refusals
from joblib_distributed.errors import (
    ClusterClosedError,
    EnvironmentMismatchError,
    SchedulerUnreachableError,
)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("scheduler.json", True),
        ("/shared/scheduler.json", True),
        ("shared/scheduler", True),
        ("./scheduler", True),
        ("C:\\shared\\scheduler", True),
        ("localhost", False),
        ("localhost:8786", False),
        ("10.0.0.1:8786", False),
        ("[::1]:8786", False),
        ("tcp://10.0.0.1:8786", False),
        ("tls://scheduler.example:8786", False),
        ("inproc://10.0.0.1/4/1", False),
        ("wss://example/path/scheduler.json", False),
    ],
)
def test_looks_like_path(host: str, expected: bool) -> None:
    assert refusals.looks_like_path(host) is expected


def test_no_scheduler_file() -> None:
    error = refusals.no_scheduler_file("/shared/scheduler.json")
    assert type(error) is SchedulerUnreachableError
    assert str(error) == (
        "There is no scheduler file scheduler_host='/shared/scheduler.json'. A scheduler "
        "writes it when it starts with --scheduler-file; check the path, and that this "
        "machine sees the same folder."
    )


def test_already_closed() -> None:
    error = refusals.already_closed("<Client>")
    assert type(error) is ClusterClosedError
    assert str(error) == (
        "The dask client '<Client>' is closed, or its cluster is: nothing can run on it. "
        "Make a new client, or leave client= out to use the current one."
    )


def test_no_scheduler_tells_what_it_is_because_of() -> None:
    first = ConnectionRefusedError("refused")
    second = OSError("no connection")
    second.__cause__ = first
    last = TimeoutError("timed out after 30 s")
    last.__cause__ = second
    last.__context__ = KeyError("not this")
    error = refusals.no_scheduler("host:1", last)
    assert type(error) is SchedulerUnreachableError
    assert str(error) == (
        "No dask scheduler could be reached at scheduler_host='host:1': timed out after "
        "30 s, because of OSError: no connection, because of ConnectionRefusedError: "
        "refused. Check host and port (a scheduler prints its address when it starts, "
        "and 8786 is its usual port), and that no firewall is between."
    )


def test_no_scheduler_without_a_cause() -> None:
    message = str(refusals.no_scheduler("host:1", ValueError("no port")))
    assert "scheduler_host='host:1': no port. Check host and port" in message


@pytest.mark.parametrize(
    ("code", "described"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (255, "exit code 255"),
        (-9, "SIGKILL"),
        (-11, "SIGSEGV"),
        (-200, "signal 200"),  # no such signal
    ],
)
def test_how_a_process_ended(code: int, described: str) -> None:
    assert refusals.describe_exit(code) == described


def test_a_death_is_told_with_how_the_last_worker_ended_if_that_is_known() -> None:
    error = KilledWorker("key", WorkerState(), 3)
    assert refusals.describe_death(error) == "the last one tcp://there:1."
    assert refusals.describe_death(error, "SIGKILL") == (
        "the last one tcp://there:1 (SIGKILL)."
    )


@pytest.mark.parametrize(
    "answer",
    [
        None,
        OSError("reset"),
        TimeoutError(),
        ValueError("IOStream is not idle; cannot convert to SSL"),
    ],
    ids=repr,
)
def test_who_could_not_be_asked_has_not_answered(answer: object) -> None:
    assert not refusals.check_answer("tcp://there:1", answer)


@pytest.mark.parametrize(
    "answer",
    [ModuleNotFoundError("No module"), ValueError("unsupported pickle protocol: 5")],
    ids=repr,
)
def test_who_cannot_run_tasks_is_refused(answer: object) -> None:
    with pytest.raises(EnvironmentMismatchError, match=f"tcp://there:1.*{answer}"):
        refusals.check_answer("tcp://there:1", answer)


def test_who_can_run_tasks_is_taken() -> None:
    answer = (*sys.version_info[:2], wire_format())
    assert refusals.check_answer("tcp://there:1", answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((2, 7, wire_format()), "runs Python 2.7, this process Python 3"),
        ((2, 7), "runs Python 2.7, this process Python 3"),
        ((*sys.version_info[:2], "another"), "has a version of joblib-distributed that"),
        (sys.version_info[:2], "has a version of joblib-distributed that"),
    ],
)
def test_who_talks_another_way_is_refused(answer: object, message: str) -> None:
    with pytest.raises(EnvironmentMismatchError) as caught:
        refusals.check_answer("tcp://there:1", answer)
    assert f"Worker tcp://there:1 {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ModuleNotFoundError("No module named 'joblib_distributed'"), True),
        (ModuleNotFoundError("No module named 'joblib'"), False),
        (ImportError("'joblib_distributed' is broken"), False),
        ((3, 11, "x"), False),
        (None, False),
    ],
)
def test_who_lacks_us_altogether(answer: object, expected: bool) -> None:
    assert refusals.lacks_us(answer) is expected


class WorkerState:
    """What the scheduler knows of a worker, as far as it is told."""

    address = "tcp://there:1"
