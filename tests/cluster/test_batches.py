"""What is sent together: as the user says, or as the tasks turn out to be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from joblib import Parallel, delayed

from joblib_distributed.driver import ahead
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.driver.events import Send
from joblib_distributed.driver.outgoing import Outgoing
from joblib_distributed.driver.running import RunningCall
from support.dispatch import call_once, send_when_dispatched
from support.tasks import in_thread, mark, wait_for_file

#: Seconds after which a call counts as one that waits for ever.
HUNG = 40


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of tasks of all attempts that are sent."""
    sizes: list[int] = []
    send = RunningCall._send

    def count_and_send(call: RunningCall, order: Send) -> None:
        sizes.append(sum(tasks.size for tasks in order.tasks))
        send(call, order)

    monkeypatch.setattr(RunningCall, "_send", count_and_send)
    return sizes


def double(number: int) -> int:
    return 2 * number


def doubles(count: int) -> list[int]:
    return [2 * number for number in range(count)]


# ---------------------------------------------------------------- a number that was given
def test_a_batch_size_that_was_given_is_that_of_all_batches(
    backend: Client, sent: list[int]
) -> None:
    """However short the tasks are, and are known to be."""
    call_once(backend, double, 1)
    sent.clear()
    parallel = Parallel(batch_size=5, pre_dispatch="all")
    assert parallel(delayed(double)(i) for i in range(200)) == doubles(200)
    assert sent == [5] * 40


def test_batches_of_such_a_call_are_what_joblib_makes_of_it(
    backend: Client, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes smaller ones at first, and when the tasks come to their end."""
    handed_over: list[int] = []
    dispatch = RunningCall.dispatch

    def count_and_dispatch(call: RunningCall, items: Any, callback: Any) -> None:
        handed_over.append(len(items))
        dispatch(call, items, callback)

    call_once(backend, double, 1)
    sent.clear()
    monkeypatch.setattr(RunningCall, "dispatch", count_and_dispatch)
    found = Parallel(batch_size=5)(delayed(double)(i) for i in range(203))
    assert found == doubles(203)
    assert sum(handed_over) == 203
    assert sent == handed_over
    assert sent.count(5) >= 35


def wait_for(path: str, number: int) -> int:
    if path:
        wait_for_file(path)
    return number


def test_the_last_tasks_are_handed_over_at_once(
    backend: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joblib makes small batches of them, one whenever another is done: none is, here."""
    path = str(tmp_path / "all are here")
    dispatch = RunningCall.dispatch
    handed_over = []

    def dispatch_and_tell(call: RunningCall, items: Any, callback: Any) -> None:
        handed_over.extend(items)
        dispatch(call, items, callback)
        if len(handed_over) == 19:
            Path(path).touch()

    monkeypatch.setattr(RunningCall, "dispatch", dispatch_and_tell)
    # The first four are two batches; then there are fewer than two batches of ten.
    calls = (delayed(wait_for)(path if i >= 4 else "", i) for i in range(19))
    parallel = Parallel(n_jobs=2, batch_size=10, pre_dispatch=4)
    assert parallel(calls) == list(range(19))


def test_what_is_sent_at_the_same_time_goes_together(
    backend: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message costs client and scheduler more than what is in it."""
    together: list[int] = []
    send = Cluster.send

    def count_and_send(cluster: Cluster, attempts: Sequence[Outgoing], post: Any) -> None:
        together.append(len(attempts))
        send(cluster, attempts, post)

    monkeypatch.setattr(Cluster, "send", count_and_send)
    monkeypatch.setattr(Client, "submit", None)
    send_when_dispatched(monkeypatch, 20)
    parallel = Parallel(batch_size=1, pre_dispatch="all", n_jobs=-1)
    assert parallel(delayed(double)(i) for i in range(20)) == doubles(20)
    assert together == [20]


# --------------------------------------------------------------------------------- "auto"
def test_short_tasks_are_sent_together(backend: Client, sent: list[int]) -> None:
    def unknown(number: int) -> int:
        return 2 * number

    found = Parallel()(delayed(unknown)(i) for i in range(5000))
    assert found == doubles(5000)
    assert sum(sent) >= 5000
    assert len(sent) < 100


def test_tasks_known_to_be_short_are_shared_out_at_once(
    backend: Client, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    call_once(backend, double, 1)
    sent.clear()
    send_when_dispatched(monkeypatch, 2000)
    parallel = Parallel(pre_dispatch="all")
    assert parallel(delayed(double)(i) for i in range(2000)) == doubles(2000)
    assert sent[:2] == [1000, 1000]


def test_tasks_known_to_be_short_are_read_before_the_first_is_sent(
    backend: Client, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joblib by itself would hand over four of them, then wait for a result."""
    call_once(backend, double, 1)
    sent.clear()
    monkeypatch.setattr(ahead, "HOLD", HUNG)
    assert Parallel()(delayed(double)(i) for i in range(64)) == doubles(64)
    assert sent == [32, 32]


def test_tasks_known_to_be_short_are_sent_though_no_other_follows(
    backend: Client, tmp_path: Path
) -> None:
    """The next one is yielded once the first has been run."""
    call_once(backend, mark, str(tmp_path), "before")

    def tasks() -> Iterator[Any]:
        for number in range(4):
            yield delayed(mark)(str(tmp_path), number)
        wait_for_file(str(tmp_path / "0"), HUNG)
        yield delayed(mark)(str(tmp_path), 4)

    assert Parallel()(tasks()) == [None] * 5


# ---------------------------------------------------- tasks that others must not wait for
def return_or_wait(path: str) -> str:
    """Return at once, or wait for a file."""
    if path:
        wait_for_file(path, HUNG)
    return path


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_a_result_is_given_though_the_next_task_waits(
    return_as: str, backend: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads results may be what the next task waits for; it was short before."""
    call_once(backend, return_or_wait, "")
    go = str(tmp_path / "go")
    send_when_dispatched(monkeypatch, 4)
    results = Parallel(return_as=return_as, pre_dispatch="all")(
        delayed(return_or_wait)(path) for path in ["", go, go, go]
    )
    try:
        first = in_thread(lambda: next(results))(HUNG / 2)
    finally:
        mark(str(tmp_path), "go")
    assert first == ""
    assert list(results) == [go, go, go]


def meet(folder: str, own: str, other: str) -> str:
    """Return when the other one runs, too."""
    if own:
        mark(folder, own)
        wait_for_file(os.path.join(folder, other), HUNG / 2)
    return own


def test_two_tasks_run_on_two_workers_though_they_were_short(
    backend: Client, tmp_path: Path, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    call_once(backend, meet, str(tmp_path), "", "")
    sent.clear()
    send_when_dispatched(monkeypatch, 2)
    tasks = [delayed(meet)(str(tmp_path), *pair) for pair in [("a", "b"), ("b", "a")]]
    assert Parallel(return_as="list")(tasks) == ["a", "b"]
    assert sent == [1, 1]
