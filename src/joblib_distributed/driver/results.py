"""What joblib's callbacks are called with: what a delivery gave, unpacked. Pure."""

from __future__ import annotations

from typing import NamedTuple

from joblib_distributed.data.outcome import (
    Outcome,
    unpack_error,
    unpack_plain,
    unpack_value,
)
from joblib_distributed.data.tasks import Tasks
from joblib_distributed.driver.events import Deliver, DeliverError


class Values(NamedTuple):
    """What joblib's callback is called with when a delivery succeeded."""

    values: list[object]


class Error(NamedTuple):
    """What joblib's callback is called with when a delivery failed."""

    error: BaseException


def unpack(result: Deliver | DeliverError) -> Values | Error:
    """Return the values of a delivery, or the error in their place."""
    try:
        if isinstance(result, Deliver):
            values: list[object] = []
            for tasks, value in zip(result.tasks, result.outcomes, strict=True):
                if value.plain:
                    values += unpack_plain(value)
                else:
                    values.append(_unpack_value(tasks, value))
            return Values(values)
        if isinstance(result.error, Outcome):
            assert result.task is not None
            task = result.task
            return Error(unpack_error(result.error.packed, task.index, task.name))
        return Error(result.error)
    except BaseException as error:  # of the user's classes, while they are rebuilt
        return Error(error)


def _unpack_value(task: Tasks, value: Outcome) -> object:
    return unpack_value(value.packed, task.index, task.name, value.buffers, value.strings)
