"""How long the inputs of tasks are kept, without a cluster."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import dask
import pytest
from joblib import delayed

from joblib_distributed.driver.intake import Intake


class Value:
    """Stands for the future of a collection that was computed."""


class Call:
    """Reads, dispatches and delivers tasks; counts what is kept on the cluster."""

    def __init__(self) -> None:
        self.computed: list[weakref.ref[Value]] = []
        self.intake = Intake(None, (), self._compute, None)
        self._deliveries = 0

    def _compute(self, collection: Any) -> Any:
        value = Value()
        self.computed.append(weakref.ref(value))
        return value

    def read(self, *arguments: Any) -> list[object]:
        return [self.intake.read(delayed(abs)(argument)) for argument in arguments]

    def dispatch(self, items: list[object]) -> int:
        self._deliveries += 1
        self.intake.inputs.note_dispatched(self._deliveries, self.intake.take(items))
        return self._deliveries

    def deliver(self, delivery: int) -> None:
        self.intake.inputs.note_delivered(delivery)

    @property
    def kept(self) -> list[bool]:
        """Whether each value that was computed is still there."""
        gc.collect()
        return [value() is not None for value in self.computed]


def collection(number: int = 0) -> Any:
    return dask.delayed(abs)(number)


def test_what_one_task_refers_to_goes_when_it_is_delivered() -> None:
    call, values = Call(), [collection(i) for i in range(3)]
    deliveries = [call.dispatch(call.read(value)) for value in values]
    assert call.kept == [True, True, True]
    call.deliver(deliveries[1])
    assert call.kept == [True, False, True]
    call.deliver(deliveries[0])
    call.deliver(deliveries[2])
    assert call.kept == [False, False, False]
    assert call.intake.inputs._kept == {}


def test_tasks_that_are_delivered_together_let_theirs_go_together() -> None:
    call = Call()
    delivery = call.dispatch(call.read(collection(), [collection(), collection()], 1))
    assert call.kept == [True, True, True]
    call.deliver(delivery)
    assert call.kept == [False, False, False]


@pytest.mark.parametrize("together", [True, False])
def test_what_two_tasks_refer_to_stays_to_the_end(together: bool) -> None:
    call, value = Call(), collection()
    items = call.read(value, [value])
    for each in [items] if together else [items[:1], items[1:]]:
        call.deliver(call.dispatch(each))
    assert call.kept == [True]
    call.intake.inputs.forget()
    assert call.kept == [False]


def test_what_comes_again_when_it_has_gone_stays_then() -> None:
    call, value = Call(), collection()
    for _ in range(4):
        call.deliver(call.dispatch(call.read(value)))
    assert call.kept == [False, True]


def test_another_collection_in_the_place_of_one_that_is_gone_is_another() -> None:
    call = Call()
    for number in range(50):  # the ids of some are those of others before
        call.deliver(call.dispatch(call.read(collection(number))))
    assert call.kept == [False] * 50


def test_a_task_that_is_packed_while_another_is_delivered_keeps_their_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1. It is packed. 2. The only other one is delivered. 3. It is noted as read."""
    call, value = Call(), collection()
    first = call.dispatch(call.read(value))
    note_read = call.intake.inputs.note_read

    def deliver_and_note(task: Any) -> None:
        call.deliver(first)
        note_read(task)

    with monkeypatch.context() as patched:
        patched.setattr(call.intake.inputs, "note_read", deliver_and_note)
        items = call.read(value)
    (task,) = call.intake.take(items)
    assert call.kept == [True]
    assert len(call.intake.inputs.futures(task.shared.inputs)) == 1


def test_what_a_function_refers_to_stays() -> None:
    """It is packed once, and its later tasks are not looked at."""
    call, value = Call(), collection()

    def function(number: int) -> Any:
        return value, number

    for number in range(3):
        call.deliver(call.dispatch([call.intake.read(delayed(function)([number]))]))
    assert call.kept == [True]
