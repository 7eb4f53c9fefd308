"""What is packed of a call's tasks when, and what its policy is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import delayed

from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import PackedTask, PlainTasks, Sharing
from joblib_distributed.driver import intake as intake_module
from joblib_distributed.driver.batching import BatchPolicy
from joblib_distributed.driver.intake import Intake
from joblib_distributed.driver.traffic import Traffic
from joblib_distributed.errors import NotATaskError, TaskPackingError


class Noting(BatchPolicy):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__(threads=4)
        self.reads: list[tuple[int, int]] = []
        self.slices: list[tuple[int, float]] = []

    def note_read(self, tasks: int, nbytes: int) -> None:
        self.reads.append((tasks, nbytes))

    def note_slice(self, tasks: int, seconds: float) -> None:
        self.slices.append((tasks, seconds))


def new_intake(
    sharing: Sharing | None = None, policy: BatchPolicy | None = None
) -> Intake:
    def compute(collection: Any) -> Any:
        raise AssertionError("no task takes a dask collection")

    return Intake(sharing, (), compute, policy)


@pytest.fixture
def sharing(tmp_path: Path) -> Sharing:
    return Sharing(1000, "r", str(tmp_path), "this host", "owner")


def read(intake: Intake, *arguments: Any) -> list[object]:
    return [intake.read(delayed(abs)(argument)) for argument in arguments]


def whole(tasks: Any) -> list[tuple[type, int, int]]:
    return [(type(each), each.index, each.size) for each in tasks]


def test_tasks_are_numbered_in_their_order() -> None:
    """The first two of a function are packed; plain ones are kept after that."""
    intake = new_intake()
    items = read(intake, 0, 1, 2, 3, [4], 5)
    assert whole(intake.take(items[:4])) == [
        (PackedTask, 0, 1),
        (PackedTask, 1, 1),
        (PlainTasks, 2, 2),
    ]
    assert whole(intake.take(items[4:])) == [(PackedTask, 4, 1), (PlainTasks, 5, 1)]
    # Whatever joblib does with what it has read: nothing taken is nothing.
    assert intake.take([]) == []
    assert whole(intake.take(read(intake, 6))) == [(PlainTasks, 6, 1)]


def test_what_cannot_be_packed_is_raised_when_it_is_read() -> None:
    intake = new_intake()
    with pytest.raises(NotATaskError):
        intake.read("no task")
    with pytest.raises(TaskPackingError):
        intake.read(delayed(abs)(i for i in range(3)))


def test_the_policy_is_told_of_what_was_read_when_it_is_taken() -> None:
    """Also of what joblib has read ahead, which is not taken yet; of each once."""
    policy = Noting()
    intake = new_intake(policy=policy)
    items = read(intake, *range(10))
    assert policy.reads == []
    intake.take(items[:4])
    assert policy.reads == [(10, 0)]
    intake.take(items[4:])
    assert policy.reads == [(10, 0)]
    intake.take(read(intake, 10, 11))
    assert policy.reads == [(10, 0), (2, 0)]
    assert policy.slices == []


def test_the_policy_is_told_of_each_slice_of_the_iterable() -> None:
    policy = Noting()
    intake = new_intake(policy=policy)
    read(intake, 0, 1, 2)
    intake.note_slice(0.5)
    assert policy.slices == [(3, 0.5)]
    # joblib looks for more and finds none: that says nothing of a task.
    intake.note_slice(0.25)
    assert policy.slices == [(3, 0.5)]
    intake.take(read(intake, 3, 4))
    intake.note_slice(0.125)
    assert policy.slices == [(3, 0.5), (2, 0.125)]
    assert policy.reads == [(5, 0)]


def test_without_a_policy_nobody_is_told() -> None:
    intake = new_intake()
    items = read(intake, 0, 1)
    intake.note_slice(0.5)
    assert whole(intake.take(items)) == [(PackedTask, 0, 1), (PackedTask, 1, 1)]


def test_large_data_that_is_new_to_the_store_is_counted_once(sharing: Sharing) -> None:
    policy = Noting()
    intake = new_intake(sharing, policy)
    one, other = np.arange(1000.0), np.arange(500.0)
    (first,) = intake.take(read(intake, one))
    assert policy.reads == [(1, 8000)]
    assert [buffer.view.nbytes for buffer in first.shared.buffers] == [8000]
    # The first again, and what is too small to be shared.
    intake.take(read(intake, one, np.arange(100.0)))
    assert policy.reads == [(1, 8000), (2, 0)]
    intake.take(read(intake, other, one, other))
    assert policy.reads == [(1, 8000), (2, 0), (3, 4000)]
    traffic = intake.tally.traffic
    assert (traffic.shared, traffic.found) == (12_000, 0)


def test_large_data_read_ahead_counts_with_what_is_taken_next(sharing: Sharing) -> None:
    policy = Noting()
    intake = new_intake(sharing, policy)
    items = read(intake, np.arange(1000.0), np.arange(500.0))
    intake.take(items[:1])
    assert policy.reads == [(2, 12_000)]
    intake.take(items[1:])
    assert policy.reads == [(2, 12_000)]


def test_large_data_that_the_store_has_is_found(sharing: Sharing) -> None:
    """As that of an earlier call."""
    large = np.arange(1000.0)
    kept = new_intake(sharing)
    tasks = kept.take(read(kept, large))
    policy = Noting()
    intake = new_intake(sharing, policy)
    intake.take(read(intake, large))
    assert policy.reads == [(1, 0)]
    traffic = intake.tally.traffic
    assert (traffic.shared, traffic.found) == (8000, 8000)
    assert len(tasks) == 1


def test_what_is_read_is_packed_as_it_was() -> None:
    """An iterable may use a list again."""
    intake = new_intake()
    reused = [1]
    (item,) = read(intake, reused)
    (before,) = intake.take([item])
    reused[0] = 2
    (after,) = intake.take(read(intake, reused))
    assert isinstance(before, PackedTask)
    assert isinstance(after, PackedTask)
    assert before.arguments != after.arguments
    assert before.function == after.function


@pytest.mark.parametrize(("has_room", "shared"), [(True, 8_000_000), (False, 0)])
def test_what_no_store_has_room_for_is_not_shared(
    has_room: bool, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stores:
        def put(self, content: memoryview) -> tuple[Buffer, bool]:
            return Buffer("name", content, self if has_room else None), False

    monkeypatch.setattr(intake_module, "host_store", lambda _: Stores())
    intake = new_intake(Sharing(1_000_000, "r", None, "host", "owner"))
    intake.take([intake.read(delayed(np.sum)(np.zeros(1_000_000)))])
    assert intake.tally.traffic == Traffic(shared)
