"""What joblib's callbacks are called with."""

from __future__ import annotations

from typing import Any

import pytest

from joblib_distributed.data.buffers import pack
from joblib_distributed.data.outcome import (
    Kind,
    Outcome,
    Stage,
    pack_failure,
    pack_plain,
)
from joblib_distributed.data.tasks import PackedTask, PlainTasks
from joblib_distributed.driver.events import Deliver, DeliverError
from joblib_distributed.driver.results import Error, Values, unpack
from joblib_distributed.errors import ClusterClosedError, ResultTransferError


def packed(index: int) -> PackedTask:
    return PackedTask(index, "f", b"key", b"packed f", b"arguments")


def plain(index: int, size: int) -> PlainTasks:
    return PlainTasks(index, "f", b"key", b"packed f", [()] * size)


def value(value: object) -> Outcome:
    return Outcome(Kind.VALUE, 0.0, pack(value))


def test_values_of_all_parts_are_joined_in_their_order() -> None:
    parts = [packed(0), plain(1, 2), plain(3, 1), plain(4, 1), packed(5)]
    outcomes = [
        value("a"),
        pack_plain([1, None], 0.0),
        value([2]),
        pack_plain([3.5], 0.0),
        value({"b": 4}),
    ]
    assert unpack(Deliver(0, parts, outcomes)) == Values(
        ["a", 1, None, [2], 3.5, {"b": 4}]
    )


def test_no_value_is_left_out_in_silence() -> None:
    failed = unpack(Deliver(0, [packed(0), packed(1)], [value(1)]))
    assert isinstance(failed, Error)
    assert type(failed.error) is ValueError


def test_a_value_that_cannot_be_rebuilt_names_its_task() -> None:
    broken = Outcome(Kind.VALUE, 0.0, b"cmissing_module\nname\n.")
    failed = unpack(
        Deliver(0, [plain(4, 2), plain(6, 1)], [pack_plain([1, 2], 0), broken])
    )
    assert isinstance(failed, Error)
    assert isinstance(failed.error, ResultTransferError)
    assert (failed.error.index, failed.error.function) == (6, "f")


@pytest.mark.parametrize("task", [packed(7), plain(7, 1)])
def test_an_error_of_a_task_is_rebuilt_with_its_index(task: Any) -> None:
    outcome = Outcome(Kind.ERROR, 0.0, pack_failure(KeyError("k"), Stage.RUN, "there"))
    failed = unpack(DeliverError(0, task, outcome))
    assert isinstance(failed, Error)
    assert repr(failed.error) == "KeyError('k')"
    assert "Task 7 (f) failed on worker there." in str(failed.error.__cause__)


def test_an_error_of_ours_is_passed_on() -> None:
    closed = ClusterClosedError("closed")
    failed = unpack(DeliverError(0, None, closed))
    assert isinstance(failed, Error)
    assert failed.error is closed
