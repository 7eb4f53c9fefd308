"""What tasks print and log is shown where their results are waited for."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import joblib
import pytest
from distributed import Client
from joblib import Parallel, delayed

from joblib_distributed.worker.printing import MOST
from support.tasks import mark, wait_for_file
from support.waiting import wait_until


def say(task: int, lines: int = 2) -> int:
    for number in range(lines):
        print(f"{task} {number}")
    print(f"error of {task}", file=sys.stderr)
    return task


def said(text: str) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for line in text.splitlines():
        task, number = map(int, line.split())
        found[task].append(number)
    return found


@pytest.mark.parametrize("cluster", ["embedded", "command line"])
def test_what_tasks_print_comes_here(
    cluster: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {}
    if cluster == "embedded":
        options["client"] = request.getfixturevalue("embedded_client")
    else:
        other = request.getfixturevalue("command_line_cluster")
        options["scheduler_host"] = other.host_and_port
    with joblib.parallel_config(backend="dask.distributed", **options):
        assert Parallel()(delayed(say)(i) for i in range(20)) == list(range(20))
    out, err = capsys.readouterr()
    assert said(out) == {i: [0, 1] for i in range(20)}
    assert sorted(err.splitlines()) == sorted(f"error of {i}" for i in range(20))


def test_many_lines_are_complete_and_in_order(
    backend: object, capsys: pytest.CaptureFixture[str]
) -> None:
    Parallel()(delayed(say)(i, 2000) for i in range(50))
    found = said(capsys.readouterr().out)
    assert found == {i: list(range(2000)) for i in range(50)}


def say_and_wait(folder: str, task: int) -> int:
    print(f"begun {task}")
    wait_for_file(f"{folder}/go")
    return task


def test_it_comes_while_the_task_goes_on(embedded_client: Client, tmp_path: Path) -> None:
    shown = io.StringIO()

    def call() -> None:
        with (
            joblib.parallel_config(backend="dask.distributed", client=embedded_client),
            contextlib.redirect_stdout(shown),
        ):
            Parallel()(delayed(say_and_wait)(str(tmp_path), i) for i in range(2))

    thread = threading.Thread(target=call)
    thread.start()
    try:
        wait_until(lambda: len(shown.getvalue().splitlines()) == 2, 20, shown.getvalue)
    finally:
        mark(str(tmp_path), "go")
        thread.join(20)
    assert sorted(shown.getvalue().splitlines()) == ["begun 0", "begun 1"]


@pytest.mark.parametrize(("output", "expected"), [(False, 0), ("prefix", 4)])
def test_it_can_be_turned_off_or_told_apart(
    embedded_client: Client,
    capsys: pytest.CaptureFixture[str],
    output: bool | str,
    expected: int,
) -> None:
    with joblib.parallel_config(
        backend="dask.distributed", client=embedded_client, output=output
    ):
        Parallel()(delayed(say)(i) for i in range(2))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == expected
    assert (
        sorted(lines)
        == [f"[task {i}] {i} {k}" for i in range(2) for k in range(2)][:expected]
    )


def fail_loudly(task: int) -> None:
    print(f"before the error of {task}")
    raise ValueError(task)


def test_what_a_task_that_fails_has_printed_comes_too(
    backend: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="0"):
        Parallel()(delayed(fail_loudly)(i) for i in range(1))
    assert capsys.readouterr().out == "before the error of 0\n"


def outer(task: int) -> int:
    print(f"outer {task}")
    return len(Parallel()(delayed(say)(10 * task + i) for i in range(2)))


def test_what_tasks_of_tasks_print_comes_too(
    backend: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Parallel()(delayed(outer)(i) for i in range(1, 4)) == [2, 2, 2]
    lines = capsys.readouterr().out.splitlines()
    inner = [f"{10 * i + j} {k}" for i in range(1, 4) for j in range(2) for k in range(2)]
    assert sorted(lines) == sorted([f"outer {i}" for i in range(1, 4)] + inner)


def log(task: int) -> None:
    logging.getLogger("jd.test").info("task %d", task)
    logging.getLogger("jd.test").debug("not wanted")


def test_records_come_to_the_handlers_here(
    backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        Parallel()(delayed(log)(i) for i in range(4))
    messages = [r.getMessage() for r in caplog.records if r.name == "jd.test"]
    assert sorted(messages) == [f"task {i}" for i in range(4)]


def print_too_much(_: int) -> None:
    sys.stdout.buffer.write(b"\xff\n")
    for _ in range(100):
        print("x" * 1_000_000)


def test_a_hundred_megabytes_do_no_harm(
    backend: object, capsys: pytest.CaptureFixture[str]
) -> None:
    Parallel()(delayed(print_too_much)(i) for i in range(1))
    out, err = capsys.readouterr()
    assert out.startswith("\\xff\nxxx")
    assert len(out) == MOST
    assert "more characters that tasks have printed are not shown" in err
    assert Parallel()(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


class ByThread(io.StringIO):
    """Keeps what each thread writes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = defaultdict(str)

    def write(self, text: str) -> int:
        self.texts[threading.current_thread().name] += text
        return len(text)


def test_calls_of_two_threads_do_not_mix(embedded_client: Client) -> None:
    """What the tasks of a call print is written by the thread that has called."""

    def call(start: int) -> None:
        with joblib.parallel_config(backend="dask.distributed", client=embedded_client):
            Parallel()(delayed(say)(start + i) for i in range(4))

    shown = ByThread()
    threads = [
        threading.Thread(target=call, args=(start,), name=str(start))
        for start in (0, 100)
    ]
    with contextlib.redirect_stdout(shown):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert {name: said(text) for name, text in shown.texts.items()} == {
        str(start): {start + i: [0, 1] for i in range(4)} for start in (0, 100)
    }


def test_many_threads_of_one_process_lose_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Calls inside of tasks come back to the process of their driver."""
    with (
        Client(n_workers=1, threads_per_worker=6, dashboard_address=None) as client,
        joblib.parallel_config(backend="dask.distributed", client=client),
    ):
        assert Parallel()(delayed(outer)(i) for i in range(1, 4)) == [2, 2, 2]
    lines = capsys.readouterr().out.splitlines()
    inner = [f"{10 * i + j} {k}" for i in range(1, 4) for j in range(2) for k in range(2)]
    assert sorted(lines) == sorted([f"outer {i}" for i in range(1, 4)] + inner)
