"""Tasks that wait in a batch behind a long one are run by others."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, Status, Worker, get_worker
from joblib import Parallel, delayed, parallel_config

from joblib_distributed.driver import running
from joblib_distributed.driver.events import Send
from joblib_distributed.driver.running import RunningCall
from support.dispatch import believe_short, call_once, send_when_dispatched
from support.tasks import mark, marks, wait_for_file
from support.waiting import wait_until

#: Seconds after which a task counts as one that waits for ever.
HUNG = 30

COUNT = 8


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Numbers of the tasks of all attempts that are sent."""
    attempts: list[list[int]] = []
    send = RunningCall._send

    def note_and_send(call: RunningCall, order: Send) -> None:
        attempts.append([t.index + i for t in order.tasks for i in range(t.size)])
        send(call, order)

    monkeypatch.setattr(RunningCall, "_send", note_and_send)
    return attempts


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK_INTERVAL", 0.1)
    monkeypatch.setattr(running, "QUIET", 0.5)


def work(folder: str, number: int, waits_for: str) -> int:
    """Say that it runs, then wait for another one, if it is to."""
    if folder:
        mark(folder, f"{number}-{uuid.uuid4().hex}")
    if waits_for:
        wait_for_file(os.path.join(folder, waits_for), HUNG)
    if folder:
        mark(folder, f"did-{number}")
    return number


def runs(folder: Path) -> Counter[int]:
    """How often each task was begun."""
    names = [name for name in marks(folder) if not name.startswith("did-")]
    return Counter(int(name.split("-")[0]) for name in names)


def call_together(folder: Path, waiting: dict[int, str]) -> list[int]:
    return list(
        Parallel(pre_dispatch="all")(
            delayed(work)(str(folder), number, waiting.get(number, ""))
            for number in range(COUNT)
        )
    )


def check_two_batches(found: list[int], sent: list[list[int]], folder: Path) -> None:
    """Of a call whose tasks were to be short; and each was run once."""
    assert found == list(range(COUNT))
    assert sent[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert runs(folder) == dict.fromkeys(range(COUNT), 1)


@pytest.mark.parametrize("first", [0, 1], ids=["the first", "a later one"])
def test_a_task_may_wait_for_its_neighbour_in_a_batch(
    first: int,
    backend: Client,
    tmp_path: Path,
    sent: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They were short when they were last called."""
    call_once(backend, work, "", 0, "")
    sent.clear()
    send_when_dispatched(monkeypatch, COUNT)
    found = call_together(tmp_path, {first: f"did-{first + 1}"})
    check_two_batches(found, sent, tmp_path)


def meet(folder: str, number: int, others: int) -> int:
    """Say that it runs, and wait until so many do."""
    if folder:
        mark(folder, f"{number}-{uuid.uuid4().hex}")
        wait_until(
            lambda: len(marks(Path(folder))) >= others, HUNG, lambda: "too few have begun"
        )
    return number


@pytest.mark.timeout(120)
def test_what_was_next_to_nothing_and_is_not_is_spread_before_any_look(
    tmp_path: Path, sent: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LOOK_INTERVAL", HUNG)
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=4,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        parallel_config(backend="dask.distributed", client=client),
    ):
        believe_short(client, meet, "", 0, 0)
        send_when_dispatched(monkeypatch, 16)
        found = Parallel(pre_dispatch="all")(
            delayed(meet)(str(tmp_path), number, 4) for number in range(16)
        )
    assert found == list(range(16))
    assert sent[:2] == [list(range(8)), list(range(8, 16))]
    assert runs(tmp_path) == dict.fromkeys(range(16), 1)


def test_tasks_that_are_packed_apart_are_recalled_too(
    backend: Client,
    tmp_path: Path,
    sent: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call_once(backend, work, "", 0, "")
    sent.clear()
    send_when_dispatched(monkeypatch, COUNT)
    # What is given by its name is not plain.
    found = Parallel(pre_dispatch="all")(
        delayed(work)(str(tmp_path), number, waits_for="" if number else "did-1")
        for number in range(COUNT)
    )
    check_two_batches(found, sent, tmp_path)


def test_a_batch_behind_another_goes_to_a_worker_that_idles(
    own_client: Client,
    tmp_path: Path,
    sent: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine moves it. Nothing of it has begun, so none of it is recalled."""
    first, _ = own_client.nthreads()
    with parallel_config(backend="dask.distributed", client=own_client):
        call_once(own_client, work, "", 0, "")
    sent.clear()
    send_when_dispatched(monkeypatch, COUNT)
    with parallel_config(
        backend="dask.distributed",
        client=own_client,
        workers=first,
        allow_other_workers=True,
    ):
        assert call_together(tmp_path, {0: "did-7"}) == list(range(COUNT))
    assert sent[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert runs(tmp_path) == dict.fromkeys(range(COUNT), 1)


# ------------------------------------------------------------------------------- paused
def pause_or_say(number: int) -> tuple[int, str]:
    """Have dask pause this worker, if it is the first task; say who runs it."""
    worker = get_worker()
    if number == 0:
        worker.loop.add_callback(setattr, worker, "status", Status.paused)
        wait_until(lambda: worker.status is Status.paused, 10, lambda: "not paused")
    return number, str(worker.address)


def test_what_a_paused_worker_has_not_begun_is_run_by_another(
    own_client: Client, sent: list[list[int]]
) -> None:
    """Also of a batch that is as the user wants it."""

    def resume(dask_worker: Worker) -> None:
        dask_worker.status = Status.running

    with parallel_config(backend="dask.distributed", client=own_client):
        found = Parallel(batch_size=4, pre_dispatch="all")(
            delayed(pause_or_say)(number) for number in range(COUNT)
        )
    own_client.run(resume)
    numbers, (first, *others) = zip(*found, strict=True)
    assert numbers == tuple(range(COUNT))
    assert first not in others
    assert sent == [[0, 1, 2, 3], [4, 5, 6, 7], [1, 2, 3]]


# --------------------------------------------------------------------------- stragglers
def hang_once(folder: str, number: int) -> int:
    """Return at once, but for one task, which hangs when it is first run."""
    if number == COUNT - 1 and "tried" not in os.listdir(folder):
        mark(folder, "tried")
        try:
            wait_for_file(os.path.join(folder, "never"), 2 * HUNG)
        finally:
            mark(folder, "interrupted")
    return number


@pytest.mark.parametrize("batch_size", ["auto", 1])
def test_a_straggler_is_tried_elsewhere_and_stopped(
    batch_size: Any, own_client: Client, tmp_path: Path
) -> None:
    with parallel_config(
        backend="dask.distributed", client=own_client, race_stragglers=True
    ):
        found = Parallel(batch_size=batch_size)(
            delayed(hang_once)(str(tmp_path), number) for number in range(COUNT)
        )
        assert found == list(range(COUNT))
        wait_for_file(str(tmp_path / "interrupted"), 10)
        assert Parallel()(delayed(abs)(-number) for number in range(4)) == [0, 1, 2, 3]
