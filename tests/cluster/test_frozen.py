"""Workers that are frozen, as by SIGSTOP: what they were given is tried on another, too.

So is what workers that are paused have not begun.

The first outcome counts, and whatever a worker gives that thaws is dropped.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster, Status
from joblib import Parallel, delayed

from joblib_distributed.driver import fetching, heartbeats, running
from joblib_distributed.driver.call import Call
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.driver.events import Event, Instruction, Looked
from joblib_distributed.driver.known import known_of
from joblib_distributed.options import Options
from support.tasks import in_thread, mark, marks, spin, wait_for_file
from support.waiting import wait_until

#: Less than the heartbeats that a worker must miss in any case.
FROZEN_AFTER = 1.0


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK_INTERVAL", 0.1)
    monkeypatch.setattr(running, "QUIET", 0.0)
    # However long a machine with much to do takes from one call to the next.
    monkeypatch.setattr(heartbeats, "FRESH", 60.0)


@pytest.fixture
def freeze(own_client: Client) -> Iterator[Callable[[int], None]]:
    """What stops a process; it is killed when the test is over."""
    frozen = []

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        frozen.append(pid)

    yield stop
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def thaw(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def note(folder: str, number: int) -> None:
    """Say that a task runs, once for each time that it does."""
    mark(folder, f"{number}.{os.getpid()}.{uuid.uuid4()}")


def ran_on(folder: Path, number: int) -> list[int]:
    """Return the processes that have begun a task, once for each time that they did."""
    found = [name.split(".") for name in marks(folder) if "." in name]
    return [int(pid) for which, pid, _ in found if int(which) == number]


def hold_first(folder: str, number: int) -> int:
    note(folder, number)
    if number == 0:
        wait_for_file(folder + "/go", timeout=45)
    return number * 10


def pid_of_first(folder: Path) -> int:
    wait_until(lambda: ran_on(folder, 0), 30, lambda: "the first task does not run")
    return ran_on(folder, 0)[0]


def call_in_thread(
    client: Client, folder: Path, count: int, **keywords: Any
) -> Callable[[], Any]:
    frozen_after = keywords.pop("frozen_after", FROZEN_AFTER)

    def call() -> Any:
        with joblib.parallel_config(
            backend="dask.distributed", client=client, frozen_after=frozen_after
        ):
            parallel = Parallel(batch_size=1, **keywords)
            return list(
                parallel(delayed(hold_first)(str(folder), i) for i in range(count))
            )

    return in_thread(call)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "n_jobs"), [(2, 2), (12, -1)], ids=["the last tasks", "with others"]
)
def test_frozen_for_ever(
    count: int,
    n_jobs: int,
    own_client: Client,
    freeze: Callable[[int], None],
    tmp_path: Path,
) -> None:
    result = call_in_thread(own_client, tmp_path, count, n_jobs=n_jobs)
    frozen = pid_of_first(tmp_path)
    freeze(frozen)
    mark(str(tmp_path), "go")
    assert result() == [i * 10 for i in range(count)]
    # It may not have been able to, but it was not asked twice either.
    assert ran_on(tmp_path, 0).count(frozen) == 1


@pytest.mark.slow
def test_the_next_call_avoids_who_is_frozen(
    own_client: Client, freeze: Callable[[int], None], tmp_path: Path
) -> None:
    addresses = {pid: a for a, pid in own_client.run(os.getpid).items()}
    result = call_in_thread(own_client, tmp_path, 2, n_jobs=2)
    frozen = pid_of_first(tmp_path)
    freeze(frozen)
    mark(str(tmp_path), "go")
    assert result() == [0, 10]
    wanted = []

    def noting(send: Callable[..., Any]) -> Callable[..., Any]:
        def note_and_send(function: Any, payloads: Any, **kwargs: Any) -> Any:
            key = kwargs["key"]
            number = 1 if isinstance(key, str) else len(key)
            wanted.extend([(kwargs["workers"], kwargs["allow_other_workers"])] * number)
            return send(function, payloads, **kwargs)

        return note_and_send

    for name in ("submit", "map"):
        setattr(own_client, name, noting(getattr(own_client, name)))
    again = tmp_path / "again"
    again.mkdir()
    mark(str(again), "go")
    assert call_in_thread(own_client, again, 6)() == [i * 10 for i in range(6)]
    (other,) = addresses.keys() - {frozen}
    assert wanted[:6] == [([addresses[other]], True)] * 6
    assert {pid for i in range(6) for pid in ran_on(again, i)} == {other}


@pytest.mark.slow
def test_frozen_and_thawed_while_another_runs_the_same(
    own_client: Client, freeze: Callable[[int], None], tmp_path: Path
) -> None:
    result = call_in_thread(own_client, tmp_path, 8, return_as="generator_unordered")
    frozen = pid_of_first(tmp_path)
    freeze(frozen)
    wait_until(
        lambda: set(ran_on(tmp_path, 0)) > {frozen}, 30, lambda: "the task is not raced"
    )
    thaw(frozen)
    mark(str(tmp_path), "go")
    assert sorted(result()) == [i * 10 for i in range(8)]
    # What has thawed runs tasks as before.
    again = tmp_path / "again"
    again.mkdir()
    mark(str(again), "go")
    assert call_in_thread(own_client, again, 8)() == [i * 10 for i in range(8)]


def add(folder: str, number: int, large: Any) -> Any:
    note(folder, number)
    if number == 0:
        wait_for_file(folder + "/go", timeout=45)
    return large + number


@pytest.mark.slow
@pytest.mark.parametrize("thaws", [False, True])
def test_large_data_of_who_is_frozen(
    thaws: bool, own_client: Client, freeze: Callable[[int], None], tmp_path: Path
) -> None:
    """Results come through files, too: those of a loser are nobody's."""
    large = np.arange(300_000.0)

    def call() -> Any:
        with joblib.parallel_config(
            backend="dask.distributed", client=own_client, frozen_after=FROZEN_AFTER
        ):
            return Parallel(batch_size=1)(
                delayed(add)(str(tmp_path), i, large) for i in range(6)
            )

    result = in_thread(call)
    frozen = pid_of_first(tmp_path)
    freeze(frozen)
    if thaws:
        wait_until(
            lambda: set(ran_on(tmp_path, 0)) > {frozen}, 30, lambda: "it is not raced"
        )
        thaw(frozen)
    mark(str(tmp_path), "go")
    sums = result()
    assert len(sums) == 6
    for number, each in enumerate(sums):
        np.testing.assert_array_equal(each, large + number)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """What each look found to be silent."""
    found: list[frozenset[str]] = []
    take_note = Call.note

    def note_looks(self: Call, event: Event) -> list[Instruction]:
        if isinstance(event, Looked):
            found.append(event.silent)
        return take_note(self, event)

    monkeypatch.setattr(Call, "note", note_looks)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["one", "all"])
def test_who_is_frozen_may_be_waited_for(
    whole: bool,
    own_client: Client,
    freeze: Callable[[int], None],
    tmp_path: Path,
    looks: list[frozenset[str]],
) -> None:
    """With ``frozen_after=inf``, or while nobody else could: nothing is run twice."""
    addresses = {pid: a for a, pid in own_client.run(os.getpid).items()}
    frozen_after = FROZEN_AFTER if whole else float("inf")
    result = call_in_thread(own_client, tmp_path, 6, frozen_after=frozen_after)
    first = pid_of_first(tmp_path)
    frozen = sorted(addresses) if whole else [first]
    for pid in frozen:
        freeze(pid)
    known = known_of(own_client).heartbeats
    wait_until(
        lambda: (
            known.silent(time.monotonic(), FROZEN_AFTER) == {*map(addresses.get, frozen)}
        ),
        30,
        lambda: "nobody has noticed",
    )
    before = len(looks)
    wait_until(lambda: len(looks) > before + 3, 30, lambda: "nobody looks")
    assert set(looks[before:]) == {frozenset()}
    for pid in frozen:
        thaw(pid)
    mark(str(tmp_path), "go")
    assert result() == [i * 10 for i in range(6)]
    if not whole:  # when all thaw, one of them may be the first to be heard of
        assert [len(ran_on(tmp_path, i)) for i in range(6)] == [1] * 6


def fail_or_hold(folder: str, number: int) -> None:
    note(folder, number)
    wait_for_file(folder + "/go", timeout=45)
    if number:
        raise ValueError("the one that fails")


@pytest.mark.slow
def test_an_error_beside_who_is_frozen(
    own_client: Client, freeze: Callable[[int], None], tmp_path: Path
) -> None:
    def call() -> Any:
        with joblib.parallel_config(
            backend="dask.distributed", client=own_client, frozen_after=FROZEN_AFTER
        ):
            return Parallel(n_jobs=2)(
                delayed(fail_or_hold)(str(tmp_path), i) for i in range(2)
            )

    result = in_thread(call)
    wait_until(lambda: ran_on(tmp_path, 1), 30, lambda: "it does not run")
    freeze(pid_of_first(tmp_path))
    mark(str(tmp_path), "go")
    with pytest.raises(ValueError, match="the one that fails"):
        result()
    again = tmp_path / "again"
    again.mkdir()
    mark(str(again), "go")
    assert call_in_thread(own_client, again, 4)() == [0, 10, 20, 30]


def spin_or_note(folder: str, number: int) -> int:
    """Run for a minute if the first worker to begin the first task runs it."""
    note(folder, number)
    if number == 0 and len(ran_on(Path(folder), 0)) == 1:
        spin(folder, number)
    return number


def is_busy(dask_worker: Any) -> bool:
    return bool(dask_worker.state.executing_count)


@pytest.mark.slow
def test_who_thaws_after_the_end_of_a_call_is_interrupted(
    own_client: Client, freeze: Callable[[int], None], tmp_path: Path
) -> None:
    def call() -> Any:
        with joblib.parallel_config(
            backend="dask.distributed", client=own_client, frozen_after=FROZEN_AFTER
        ):
            return Parallel(n_jobs=2)(
                delayed(spin_or_note)(str(tmp_path), i) for i in range(2)
            )

    result = in_thread(call)
    wait_until(lambda: "running-0" in marks(tmp_path), 30, lambda: "it does not run")
    frozen = pid_of_first(tmp_path)
    freeze(frozen)
    assert result() == [0, 1]
    thaw(frozen)
    wait_until(
        lambda: not any(own_client.run(is_busy).values()), 30, lambda: "a task still runs"
    )
    assert "finished-0" not in marks(tmp_path)


def hold_two(folder: str, number: int) -> int:
    note(folder, number)
    if number < 2:
        wait_for_file(folder + "/go", timeout=45)
    return number * 10


DRIVER = 99


def nest(folder: str) -> list[int]:
    note(folder, DRIVER)
    found: list[int] = Parallel(n_jobs=2, batch_size=1)(
        delayed(hold_two)(folder, i) for i in range(4)
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("who", ["the driver", "the other"])
def test_nested_calls_of_who_is_frozen(
    who: str, own_client: Client, freeze: Callable[[int], None], tmp_path: Path
) -> None:
    def call() -> Any:
        with joblib.parallel_config(
            backend="dask.distributed", client=own_client, frozen_after=FROZEN_AFTER
        ):
            return Parallel(n_jobs=2)(delayed(nest)(str(tmp_path)) for _ in range(1))

    result = in_thread(call)
    wait_until(
        lambda: len({pid for i in (0, 1) for pid in ran_on(tmp_path, i)}) == 2,
        30,
        lambda: f"they do not run: {marks(tmp_path)}",
    )
    (driver,) = ran_on(tmp_path, DRIVER)
    others = {pid for i in (0, 1) for pid in ran_on(tmp_path, i)} - {driver}
    freeze(driver if who == "the driver" else others.pop())
    mark(str(tmp_path), "go")
    assert result() == [[0, 10, 20, 30]]
    assert len(ran_on(tmp_path, DRIVER)) == (2 if who == "the driver" else 1)


@pytest.mark.slow
def test_results_of_who_is_frozen_that_are_not_fetched_yet(
    own_cluster: LocalCluster,
    own_client: Client,
    freeze: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are on the frozen worker; and dask fetches another's together with them."""
    monkeypatch.setattr(fetching, "report_in", lambda _: None)  # as if too large for it
    mark(str(tmp_path), "go")
    release = threading.Event()
    gather = own_client._gather

    async def gather_late(*args: Any, **kwargs: Any) -> Any:
        await own_client.loop.run_in_executor(None, release.wait, 30)
        return await gather(*args, **kwargs)

    def states() -> list[str]:
        return [task.state for task in list(own_cluster.scheduler.tasks.values())]

    own_client._gather = gather_late
    try:
        result = call_in_thread(own_client, tmp_path, 2, n_jobs=2, pre_dispatch="all")
        wait_until(lambda: states() == ["memory"] * 2, 30, lambda: f"{states()}")
        freeze(pid_of_first(tmp_path))
    finally:
        release.set()
        own_client._gather = gather
    assert result() == [0, 10]


def test_a_look_that_cannot_tell_who_is_frozen_tells_the_rest(
    own_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a worker leaves between two questions."""

    async def fail(*_: object) -> frozenset[str]:
        raise KeyError("a worker that has left")

    monkeypatch.setattr("joblib_distributed.driver.looks._silent_attempts", fail)
    posted: queue.SimpleQueue[Event] = queue.SimpleQueue()
    now = time.monotonic()
    Cluster(own_client).look({"unknown": now}, Options(), posted.put)
    looked = posted.get(timeout=30)
    assert isinstance(looked, Looked)
    assert looked == Looked(looked.now, {"unknown": None}, 2, sent_at={"unknown": now})


# ------------------------------------------------------------------- paused, not frozen
def set_status(dask_worker: Any, name: str) -> None:
    """Do what dask's monitor does when a worker's memory is full, or is not any more."""
    dask_worker.status = Status[name]


async def steal_nothing(dask_scheduler: Any) -> None:
    """Keep what is queued where it is: dask moves some of it, but not all."""
    await dask_scheduler.extensions["stealing"].stop()


@pytest.mark.slow
def test_what_a_paused_worker_has_not_begun_is_run_elsewhere(
    own_client: Client, tmp_path: Path
) -> None:
    """What it has begun is not: it may be what takes the memory."""
    addresses = {pid: address for address, pid in own_client.run(os.getpid).items()}
    own_client.run_on_scheduler(steal_nothing)
    result = call_in_thread(own_client, tmp_path, 12, frozen_after=float("inf"))
    paused = pid_of_first(tmp_path)
    wait_until(
        lambda: len(own_client.processing()[addresses[paused]]) > 1,
        30,
        lambda: "nothing is queued there",
    )
    own_client.run(set_status, name="paused", workers=[addresses[paused]])
    wait_until(
        lambda: all(ran_on(tmp_path, i) for i in range(12)),
        30,
        lambda: f"some wait: {marks(tmp_path)}",
    )
    mark(str(tmp_path), "go")
    assert result() == [i * 10 for i in range(12)]
    assert ran_on(tmp_path, 0) == [paused]
    own_client.run(set_status, name="running", workers=[addresses[paused]])
    again = tmp_path / "again"
    again.mkdir()
    mark(str(again), "go")
    assert call_in_thread(own_client, again, 6)() == [i * 10 for i in range(6)]
