"""The ledger of a call: what it says to do after each event, to the letter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from joblib_distributed.data.outcome import (
    Kind,
    Missing,
    Outcome,
    not_run,
    pack_missing,
    pack_plain,
)
from joblib_distributed.data.tasks import PackedTask, PlainTasks, Tasks
from joblib_distributed.driver import call as ledger
from joblib_distributed.driver import refusals, verdicts
from joblib_distributed.driver.batching import FLIGHTS, SENDS_AT_ONCE, BatchPolicy
from joblib_distributed.driver.call import Call
from joblib_distributed.driver.entries import FAILURES_ALLOWED, RACING_ALLOWED
from joblib_distributed.driver.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptKilled,
    AttemptLost,
    Cancelled,
    ClusterFailed,
    Deliver,
    DeliverError,
    Dispatched,
    Event,
    Instruction,
    Interrupt,
    Looked,
    Recall,
    Recalled,
    Release,
    Send,
    Supplied,
    Supply,
    Withhold,
)
from joblib_distributed.errors import (
    ClusterClosedError,
    NoWorkersError,
    TaskError,
    TaskLostError,
    WorkerDiedError,
)

NOT_RUN = not_run(1)


def task(index: int, name: str = "f") -> PackedTask:
    return PackedTask(index, name, b"key of f", b"packed f", b"arguments %d" % index)


def value(index: int) -> Outcome:
    return Outcome(Kind.VALUE, 0.5, b"value %d" % index)


def error(index: int) -> Outcome:
    return Outcome(Kind.ERROR, 0.5, b"error %d" % index)


#: A worker whose host lacks a buffer.
THERE = "tcp://there:1"
MISSING = pack_missing(Missing("a host", THERE, ("a name",)))


#: What is told of by `distributed.scheduler.KilledWorker`, as far as it is used.
KILLED = SimpleNamespace(last_worker=SimpleNamespace(address="tcp://there:1"))


def killed(number: int, deaths: int = 1) -> AttemptKilled:
    detail = refusals.describe_death(KILLED, "SIGKILL")
    return AttemptKilled(key(number), detail, deaths)


def new_call(
    limit: int | None = None, retries: int = 0, stranded_timeout: float = 10
) -> Call:
    return Call("c", limit, retries, stranded_timeout)


def dispatch(call: Call, *sizes: int) -> list[PackedTask]:
    """Dispatch deliveries 0, 1, ... of these sizes; return their tasks."""
    tasks: list[PackedTask] = []
    for number, size in enumerate(sizes):
        new = [task(len(tasks) + i) for i in range(size)]
        call.handle(Dispatched(number, new))
        tasks += new
    return tasks


def key(number: int) -> str:
    return f"batch_of_f-c-{number}"


def finished(number: int, *outcomes: Outcome) -> AttemptFinished:
    return AttemptFinished(key(number), "worker", outcomes)


def alone(number: int, suspect: PackedTask) -> Send:
    return Send(key(number), [suspect], solo=True)


def message(instruction: Instruction) -> str:
    assert isinstance(instruction, DeliverError)
    return str(instruction.error)


# ------------------------------------------------------------------------- dispatching
def test_dispatched_tasks_are_sent_as_one_attempt() -> None:
    call = new_call()
    tasks = [task(0), task(1)]
    assert call.handle(Dispatched(0, tasks)) == [Send(key(1), tasks)]
    assert call.in_flight == {key(1)}
    assert call.undelivered == 1


def test_without_a_limit_everything_is_in_flight() -> None:
    call = new_call(limit=None)
    for number in range(1000):
        assert call.handle(Dispatched(number, [task(number)])) == [
            Send(key(number + 1), [task(number)])
        ]
    assert len(call.in_flight) == 1000


def test_limit_is_never_exceeded() -> None:
    call = new_call(limit=2)
    first, second, third, fourth = (task(i) for i in range(4))
    assert call.handle(Dispatched(0, [first])) == [Send(key(1), [first])]
    assert call.handle(Dispatched(1, [second])) == [Send(key(2), [second])]
    assert call.handle(Dispatched(2, [third])) == []
    assert call.handle(Dispatched(3, [fourth])) == []
    assert call.in_flight == {key(1), key(2)}
    assert call.handle(finished(2, value(1))) == [
        Deliver(1, [second], [value(1)]),
        Release([key(2)]),
        Send(key(3), [third]),
    ]
    assert call.handle(finished(3, value(2))) == [
        Deliver(2, [third], [value(2)]),
        Release([key(3)]),
        Send(key(4), [fourth]),
    ]
    assert call.in_flight == {key(1), key(4)}


def test_limit_counts_attempts_that_were_sent_again() -> None:
    call = new_call(limit=1)
    first, second = dispatch(call, 1, 1)
    assert call.handle(AttemptLost(key(1))) == [
        Release([key(1)]),
        Send(key(2), [first]),
    ]
    assert call.handle(finished(2, value(0))) == [
        Deliver(0, [first], [value(0)]),
        Release([key(2)]),
        Send(key(3), [second]),
    ]


def test_values_are_delivered_in_the_order_of_the_tasks() -> None:
    call = new_call()
    tasks = dispatch(call, 3)
    assert call.handle(finished(1, NOT_RUN, value(1), NOT_RUN)) == [
        Release([key(1)]),
        Send(key(2), [tasks[0], tasks[2]]),
    ]
    assert call.handle(finished(2, NOT_RUN, value(2))) == [
        Release([key(2)]),
        Send(key(3), [tasks[0]]),
    ]
    assert call.handle(finished(3, value(0))) == [
        Deliver(0, tasks, [value(0), value(1), value(2)]),
        Release([key(3)]),
    ]
    assert call.undelivered == 0
    assert call.in_flight == frozenset()


def test_deliveries_are_made_in_the_order_in_which_they_complete() -> None:
    call = new_call()
    first, second = dispatch(call, 1, 1)
    assert call.handle(finished(2, value(1))) == [
        Deliver(1, [second], [value(1)]),
        Release([key(2)]),
    ]
    assert call.handle(finished(1, value(0))) == [
        Deliver(0, [first], [value(0)]),
        Release([key(1)]),
    ]


# -------------------------------------------------------------------------------- keys
def test_keys_are_fresh_and_named_after_the_function() -> None:
    call = Call("the-call", limit=None, retries=5, stranded_timeout=10)
    keys = []
    for instruction in call.handle(Dispatched(0, [task(0, "fit-it"), task(1, "fit-it")])):
        assert isinstance(instruction, Send)
        keys.append(instruction.key)
    for _ in range(3):
        (_, sent) = call.handle(AttemptLost(keys[-1]))
        assert isinstance(sent, Send)
        keys.append(sent.key)
    assert keys == [f"batch_of_fit_it-the-call-{n}" for n in (1, 2, 3, 4)]


def test_mixed_batch_has_its_name_in_its_key() -> None:
    tasks = [task(0, "g"), task(1, "f")]
    assert new_call().handle(Dispatched(0, tasks)) == [
        Send("mixed_batch_of_g-c-1", tasks)
    ]


# ------------------------------------------------------------------- errors and retries
def test_error_without_retries_is_delivered_at_once() -> None:
    call = new_call(retries=0)
    (only,) = dispatch(call, 1)
    assert call.handle(finished(1, error(0))) == [
        DeliverError(0, only, error(0)),
        Release([key(1)]),
    ]
    assert call.undelivered == 0


def test_retries_are_counted_for_each_task() -> None:
    call = new_call(retries=1)
    first, second = dispatch(call, 2)
    assert call.handle(finished(1, error(0), NOT_RUN)) == [
        Release([key(1)]),
        Send(key(2), [first, second]),
    ]
    assert call.handle(finished(2, value(0), error(1))) == [
        Release([key(2)]),
        Send(key(3), [second]),
    ]
    assert call.handle(finished(3, error(1))) == [
        DeliverError(0, second, error(1)),
        Release([key(3)]),
    ]


def test_task_is_tried_once_more_for_each_retry() -> None:
    call = new_call(retries=3)
    (only,) = dispatch(call, 1)
    for number in (1, 2, 3):
        assert call.handle(finished(number, error(0))) == [
            Release([key(number)]),
            Send(key(number + 1), [only]),
        ]
    assert call.handle(finished(4, error(0))) == [
        DeliverError(0, only, error(0)),
        Release([key(4)]),
    ]


def test_retried_task_that_recovers_is_delivered() -> None:
    call = new_call(retries=1)
    tasks = dispatch(call, 2)
    call.handle(finished(1, error(0), error(1)))
    assert call.handle(finished(2, value(0), value(1))) == [
        Deliver(0, tasks, [value(0), value(1)]),
        Release([key(2)]),
    ]


def test_what_is_no_error_costs_no_retry() -> None:
    call = new_call(retries=1)
    (only,) = dispatch(call, 1)
    call.handle(AttemptLost(key(1)))
    call.handle(finished(2, NOT_RUN))
    assert call.handle(finished(3, error(0))) == [
        Release([key(3)]),
        Send(key(4), [only]),
    ]
    assert call.handle(finished(4, error(0))) == [
        DeliverError(0, only, error(0)),
        Release([key(4)]),
    ]


def test_only_the_first_error_of_a_delivery_is_delivered() -> None:
    call = new_call()
    tasks = dispatch(call, 3)
    assert call.handle(finished(1, value(0), error(1), error(2))) == [
        DeliverError(0, tasks[1], error(1)),
        Release([key(1)]),
    ]
    assert call.undelivered == 0
    assert call.in_flight == frozenset()


def test_tasks_of_a_failed_delivery_are_not_sent_again() -> None:
    call = new_call(limit=1, retries=1)
    first, second, other = dispatch(call, 2, 1)
    assert call.handle(finished(1, error(0), NOT_RUN)) == [
        Release([key(1)]),
        Send(key(2), [first, second]),
    ]
    # The first fails for good while the second was, again, not run.
    assert call.handle(finished(2, error(0), NOT_RUN)) == [
        DeliverError(0, first, error(0)),
        Release([key(2)]),
        Send(key(3), [other]),
    ]


# ----------------------------------------------------------- not run, lost, late, second
def test_what_was_not_run_is_sent_before_what_was_never_sent() -> None:
    call = new_call(limit=1)
    tasks = dispatch(call, 2, 1)
    assert call.handle(finished(1, value(0), NOT_RUN)) == [
        Release([key(1)]),
        Send(key(2), [tasks[1]]),
    ]
    assert call.handle(finished(2, value(1))) == [
        Deliver(0, tasks[:2], [value(0), value(1)]),
        Release([key(2)]),
        Send(key(3), [tasks[2]]),
    ]


def test_not_run_and_retried_tasks_go_again_in_their_order() -> None:
    call = new_call(retries=1)
    tasks = dispatch(call, 4)
    assert call.handle(finished(1, error(0), NOT_RUN, value(2), NOT_RUN)) == [
        Release([key(1)]),
        Send(key(2), [tasks[0], tasks[1], tasks[3]]),
    ]


def test_lost_attempt_is_sent_again_under_a_fresh_key() -> None:
    call = new_call()
    tasks = dispatch(call, 2)
    assert call.handle(AttemptLost(key(1))) == [
        Release([key(1)]),
        Send(key(2), tasks),
    ]
    assert call.in_flight == {key(2)}


@pytest.mark.parametrize(
    "late",
    [
        finished(1, value(0)),
        finished(1, error(0)),
        AttemptLost(key(1)),
        AttemptKilled(key(1), "detail"),
        AttemptFailed(key(1), "detail"),
        Looked(1.0, {key(1): None}, 4),
    ],
    ids=lambda event: type(event).__name__,
)
def test_late_and_second_reports_are_dropped(late: Event) -> None:
    call = new_call()
    (only,) = dispatch(call, 1)
    call.handle(AttemptLost(key(1)))
    assert call.handle(late) == []
    assert call.handle(late) == []
    assert call.in_flight == {key(2)}
    assert call.handle(finished(2, value(0))) == [
        Deliver(0, [only], [value(0)]),
        Release([key(2)]),
    ]
    assert call.handle(late) == []


def test_a_value_of_a_late_attempt_is_not_mixed_in() -> None:
    call = new_call()
    tasks = dispatch(call, 2)
    call.handle(AttemptLost(key(1)))
    late = Outcome(Kind.VALUE, 0.5, b"late")
    assert call.handle(finished(1, late, late)) == []
    assert call.handle(finished(2, value(0), value(1))) == [
        Deliver(0, tasks, [value(0), value(1)]),
        Release([key(2)]),
    ]


# ------------------------------------------------------------------- buffers not found
def lacks(number: int, *tasks: Tasks) -> Supply:
    return Supply(key(number), list(tasks), MISSING)


def supplied(number: int, along: bool = False) -> Supplied:
    return Supplied(key(number), THERE, along)


def test_what_lacks_buffers_is_sent_again_once_they_are_there() -> None:
    call = new_call()
    first, second, third = dispatch(call, 3)
    assert call.handle(finished(1, value(0), MISSING, NOT_RUN)) == [
        lacks(1, second, third),
        Release([key(1)]),
    ]
    assert call.in_flight == frozenset()
    assert call.undelivered == 1
    assert call.handle(supplied(1)) == [Send(key(2), [second, third], worker=THERE)]
    assert call.handle(finished(2, value(1), value(2))) == [
        Deliver(0, [first, second, third], [value(0), value(1), value(2)]),
        Release([key(2)]),
    ]


def test_an_attempt_that_lacks_buffers_twice_asks_for_them_once() -> None:
    call = new_call()
    first, second = dispatch(call, 2)
    other = pack_missing(Missing("another host", "tcp://elsewhere:1", ("another name",)))
    assert call.handle(finished(1, MISSING, other)) == [
        lacks(1, first, second),
        Release([key(1)]),
    ]


def test_each_attempt_that_lacks_buffers_waits_for_its_own() -> None:
    call = new_call()
    first, second = dispatch(call, 1, 1)
    assert call.handle(finished(1, MISSING)) == [lacks(1, first), Release([key(1)])]
    assert call.handle(finished(2, MISSING)) == [lacks(2, second), Release([key(2)])]
    there = Supplied(key(2), "tcp://elsewhere:1")
    assert call.handle(there) == [Send(key(3), [second], worker="tcp://elsewhere:1")]
    assert call.handle(supplied(1)) == [Send(key(4), [first], worker=THERE)]


def test_what_waits_for_buffers_leaves_its_place_to_others() -> None:
    call = new_call(limit=1)
    first, second, third = dispatch(call, 1, 1, 1)
    assert call.handle(finished(1, MISSING)) == [
        lacks(1, first),
        Release([key(1)]),
        Send(key(2), [second]),
    ]
    # The limit holds for it, too, but it goes before what was never sent.
    assert call.handle(supplied(1)) == []
    assert call.handle(finished(2, value(1))) == [
        Deliver(1, [second], [value(1)]),
        Release([key(2)]),
        Send(key(3), [first], worker=THERE),
    ]
    assert call.handle(finished(3, value(0))) == [
        Deliver(0, [first], [value(0)]),
        Release([key(3)]),
        Send(key(4), [third]),
    ]


def test_what_cannot_be_supplied_is_sent_with_its_buffers() -> None:
    call = new_call()
    first, second = dispatch(call, 2)
    assert call.handle(finished(1, MISSING, NOT_RUN)) == [
        lacks(1, first, second),
        Release([key(1)]),
    ]
    assert call.handle(supplied(1, along=True)) == [
        Send(key(2), [first, second], with_buffers=True, worker=THERE)
    ]
    # From now on, but no other task.
    assert call.handle(finished(2, value(0), NOT_RUN)) == [
        Release([key(2)]),
        Send(key(3), [second], with_buffers=True),
    ]
    third = task(2)
    assert call.handle(Dispatched(1, [third])) == [Send(key(4), [third])]


def test_a_task_that_lacks_buffers_too_often_is_sent_with_them() -> None:
    call = new_call()
    first, second = dispatch(call, 2)
    for number in range(1, ledger.MISSES_ALLOWED + 1):
        assert call.handle(finished(number, MISSING, NOT_RUN)) == [
            lacks(number, first, second),
            Release([key(number)]),
        ]
        assert call.handle(supplied(number)) == [
            Send(key(number + 1), [first, second], worker=THERE)
        ]
    # The second was not run each time: it will have lacked them as often.
    assert call.handle(finished(number + 1, value(0), MISSING)) == [
        Release([key(number + 1)]),
        Send(key(number + 2), [second], with_buffers=True),
    ]


def test_lacking_buffers_is_no_error_and_takes_no_retry() -> None:
    call = new_call(retries=1)
    (only,) = dispatch(call, 1)
    for number in (1, 2):
        assert call.handle(finished(number, MISSING)) == [
            lacks(number, only),
            Release([key(number)]),
        ]
        call.handle(supplied(number))
    call.handle(finished(3, error(0)))
    assert call.handle(finished(4, error(0))) == [
        DeliverError(0, only, error(0)),
        Release([key(4)]),
    ]


def test_a_suspect_that_lacks_buffers_runs_alone_again() -> None:
    call = new_call()
    suspect, other = dispatch(call, 1, 1)
    call.handle(finished(2, value(1)))
    assert call.handle(AttemptKilled(key(1), "")) == [
        Release([key(1)]),
        alone(3, suspect),
    ]
    assert call.handle(finished(3, MISSING)) == [lacks(3, suspect), Release([key(3)])]
    # While it waits it harms nobody; then it waits for the end of the others.
    other = task(2)
    assert call.handle(Dispatched(2, [other])) == [Send(key(4), [other])]
    assert call.handle(supplied(3)) == []
    assert call.handle(finished(4, value(2))) == [
        Deliver(2, [other], [value(2)]),
        Release([key(4)]),
        Send(key(5), [suspect], solo=True, worker=THERE),
    ]
    (_, failed) = call.handle(AttemptKilled(key(5), ""))
    assert "also when it ran alone" in message(failed)


def test_the_next_suspect_runs_while_one_waits_for_buffers() -> None:
    call = new_call()
    first, second = dispatch(call, 2)
    call.handle(AttemptKilled(key(1), ""))
    assert call.handle(finished(2, MISSING)) == [
        lacks(2, first),
        Release([key(2)]),
        alone(3, second),
    ]
    assert call.handle(supplied(2, along=True)) == []
    assert call.handle(finished(3, value(1))) == [
        Release([key(3)]),
        Send(key(4), [first], solo=True, with_buffers=True, worker=THERE),
    ]


def test_what_fails_while_its_neighbour_waits_for_buffers_is_not_sent_again() -> None:
    call = new_call()
    first, second = dispatch(call, 2)
    call.handle(AttemptKilled(key(1), ""))
    call.handle(finished(2, MISSING))
    assert call.handle(finished(3, error(1))) == [
        DeliverError(0, second, error(1)),
        Release([key(3)]),
    ]
    assert call.handle(supplied(2)) == []
    assert call.in_flight == frozenset()
    assert first.index == 0


def test_a_suspect_that_nobody_wants_any_more_keeps_nobody_waiting() -> None:
    call = new_call()
    dispatch(call, 2)
    call.handle(AttemptKilled(key(1), ""))
    call.handle(finished(2, MISSING))
    call.handle(finished(3, error(1)))
    third, fourth = task(2), task(3)
    assert call.handle(Dispatched(1, [third])) == [Send(key(4), [third])]
    assert call.handle(supplied(2)) == []
    assert call.handle(Dispatched(2, [fourth])) == [Send(key(5), [fourth])]


def test_no_buffers_are_brought_for_what_nobody_wants() -> None:
    call = new_call()
    first, second = dispatch(call, 2)
    assert call.handle(finished(1, error(0), MISSING)) == [
        DeliverError(0, first, error(0)),
        Release([key(1)]),
    ]
    assert call.handle(supplied(1)) == []
    assert second.index == 1


@pytest.mark.parametrize(
    "end",
    [Cancelled(), ClusterFailed(ClusterClosedError("closed"))],
    ids=lambda event: type(event).__name__,
)
def test_nothing_is_sent_for_buffers_that_come_after_the_end(end: Event) -> None:
    call = new_call()
    dispatch(call, 1, 1)
    call.handle(finished(1, MISSING))
    ended = call.handle(end)
    assert Release([key(2)]) in ended
    assert call.handle(supplied(1)) == []
    assert call.handle(finished(2, MISSING)) == []
    assert call.handle(supplied(2)) == []
    assert call.in_flight == frozenset()


def test_what_waits_for_buffers_fails_with_the_cluster() -> None:
    call = new_call()
    dispatch(call, 1)
    call.handle(finished(1, MISSING))
    closed = ClusterClosedError("closed")
    assert call.handle(ClusterFailed(closed)) == [DeliverError(0, None, closed)]


def test_buffers_that_nobody_waits_for_change_nothing() -> None:
    call = new_call(limit=1)
    (first, second) = dispatch(call, 1, 1)
    # Of an attempt that is unknown, or that lacked nothing.
    assert call.handle(supplied(99)) == []
    assert call.handle(supplied(1, along=True)) == []
    call.handle(finished(1, MISSING))
    call.handle(finished(2, value(1)))
    assert call.handle(supplied(1)) == [Send(key(3), [first], worker=THERE)]
    # Twice.
    assert call.handle(supplied(1, along=True)) == []
    assert call.handle(AttemptLost(key(3))) == [
        Release([key(3)]),
        Send(key(4), [first], worker=THERE),
    ]
    assert second.index == 1


# ------------------------------------------------------------- merged and parted batches
class Sizes(BatchPolicy):
    """Says what a test wants it to; notes what it is asked and told."""

    def __init__(self, size: int | None) -> None:
        super().__init__(threads=4)
        self.size = size
        self.asked: list[tuple[int, int]] = []
        self.recorded: list[tuple[int, float, int]] = []

    def next_size(
        self, waiting: int, in_flight: int, loads: Sequence[float] = ()
    ) -> int | None:
        self.asked.append((waiting, in_flight))
        return self.size

    def record(self, tasks: int, seconds: float, nbytes: int) -> None:
        self.recorded.append((tasks, seconds, nbytes))

    def lacking(self, waiting: int) -> int:
        return 1000 - waiting


BOX = Sizes(0).patience


def sized_call(
    size: int | None, limit: int | None = None, retries: int = 0
) -> tuple[Call, Sizes]:
    policy = Sizes(size)
    return Call("c", limit, retries, 10, policy), policy


def plain(index: int, size: int) -> PlainTasks:
    calls = [(i,) for i in range(index, index + size)]
    return PlainTasks(index, "f", b"key of f", b"packed f", calls)


def values(index: int, size: int) -> Outcome:
    """Return what plain neighbours gave together."""
    return Outcome(Kind.VALUE, 0.25, b"values from %d" % index, plain=size)


def boxed(number: int, *tasks: Tasks) -> Send:
    return Send(key(number), list(tasks), box=BOX)


def boxed_alone(number: int, suspect: Tasks) -> Send:
    return Send(key(number), [suspect], solo=True, box=BOX)


def merged_call(*deliveries: list[Tasks], retries: int = 0) -> tuple[Call, Sizes]:
    """Return a call that has sent deliveries 0, 1, ... in one attempt."""
    call, policy = sized_call(0, retries=retries)
    *before, last = deliveries
    for number, tasks in enumerate(before):
        assert call.handle(Dispatched(number, tasks)) == []
    policy.size = 1000
    assert call.handle(Dispatched(len(before), last)) == [
        boxed(1, *(task for tasks in deliveries for task in tasks))
    ]
    return call, policy


def test_deliveries_are_merged_and_delivered_apart() -> None:
    call, _ = merged_call([plain(0, 2)], [task(2), plain(3, 2)], [task(5)])
    assert call.in_flight == {key(1)}
    assert call.undelivered == 3
    outcomes = values(0, 2), value(2), values(3, 2), value(5)
    assert call.handle(finished(1, *outcomes)) == [
        Deliver(0, [plain(0, 2)], [values(0, 2)]),
        Deliver(1, [task(2), plain(3, 2)], [value(2), values(3, 2)]),
        Deliver(2, [task(5)], [value(5)]),
        Release([key(1)]),
    ]
    assert call.undelivered == 0


def test_a_delivery_is_cut_into_attempts() -> None:
    call, _ = sized_call(4)
    assert call.handle(Dispatched(0, [plain(0, 10)])) == [
        boxed(1, plain(0, 4)),
        boxed(2, plain(4, 4)),
        boxed(3, plain(8, 2)),
    ]


def test_values_of_many_parts_are_delivered_once_and_in_order() -> None:
    call, policy = sized_call(4)
    call.handle(Dispatched(0, [task(0), plain(1, 8), task(9)]))
    policy.size = 100
    # The last attempt ends first; of the second, something is given back twice.
    assert call.handle(finished(3, values(8, 1), value(9))) == [Release([key(3)])]
    assert call.handle(finished(2, values(4, 1), not_run(3))) == [
        Release([key(2)]),
        boxed(4, plain(5, 3)),
    ]
    assert call.handle(finished(4, value(5), not_run(2))) == [
        Release([key(4)]),
        boxed(5, plain(6, 2)),
    ]
    assert call.handle(finished(1, value(0), values(1, 3))) == [Release([key(1)])]
    parts = [task(0), plain(1, 3), plain(4, 1), plain(5, 1), plain(6, 2), plain(8, 1)]
    outcomes = [value(0), values(1, 3), values(4, 1), value(5), values(6, 2)]
    assert call.handle(finished(5, values(6, 2))) == [
        Deliver(0, [*parts, task(9)], [*outcomes, values(8, 1), value(9)]),
        Release([key(5)]),
    ]
    for number in range(1, 6):
        assert call.handle(finished(number, *[values(0, 1)] * 8)) == []


def test_an_error_among_plain_neighbours_fails_their_delivery_only() -> None:
    call, _ = merged_call([plain(0, 3)], [plain(3, 4)], [plain(7, 3)])
    outcomes = values(0, 3), values(3, 2), error(5), not_run(4)
    assert call.handle(finished(1, *outcomes)) == [
        Deliver(0, [plain(0, 3)], [values(0, 3)]),
        DeliverError(1, plain(5, 1), error(5)),
        Release([key(1)]),
        boxed(2, plain(7, 3)),
    ]
    assert call.handle(finished(2, values(7, 3))) == [
        Deliver(2, [plain(7, 3)], [values(7, 3)]),
        Release([key(2)]),
    ]


def test_what_failed_is_not_sent_again_with_what_was_merged() -> None:
    """Delivery 0 is in two attempts; the second is given back after it failed."""
    call, policy = sized_call(4)
    call.handle(Dispatched(0, [plain(0, 6)]))
    policy.size = 0
    call.handle(Dispatched(1, [plain(6, 2)]))
    assert call.handle(finished(1, error(0), not_run(3))) == [
        DeliverError(0, plain(0, 1), error(0)),
        Release([key(1)]),
    ]
    policy.size = 4
    assert call.handle(finished(2, not_run(2))) == [
        Release([key(2)]),
        boxed(3, plain(6, 2)),
    ]


def test_one_of_plain_neighbours_is_retried() -> None:
    call, _ = merged_call([plain(0, 4)], [task(4)], retries=1)
    assert call.handle(finished(1, values(0, 1), error(1), not_run(3))) == [
        Release([key(1)]),
        boxed(2, plain(1, 1), plain(2, 2), task(4)),
    ]
    # Its neighbours keep their own tries.
    assert call.handle(finished(2, values(1, 1), error(2), not_run(2))) == [
        Release([key(2)]),
        boxed(3, plain(2, 1), plain(3, 1), task(4)),
    ]
    assert call.handle(finished(3, error(2), not_run(2))) == [
        DeliverError(0, plain(2, 1), error(2)),
        Release([key(3)]),
        boxed(4, task(4)),
    ]


def test_a_death_makes_each_of_plain_neighbours_a_suspect_alone() -> None:
    call, _ = merged_call([plain(0, 3)], [task(3)], [plain(4, 1)])
    assert call.handle(AttemptKilled(key(1), "")) == [
        Release([key(1)]),
        boxed_alone(2, plain(0, 1)),
    ]
    for index in range(2):
        assert call.handle(finished(2 + index, values(index, 1))) == [
            Release([key(2 + index)]),
            boxed_alone(3 + index, plain(index + 1, 1)),
        ]
    release, failed, sent = call.handle(AttemptKilled(key(4), "It died."))
    assert release == Release([key(4)])
    assert isinstance(failed, DeliverError)
    assert (failed.delivery, failed.task) == (0, plain(2, 1))
    assert message(failed).startswith("Task 2 (f) killed the worker processes")
    assert sent == boxed_alone(5, task(3))
    call.handle(finished(5, value(3)))
    assert call.handle(finished(6, values(4, 1))) == [
        Deliver(2, [plain(4, 1)], [values(4, 1)]),
        Release([key(6)]),
    ]


def test_suspects_are_not_merged_with_what_waits() -> None:
    call, policy = sized_call(2)
    call.handle(Dispatched(0, [plain(0, 2)]))
    policy.size = 0
    call.handle(Dispatched(1, [plain(2, 2)]))
    policy.size = 100
    assert call.handle(AttemptKilled(key(1), "")) == [
        Release([key(1)]),
        boxed_alone(2, plain(0, 1)),
    ]
    # One that is not run stays a suspect.
    assert call.handle(finished(2, not_run(1))) == [
        Release([key(2)]),
        boxed_alone(3, plain(0, 1)),
    ]
    call.handle(finished(3, values(0, 1)))
    assert call.handle(finished(4, values(1, 1))) == [
        Deliver(0, [plain(0, 1), plain(1, 1)], [values(0, 1), values(1, 1)]),
        Release([key(4)]),
        boxed(5, plain(2, 2)),
    ]


def test_what_waits_for_buffers_is_merged_with_nothing() -> None:
    call, policy = merged_call([plain(0, 2)], [task(2)])
    assert call.handle(finished(1, values(0, 1), MISSING, not_run(1))) == [
        lacks(1, plain(1, 1), task(2)),
        Release([key(1)]),
    ]
    policy.size = 0
    assert call.handle(Dispatched(2, [plain(3, 2)])) == []
    policy.size = 1
    assert call.handle(supplied(1)) == [
        Send(key(2), [plain(1, 1)], worker=THERE, box=BOX),
        Send(key(3), [task(2)], worker=THERE, box=BOX),
        boxed(4, plain(3, 1)),
        boxed(5, plain(4, 1)),
    ]


def test_what_is_given_back_is_bound_for_no_worker_any_more() -> None:
    call, policy = merged_call([plain(0, 4)])
    call.handle(finished(1, MISSING, not_run(3)))
    policy.size = 4
    assert call.handle(supplied(1)) == [
        Send(key(2), [plain(0, 1), plain(1, 3)], worker=THERE, box=BOX)
    ]
    policy.size = 2
    assert call.handle(finished(2, values(0, 1), not_run(3))) == [
        Release([key(2)]),
        boxed(3, plain(1, 2)),
        boxed(4, plain(3, 1)),
    ]


def test_a_hundred_are_sent_before_anything_else_is_heard() -> None:
    call = new_call()
    for number in range(150):
        call.note(Dispatched(number, [task(number)]))
    assert len(call.send()) == SENDS_AT_ONCE
    assert call.can_send
    assert len(call.send()) == 150 - SENDS_AT_ONCE
    assert not call.can_send


def test_nothing_is_delivered_of_outcomes_that_are_not_its_tasks() -> None:
    call = new_call()
    dispatch(call, 1)
    call.handle(Dispatched(1, [task(1)]))
    with pytest.raises(ValueError, match="more outcomes"):
        call.handle(finished(1, value(0), value(1)))
    assert call.undelivered == 2


def test_plain_neighbours_whose_function_lacks_buffers_wait_for_them() -> None:
    call, _ = merged_call([plain(0, 3)])
    assert call.handle(finished(1, MISSING, not_run(2))) == [
        lacks(1, plain(0, 1), plain(1, 2)),
        Release([key(1)]),
    ]
    assert call.handle(supplied(1)) == [
        Send(key(2), [plain(0, 1), plain(1, 2)], worker=THERE, box=BOX)
    ]
    assert call.handle(finished(2, values(0, 1), values(1, 2))) == [
        Deliver(0, [plain(0, 1), plain(1, 2)], [values(0, 1), values(1, 2)]),
        Release([key(2)]),
    ]


def test_merged_deliveries_that_are_lost_are_sent_again() -> None:
    call, _ = merged_call([plain(0, 2)], [task(2)])
    assert call.handle(AttemptLost(key(1))) == [
        Release([key(1)]),
        boxed(2, plain(0, 2), task(2)),
    ]


def test_merged_deliveries_that_are_lost_for_ever_fail_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verdicts, "LOSSES_ALLOWED", 0)
    call, _ = merged_call([plain(0, 2), task(2)], [plain(3, 2)])
    release, *failed = call.handle(AttemptLost(key(1)))
    assert release == Release([key(1)])
    assert [(f.delivery, f.task) for f in failed if isinstance(f, DeliverError)] == [
        (0, plain(0, 2)),
        (1, plain(3, 2)),
    ]
    assert message(failed[1]).startswith("Task 3 (f) was lost by the cluster 1 times.")


def test_merged_deliveries_that_cannot_run_fail_each() -> None:
    call, _ = merged_call([plain(0, 2), task(2)], [plain(3, 2)])
    _, *failed = call.handle(AttemptFailed(key(1), "It could not."))
    assert [(f.delivery, f.task) for f in failed if isinstance(f, DeliverError)] == [
        (0, plain(0, 2)),
        (1, plain(3, 2)),
    ]
    assert call.undelivered == 0


def test_the_patience_of_what_is_merged_is_that_of_the_one_tried_most() -> None:
    call, policy = merged_call([task(0)])
    policy.size = 0
    *before, last = look(call, 1, *[None] * 30)
    assert last == [Release([key(1)])]
    policy.size = 9
    assert call.handle(Dispatched(1, [task(1)])) == [boxed(2, task(0), task(1))]
    *before, last = look(call, 2, *[None] * 60)
    assert before == [[]] * 59
    assert last == [Release([key(2)]), boxed(3, task(0), task(1))]


def test_the_policy_is_asked_what_to_send_until_it_says_to_wait() -> None:
    call, policy = sized_call(0)
    call.handle(Dispatched(0, [plain(0, 5)]))
    assert policy.asked == [(5, 0)]
    policy.size = 4
    call.handle(Dispatched(1, [task(5), task(6)]))
    assert policy.asked == [(5, 0), (7, 0), (3, 1)]
    assert call.in_flight == {key(1), key(2)}


def test_the_limit_holds_for_what_the_policy_would_send() -> None:
    call, policy = sized_call(2, limit=1)
    assert call.handle(Dispatched(0, [plain(0, 5)])) == [boxed(1, plain(0, 2))]
    assert call.handle(finished(1, values(0, 2))) == [
        Release([key(1)]),
        boxed(2, plain(2, 2)),
    ]
    assert policy.asked == [(5, 0), (3, 0)]


def test_a_policy_may_leave_batches_as_they_are() -> None:
    call, _ = sized_call(None)
    for number, tasks in enumerate([[plain(0, 50)], [task(50), plain(51, 2)]]):
        assert call.handle(Dispatched(number, tasks)) == [boxed(number + 1, *tasks)]


def test_what_is_given_back_is_merged_with_what_waits() -> None:
    call, policy = sized_call(3)
    call.handle(Dispatched(0, [plain(0, 3)]))
    policy.size = 0
    call.handle(Dispatched(1, [plain(3, 3)]))
    policy.size = 4
    assert call.handle(finished(1, values(0, 1), not_run(2))) == [
        Release([key(1)]),
        boxed(2, plain(1, 2), plain(3, 2)),
        boxed(3, plain(5, 1)),
    ]


def test_the_policy_is_told_what_values_cost() -> None:
    call, policy = merged_call([plain(0, 3)], [task(3), task(4)])
    call.handle(finished(1, values(0, 3), value(3), error(4)))
    assert policy.recorded == [
        (3, 0.25, plain(0, 3).nbytes),
        (1, 0.5, len(b"arguments 3")),
    ]


def test_late_values_teach_nothing() -> None:
    call, policy = merged_call([task(0)])
    call.handle(AttemptLost(key(1)))
    call.handle(finished(1, value(0)))
    assert policy.recorded == []


def test_joblib_is_to_add_to_what_waits() -> None:
    call, policy = sized_call(0)
    assert call.lacking == 1000
    call.handle(Dispatched(0, [plain(0, 40), task(40)]))
    assert call.lacking == 959
    policy.size = 40
    call.handle(Dispatched(1, [plain(41, 3)]))
    assert call.lacking == 1000
    call.handle(Cancelled())
    assert call.lacking == 0
    assert new_call().lacking == 0


def test_nothing_waits_after_the_end() -> None:
    call, policy = sized_call(0)
    call.handle(Dispatched(0, [plain(0, 40)]))
    call.handle(Cancelled())
    policy.size = 10
    assert call.handle(Dispatched(1, [task(40)])) == []
    assert policy.asked == [(40, 0)]


def test_merged_batches_are_named_after_their_functions() -> None:
    call, policy = sized_call(0)
    call.handle(Dispatched(0, [plain(0, 2)]))
    policy.size = 10
    (sent,) = call.handle(Dispatched(1, [task(2, "g")]))
    assert isinstance(sent, Send)
    assert sent.key == "mixed_batch_of_f-c-1"


def test_tasks_that_turn_out_to_be_long_are_not_sent_together() -> None:
    """They were handed over when others were short; threads would have nothing to do."""
    policy = BatchPolicy(threads=4)
    policy.record(1, 10.0, 0)
    call = Call("c", None, 0, 10, policy)
    sent = call.handle(Dispatched(0, [plain(0, 4), *(task(4 + i) for i in range(4))]))
    assert len(sent) >= 4


# ------------------------------------------------------------------------------- killed
def test_suspects_run_one_at_a_time_once_nothing_else_does() -> None:
    call = new_call(limit=2)
    tasks = dispatch(call, 2, 1, 1)
    # Attempt 2 still runs: the suspects wait for its end, and nothing new begins.
    assert call.handle(AttemptKilled(key(1), "detail")) == [Release([key(1)])]
    assert call.handle(Dispatched(3, [task(4)])) == []
    assert call.handle(finished(2, value(2))) == [
        Deliver(1, [tasks[2]], [value(2)]),
        Release([key(2)]),
        alone(3, tasks[0]),
    ]
    assert call.in_flight == {key(3)}
    assert call.handle(finished(3, value(0))) == [
        Release([key(3)]),
        alone(4, tasks[1]),
    ]
    # The last suspect is innocent: the rest goes on, up to the limit.
    assert call.handle(finished(4, value(1))) == [
        Deliver(0, tasks[:2], [value(0), value(1)]),
        Release([key(4)]),
        Send(key(5), [tasks[3]]),
        Send(key(6), [task(4)]),
    ]


def test_poison_is_failed_by_name_and_its_neighbours_are_delivered() -> None:
    call = new_call()
    tasks = dispatch(call, 1, 1, 1)
    assert call.handle(AttemptKilled(key(1), "")) == [Release([key(1)])]
    assert call.handle(AttemptKilled(key(2), "")) == [Release([key(2)])]
    assert call.handle(AttemptKilled(key(3), "")) == [
        Release([key(3)]),
        alone(4, tasks[0]),
    ]
    assert call.handle(finished(4, value(0))) == [
        Deliver(0, [tasks[0]], [value(0)]),
        Release([key(4)]),
        alone(5, tasks[1]),
    ]
    release, failed, sent = call.handle(killed(5))
    assert release == Release([key(5)])
    assert sent == alone(6, tasks[2])
    assert isinstance(failed, DeliverError)
    assert (failed.delivery, failed.task) == (1, tasks[1])
    assert type(failed.error) is WorkerDiedError
    assert (failed.error.index, failed.error.function) == (1, "f")
    assert str(failed.error) == (
        "Task 1 (f) killed the worker processes that ran it, also when it ran alone: 1 "
        "worker died, the last one tcp://there:1 (SIGKILL). That is more than "
        "deaths_allowed=0. The likely causes are a crash in native code, os._exit, or "
        "more memory than the worker may use. Run this task by itself to see, or give "
        "workers more memory."
    )
    assert call.handle(finished(6, value(2))) == [
        Deliver(2, [tasks[2]], [value(2)]),
        Release([key(6)]),
    ]


def test_deaths_allowed() -> None:
    call = Call("c", None, 0, 10, deaths_allowed=2)
    (only,) = dispatch(call, 1)
    for number in (1, 2, 3):
        assert call.handle(AttemptKilled(key(number), "")) == [
            Release([key(number)]),
            alone(number + 1, only),
        ]
    assert [type(i) for i in call.handle(AttemptKilled(key(4), ""))] == [
        Release,
        DeliverError,
    ]


def test_each_death_counts_and_the_limit_is_named() -> None:
    call = Call("c", None, 0, 10, deaths_allowed=6)
    (only,) = dispatch(call, 1)
    for number in (1, 2):
        assert call.handle(AttemptKilled(key(number), "", deaths=4)) == [
            Release([key(number)]),
            alone(number + 1, only),
        ]
    release, failed = call.handle(killed(3, deaths=4))
    assert release == Release([key(3)])
    assert isinstance(failed, DeliverError)
    assert (
        "also when it ran alone: 8 workers died in turn, the last one tcp://there:1 "
        "(SIGKILL). That is more than deaths_allowed=6." in str(failed.error)
    )


def test_a_withheld_error_leaves_the_others_of_its_delivery() -> None:
    call = new_call()
    call.withholds = True
    bad, good = dispatch(call, 2)[:2]
    call.handle(AttemptKilled(key(1), ""))
    release, withhold, sent = call.handle(AttemptKilled(key(2), "It died."))
    assert release == Release([key(2)])
    assert isinstance(withhold, Withhold)
    assert isinstance(withhold.error, WorkerDiedError)
    assert withhold.error.index == bad.index
    assert sent == alone(3, good)
    assert call.handle(finished(3, value(good.index))) == [
        Deliver(0, [good], [value(good.index)]),
        Release([key(3)]),
    ]
    assert call.undelivered == 0


def test_a_delivery_of_nothing_but_withheld_errors_is_empty() -> None:
    call = new_call()
    call.withholds = True
    dispatch(call, 1)
    call.handle(AttemptKilled(key(1), ""))
    _, withhold, delivered = call.handle(AttemptKilled(key(2), ""))
    assert isinstance(withhold, Withhold)
    assert delivered == Deliver(0, [], [])


def test_other_errors_are_not_withheld() -> None:
    call = new_call()
    call.withholds = True
    (only,) = dispatch(call, 1)
    assert call.handle(finished(1, error(0))) == [
        DeliverError(0, only, error(0)),
        Release([key(1)]),
    ]


def test_suspect_that_is_lost_or_not_run_or_retried_stays_alone() -> None:
    call = new_call(retries=1)
    first, second = dispatch(call, 1, 1)
    call.handle(AttemptKilled(key(1), ""))
    assert call.handle(AttemptKilled(key(2), "")) == [
        Release([key(2)]),
        alone(3, first),
    ]
    for number, event in (
        (3, AttemptLost(key(3))),
        (4, finished(4, NOT_RUN)),
        (5, finished(5, error(0))),
    ):
        assert call.handle(event) == [
            Release([key(number)]),
            alone(number + 1, first),
        ]
    assert call.handle(finished(6, error(0))) == [
        DeliverError(0, first, error(0)),
        Release([key(6)]),
        alone(7, second),
    ]


def test_suspects_of_a_failed_delivery_are_not_run() -> None:
    call = new_call()
    tasks = dispatch(call, 3, 1)
    call.handle(finished(2, value(3)))
    assert call.handle(AttemptKilled(key(1), "")) == [
        Release([key(1)]),
        alone(3, tasks[0]),
    ]
    assert call.handle(finished(3, error(0))) == [
        DeliverError(0, tasks[0], error(0)),
        Release([key(3)]),
    ]
    assert call.in_flight == frozenset()
    late = task(4)
    assert call.handle(Dispatched(2, [late])) == [Send(key(4), [late])]


def test_two_killed_attempts_make_suspects_in_their_order() -> None:
    call = new_call()
    tasks = dispatch(call, 2, 2)
    assert call.handle(AttemptKilled(key(2), "")) == [Release([key(2)])]
    sent = [*call.handle(AttemptKilled(key(1), ""))]
    order = []
    for number in range(3, 7):
        (send,) = (i for i in sent if isinstance(i, Send))
        order += send.tasks
        sent = call.handle(finished(number, value(send.tasks[0].index)))
    assert order == [tasks[2], tasks[3], tasks[0], tasks[1]]
    assert call.undelivered == 0


def test_detail_of_a_shared_death_is_not_held_against_the_innocent() -> None:
    call = new_call()
    tasks = dispatch(call, 2)
    assert call.handle(AttemptKilled(key(1), "the first worker")) == [
        Release([key(1)]),
        alone(2, tasks[0]),
    ]
    call.handle(finished(2, value(0)))
    assert "the last worker" in message(
        call.handle(AttemptKilled(key(3), "the last worker"))[1]
    )


# ------------------------------------------------------------------------------- failed
def test_failed_attempt_fails_its_deliveries() -> None:
    call = new_call(limit=1)
    tasks = dispatch(call, 2, 1)
    release, failed, sent = call.handle(AttemptFailed(key(1), "ImportError: no joblib."))
    assert release == Release([key(1)])
    assert sent == Send(key(2), [tasks[2]])
    assert isinstance(failed, DeliverError)
    assert (failed.delivery, failed.task) == (0, tasks[0])
    assert type(failed.error) is TaskLostError
    assert (failed.error.index, failed.error.function) == (0, "f")
    assert str(failed.error) == (
        "Task 0 (f) could not be started, or gave nothing that could be had: "
        "ImportError: no joblib. If a module is missing on the workers, install "
        "joblib-distributed and joblib there."
    )


def test_what_could_not_be_begun_is_tried_again() -> None:
    """Threads of a new process that import at a time may be in each other's way."""
    call = new_call(limit=1)
    tasks = dispatch(call, 2, 1)
    for number in range(1, FAILURES_ALLOWED + 1):
        failed = AttemptFailed(key(number), "ImportError: half.", never_began=True)
        assert call.handle(failed) == [
            Release([key(number)]),
            Send(key(number + 1), tasks[:2]),
        ]
    last = FAILURES_ALLOWED + 1
    failed = AttemptFailed(key(last), "ImportError: gone.", never_began=True)
    release, error, sent = call.handle(failed)
    assert release == Release([key(last)])
    assert sent == Send(key(last + 1), [tasks[2]])
    assert isinstance(error, DeliverError)
    assert message(error).startswith("Task 0 (f) could not be started")
    assert "ImportError: gone." in message(error)


def test_what_could_not_be_begun_is_no_suspect() -> None:
    """But a suspect stays one."""
    call = new_call()
    (only,) = dispatch(call, 1)
    call.handle(AttemptKilled(key(1), ""))
    failed = AttemptFailed(key(2), "ImportError: half.", never_began=True)
    assert call.handle(failed) == [Release([key(2)]), alone(3, only)]


# ------------------------------------------------------------------------------- looked
def look(
    call: Call, number: int, *states: str | None, start: float = 0
) -> list[list[Instruction]]:
    """Look at an attempt once for each state; return what each look gave."""
    return [
        call.handle(Looked(start + i, {key(number): state}, 4))
        for i, state in enumerate(states)
    ]


def test_attempt_that_arrived_and_is_unknown_twice_in_a_row_is_sent_again() -> None:
    call = new_call()
    tasks = dispatch(call, 2)
    assert look(call, 1, "processing", None) == [[], []]
    assert look(call, 1, None) == [[Release([key(1)]), Send(key(2), tasks)]]


def test_attempt_on_its_way_is_given_time() -> None:
    """It is behind others in a buffer: a second copy would make that longer."""
    call = new_call()
    tasks = dispatch(call, 2)
    *before, last = look(call, 1, *[None] * 30)
    assert before == [[]] * 29
    assert last == [Release([key(1)]), Send(key(2), tasks)]


def test_time_is_doubled_each_time_it_did_not_suffice() -> None:
    call = new_call()
    (only,) = dispatch(call, 1)
    for number, patience in ((1, 30), (2, 60), (3, 120)):
        *before, last = look(call, number, *[None] * patience)
        assert before == [[]] * (patience - 1)
        assert last == [Release([key(number)]), Send(key(number + 1), [only])]


def test_the_time_given_to_one_batch_is_not_given_to_the_next() -> None:
    call = new_call(limit=1)
    _, second = dispatch(call, 1, 1)
    look(call, 1, *[None] * 30)
    assert call.handle(finished(2, value(0)))[-1] == Send(key(3), [second])
    *before, last = look(call, 3, *[None] * 30)
    assert before == [[]] * 29
    assert last == [Release([key(3)]), Send(key(4), [second])]


def test_losing_what_arrived_costs_no_patience() -> None:
    call = new_call()
    (only,) = dispatch(call, 1)
    look(call, 1, "processing", None, None)
    *before, last = look(call, 2, *[None] * 30)
    assert before == [[]] * 29
    assert last == [Release([key(2)]), Send(key(3), [only])]


def test_attempt_arrives_only_once() -> None:
    """Known, then unknown in looks that are not in a row, then in a row."""
    call = new_call()
    dispatch(call, 1)
    assert look(call, 1, None, None, None, "queued", None, "waiting", None) == [[]] * 7
    assert len(look(call, 1, None)[0]) == 2


@pytest.mark.parametrize("known", ["processing", "queued", "waiting", "memory"])
def test_attempt_that_is_known_in_between_is_left_alone(known: str) -> None:
    call = new_call()
    dispatch(call, 1)
    for now in range(0, 30, 2):
        assert call.handle(Looked(now, {key(1): None}, 4)) == []
        assert call.handle(Looked(now + 1, {key(1): known}, 4)) == []


def test_attempt_not_asked_about_is_left_alone() -> None:
    call = new_call()
    dispatch(call, 1)
    for now in range(10):
        assert call.handle(Looked(now, {}, 4)) == []
    assert call.handle(Looked(11, {key(1): None}, 4)) == []


def test_erred_attempt_of_which_no_error_was_heard_counts_as_unknown() -> None:
    call = new_call()
    (only,) = dispatch(call, 1)
    assert look(call, 1, "erred", None) == [[], [Release([key(1)]), Send(key(2), [only])]]


def test_attempt_that_erred_on_its_first_sight_has_arrived() -> None:
    call = new_call()
    (only,) = dispatch(call, 1)
    assert look(call, 1, None, None, None, "erred") == [
        *[[]] * 3,
        [Release([key(1)]), Send(key(2), [only])],
    ]


def test_fresh_attempt_starts_with_no_looks_against_it() -> None:
    call = new_call()
    (only,) = dispatch(call, 1)
    look(call, 1, "processing", None, None)
    assert look(call, 2, "processing", None) == [[], []]
    assert look(call, 2, None) == [[Release([key(2)]), Send(key(3), [only])]]


def test_solo_attempt_found_lost_is_sent_alone_again() -> None:
    call = new_call()
    first, _ = dispatch(call, 1, 1)
    call.handle(AttemptKilled(key(1), ""))
    call.handle(AttemptKilled(key(2), ""))
    assert look(call, 3, "processing", None, None) == [
        [],
        [],
        [Release([key(3)]), alone(4, first)],
    ]


# ------------------------------------------------------------------- lost without an end
def test_task_that_is_lost_for_ever_is_failed() -> None:
    call = new_call()
    first, second = dispatch(call, 2)
    for number in range(1, verdicts.LOSSES_ALLOWED + 1):
        assert call.handle(AttemptLost(key(number))) == [
            Release([key(number)]),
            Send(key(number + 1), [first, second]),
        ]
    release, failed = call.handle(AttemptLost(key(101)))
    assert release == Release([key(101)])
    assert isinstance(failed, DeliverError)
    assert (failed.delivery, failed.task) == (0, first)
    assert type(failed.error) is TaskLostError
    assert (failed.error.index, failed.error.function) == (0, "f")
    assert str(failed.error) == (
        "Task 0 (f) was lost by the cluster 101 times. Either somebody else cancels it, "
        "or its workers or the scheduler are restarted all the time: look at the "
        "scheduler's log."
    )
    assert call.in_flight == frozenset()


def test_losses_are_counted_for_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "LOSSES_ALLOWED", 1)
    call = new_call(limit=1)
    _, second, other = dispatch(call, 2, 1)
    call.handle(AttemptLost(key(1)))
    call.handle(finished(2, value(0), NOT_RUN))
    release, failed, sent = call.handle(AttemptLost(key(3)))
    assert release == Release([key(3)])
    assert isinstance(failed, DeliverError)
    assert failed.task == second
    assert sent == Send(key(4), [other])
    assert call.handle(AttemptLost(key(4))) == [
        Release([key(4)]),
        Send(key(5), [other]),
    ]


def test_suspect_that_is_lost_for_ever_is_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "LOSSES_ALLOWED", 0)
    call = new_call()
    first, second = dispatch(call, 1, 1)
    call.handle(AttemptKilled(key(1), ""))
    call.handle(AttemptKilled(key(2), ""))
    release, failed, sent = call.handle(AttemptLost(key(3)))
    assert release == Release([key(3)])
    assert isinstance(failed, DeliverError)
    assert failed.task == first
    assert sent == alone(4, second)


# ----------------------------------------------------------------------------- stranded
def renew(call: Call, number: int) -> None:
    """Have the scheduler say for the first time that no worker takes an attempt."""
    released, sent = call.handle(Looked(0, {key(number): "no-worker"}, 4))
    assert released == Release([key(number)])
    assert isinstance(sent, Send)


def test_what_no_worker_takes_is_sent_anew_once_and_to_any() -> None:
    call = new_call()
    (only,) = dispatch(call, 1)
    call.handle(finished(1, MISSING))
    assert call.handle(supplied(1)) == [Send(key(2), [only], worker=THERE)]
    assert call.handle(Looked(0, {key(2): "no-worker"}, 4)) == [
        Release([key(2)]),
        Send(key(3), [only], anywhere=True),
    ]
    assert call.handle(Looked(1, {key(3): "no-worker"}, 4)) == []


def test_what_was_taken_and_lost_its_worker_again_is_sent_anew_again() -> None:
    """All workers of a cluster may be restarted twice in a call."""
    call = new_call(stranded_timeout=10)
    (only,) = dispatch(call, 1)
    renew(call, 1)
    assert call.handle(Looked(1, {key(2): None}, 4)) == []
    assert call.handle(Looked(2, {key(2): "processing"}, 4)) == []
    assert call.handle(Looked(100, {key(2): "no-worker"}, 4)) == [
        Release([key(2)]),
        Send(key(3), [only], anywhere=True),
    ]
    assert call.handle(Looked(105, {key(3): "processing"}, 4)) == []
    release, sent = call.handle(AttemptLost(key(3)))
    assert (release, sent) == (Release([key(3)]), Send(key(4), [only]))


def test_nothing_is_sent_anew_while_the_cluster_has_no_worker() -> None:
    call = new_call()
    dispatch(call, 1)
    assert call.handle(Looked(0, {key(1): "no-worker"}, 0)) == []


def test_stranded_attempt_is_given_up_after_the_timeout() -> None:
    call = new_call(stranded_timeout=10)
    tasks = dispatch(call, 2, 1)
    renew(call, 1)
    states = {key(3): "no-worker", key(2): "processing"}
    assert call.handle(Looked(3, states, 4, constrained=True)) == []
    assert call.handle(Looked(9.9, states, 4, constrained=True)) == []
    release, failed = call.handle(Looked(10, states, 4, constrained=True))
    assert release == Release([key(3)])
    assert isinstance(failed, DeliverError)
    assert (failed.delivery, failed.task) == (0, tasks[0])
    assert type(failed.error) is NoWorkersError
    assert str(failed.error) == (
        "Task 0 (f) found no worker for 10 seconds (wait_for_workers_timeout=10): the "
        "cluster has 4 threads, but none that the options workers= and resources= allow. "
        "Correct them, or start such a worker."
    )
    assert call.in_flight == {key(2)}


def test_stranded_attempt_that_any_worker_might_take() -> None:
    call = new_call(stranded_timeout=0)
    dispatch(call, 1)
    renew(call, 1)
    _, failed = call.handle(Looked(1, {key(2): "no-worker"}, 4, constrained=False))
    assert message(failed) == (
        "Task 0 (f) found no worker for 0 seconds (wait_for_workers_timeout=0): the "
        "cluster has 4 threads, but takes no tasks: its workers are probably paused, "
        "which dask does when their memory is nearly full. Give them more memory, or the "
        "call smaller tasks."
    )


@pytest.mark.parametrize("constrained", [False, True])
def test_cluster_without_threads_strands_every_attempt(constrained: bool) -> None:
    call = new_call(stranded_timeout=2.5)
    tasks = dispatch(call, 1, 1)
    states = {key(1): "queued", key(2): "processing"}
    assert call.handle(Looked(100, states, 0, constrained)) == []
    instructions = call.handle(Looked(102.5, states, 0, constrained))
    assert [type(i) for i in instructions] == [Release, DeliverError] * 2
    assert [i.task for i in instructions if isinstance(i, DeliverError)] == tasks
    assert message(instructions[1]) == (
        "Task 0 (f) found no worker for 2.5 seconds (wait_for_workers_timeout=2.5): the "
        "cluster has no worker. Start workers, or raise that option."
    )
    assert call.undelivered == 0


def test_attempt_that_finds_a_worker_is_not_stranded_any_more() -> None:
    call = new_call(stranded_timeout=10)
    dispatch(call, 1)
    renew(call, 1)
    assert call.handle(Looked(0, {key(2): "no-worker"}, 4)) == []
    assert call.handle(Looked(9, {key(2): "processing"}, 4)) == []
    assert len(call.handle(Looked(10, {key(2): "no-worker"}, 4))) == 2
    assert call.handle(Looked(19, {key(3): "no-worker"}, 4)) == []
    assert len(call.handle(Looked(20, {key(3): "no-worker"}, 4))) == 2


def looked(
    now: float, states: dict[str, str | None], threads: int, sent: float
) -> Looked:
    return Looked(now, states, threads, sent_at=dict.fromkeys(states, sent))


def given_up_at(call: Call, looks: list[Looked]) -> float | None:
    """Return the time of the look at which the call gives up."""
    for look in looks:
        if any(isinstance(i, DeliverError) for i in call.handle(look)):
            return look.now
    return None


def test_time_without_a_worker_counts_from_when_it_was_sent_first() -> None:
    """Not from the looks, which come later; nor from when it was sent anew."""
    call = new_call(stranded_timeout=10)
    dispatch(call, 1)
    call.handle(looked(103, {key(1): "no-worker"}, 4, sent=100))
    later = [looked(now, {key(2): "no-worker"}, 4, sent=103) for now in (106, 109, 110)]
    assert given_up_at(call, later) == 110


def test_what_is_sent_once_more_for_another_reason_counts_anew() -> None:
    call = new_call(stranded_timeout=10)
    dispatch(call, 1)
    call.handle(looked(103, {key(1): "no-worker"}, 4, sent=100))
    call.handle(looked(106, {key(2): "processing"}, 4, sent=103))
    call.handle(AttemptLost(key(2)))
    call.handle(looked(110, {key(3): "no-worker"}, 4, sent=107))
    later = [looked(now, {key(4): "no-worker"}, 4, sent=110) for now in (113, 116, 117)]
    assert given_up_at(call, later) == 117


def test_time_without_a_worker_counts_from_when_the_cluster_had_threads() -> None:
    call = new_call(stranded_timeout=10)
    dispatch(call, 1)
    call.handle(looked(101, {}, 4, sent=100))
    call.handle(looked(102, {}, 4, sent=100))
    states = {key(1): "processing"}
    later = [looked(now, states, 0, sent=100) for now in (103, 110, 111, 112)]
    assert given_up_at(call, later) == 112


@pytest.mark.parametrize(("threads", "state"), [(0, "queued"), (4, "no-worker")])
def test_time_with_a_worker_does_not_count(threads: int, state: str) -> None:
    """However long ago it was sent."""
    call = new_call(stranded_timeout=10)
    dispatch(call, 1)
    renew(call, 1)
    call.handle(looked(103, {key(2): "processing"}, 4, sent=100))
    call.handle(looked(1000, {key(2): state}, threads, sent=100))
    (last,) = call.in_flight
    later = [looked(now, {last: state}, threads, sent=1000) for now in (1009, 1010)]
    assert given_up_at(call, later) == 1010


def test_threads_that_come_back_end_the_stranding() -> None:
    call = new_call(stranded_timeout=10)
    dispatch(call, 1)
    assert call.handle(Looked(0, {key(1): "queued"}, 0)) == []
    assert call.handle(Looked(9, {key(1): "queued"}, 1)) == []
    assert call.handle(Looked(11, {key(1): "queued"}, 0)) == []


def test_endless_timeout_never_gives_up() -> None:
    call = new_call(stranded_timeout=math.inf)
    dispatch(call, 1)
    for now in (0, 1e6, 1e12):
        assert call.handle(Looked(now, {key(1): "no-worker"}, 0)) == []


def test_timeout_of_zero_gives_up_at_the_first_look_at_what_was_sent_anew() -> None:
    call = new_call(stranded_timeout=0)
    dispatch(call, 1)
    renew(call, 1)
    assert [type(i) for i in call.handle(Looked(5, {key(2): "no-worker"}, 4))] == [
        Release,
        DeliverError,
    ]


# ------------------------------------------------------------------------------- raced
def silence(call: Call, *numbers: int, now: float = 0) -> list[Instruction]:
    """Look at all attempts; the workers that have these have stopped reporting."""
    states = dict.fromkeys(sorted(call.in_flight), "processing")
    return call.handle(Looked(now, states, 4, silent=frozenset(map(key, numbers))))


def raced(
    *sizes: int, limit: int | None = None, retries: int = 0
) -> tuple[Call, list[PackedTask]]:
    """Return a call whose first attempt is raced by its last; and all tasks."""
    call = new_call(limit, retries)
    tasks = dispatch(call, *sizes)
    assert silence(call, 1) == [Send(key(len(sizes) + 1), tasks[: sizes[0]])]
    return call, tasks


def raced_suspect(*others: int) -> tuple[Call, list[PackedTask]]:
    """Return a call whose suspect, task 0, is out as attempts 2 and 3; and all tasks."""
    call = new_call()
    tasks = dispatch(call, 1)
    call.handle(AttemptKilled(key(1), ""))
    for number, size in enumerate(others, 1):
        new = [task(len(tasks) + i) for i in range(size)]
        assert call.handle(Dispatched(number, new)) == []
        tasks += new
    # Not the turn of the second one: it is that of the first.
    assert silence(call, 2) == [Send(key(3), tasks[:1])]
    return call, tasks


def test_what_a_silent_worker_has_is_sent_again_once() -> None:
    call = new_call()
    tasks = dispatch(call, 2, 1)
    assert silence(call) == []
    assert silence(call, 1) == [Send(key(3), tasks[:2])]
    for now in range(100):
        assert silence(call, 1, now=now) == []
    assert call.in_flight == {key(1), key(2), key(3)}


def test_only_what_was_looked_at_is_raced() -> None:
    call = new_call()
    first, _ = dispatch(call, 1, 1)
    both = frozenset([key(1), key(2)])
    assert call.handle(Looked(0, {key(1): "processing"}, 4, silent=both)) == [
        Send(key(3), [first])
    ]


def test_all_that_silent_workers_have_is_raced() -> None:
    call = new_call()
    first, _, third = dispatch(call, 1, 1, 1)
    assert silence(call, 1, 3) == [Send(key(4), [first]), Send(key(5), [third])]


@pytest.mark.parametrize("state", ["processing", "memory", "waiting", "queued"])
def test_whatever_the_scheduler_says_of_what_a_silent_worker_has(state: str) -> None:
    call = new_call()
    tasks = dispatch(call, 2)
    looked = Looked(0, {key(1): state}, 4, silent=frozenset([key(1)]))
    assert call.handle(looked) == [Send(key(2), tasks)]


@pytest.mark.parametrize(("winner", "loser"), [(1, 3), (3, 1)])
def test_the_first_to_finish_wins(winner: int, loser: int) -> None:
    call, tasks = raced(2, 1)
    assert call.handle(finished(winner, value(0), value(1))) == [
        Release([key(loser)]),
        Interrupt([key(loser)]),
        Deliver(0, tasks[:2], [value(0), value(1)]),
        Release([key(winner)]),
    ]
    assert call.in_flight == {key(2)}
    late = Outcome(Kind.VALUE, 0.5, b"late")
    for event in (
        finished(loser, late, late),
        finished(loser, error(0), NOT_RUN),
        finished(loser, MISSING, NOT_RUN),
        AttemptKilled(key(loser), ""),
        AttemptLost(key(loser)),
        AttemptFailed(key(loser), ""),
        Looked(1, {key(loser): None}, 4, silent=frozenset([key(loser)])),
    ):
        assert call.handle(event) == []
    assert call.handle(finished(2, value(2))) == [
        Deliver(1, [tasks[2]], [value(2)]),
        Release([key(2)]),
    ]
    # The loser may be running: it is interrupted.
    assert call.handle(Cancelled()) == [Interrupt()]


@pytest.mark.parametrize(("ends", "stays"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("how", [AttemptKilled, AttemptFailed])
def test_an_attempt_that_ends_while_another_is_out_is_only_released(
    how: type[AttemptKilled | AttemptFailed], ends: int, stays: int
) -> None:
    call, tasks = raced(2)
    assert call.handle(how(key(ends), "detail")) == [Release([key(ends)])]
    assert call.in_flight == {key(stays)}
    # What comes then is not held back by a suspect.
    other = task(2)
    assert call.handle(Dispatched(1, [other])) == [Send(key(3), [other])]
    assert call.handle(finished(stays, value(0), value(1))) == [
        Deliver(0, tasks, [value(0), value(1)]),
        Release([key(stays)]),
    ]
    call.handle(finished(3, value(2)))
    assert call.handle(Cancelled()) == []


@pytest.mark.parametrize(("ends", "stays"), [(1, 2), (2, 1)])
@pytest.mark.parametrize(
    "state", ["heard", None, "no-worker", "stranded"], ids=lambda state: str(state)
)
def test_an_attempt_that_is_lost_while_another_is_out_is_only_released(
    ends: int, stays: int, state: str | None
) -> None:
    call, tasks = raced(2)
    if state == "heard":
        assert call.handle(AttemptLost(key(ends))) == [Release([key(ends)])]
    elif state is None:
        *before, last = look(call, ends, "processing", None, None)
        assert (before, last) == ([[], []], [Release([key(ends)])])
    elif state == "no-worker":
        assert look(call, ends, state) == [[Release([key(ends)])]]
    else:
        states = {key(ends): "queued"}
        assert call.handle(Looked(0, states, 0)) == []
        assert call.handle(Looked(10, states, 0)) == [Release([key(ends)])]
    assert call.in_flight == {key(stays)}
    assert call.handle(finished(stays, value(0), value(1))) == [
        Deliver(0, tasks, [value(0), value(1)]),
        Release([key(stays)]),
    ]
    # The engine may be wrong about it: the attempt may run.
    assert call.handle(Cancelled()) == [Interrupt()]


def test_what_was_lost_without_a_worker_while_raced_counts_anew() -> None:
    """Its tasks were out; what they are sent as later has waited for nobody."""
    call, _ = raced(1)
    call.handle(looked(103, {key(2): "no-worker"}, 4, sent=100))
    call.handle(AttemptLost(key(1)))
    assert call.in_flight == {key(3)}
    later = [looked(now, {key(3): "processing"}, 0, sent=104) for now in (112, 113, 114)]
    assert given_up_at(call, later) == 114


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_what_is_lost_twice_over_is_sent_again_once(order: tuple[int, int]) -> None:
    call, tasks = raced(2)
    one, other = order
    assert call.handle(AttemptLost(key(one))) == [Release([key(one)])]
    assert call.handle(AttemptLost(key(other))) == [
        Release([key(other)]),
        Send(key(3), tasks),
    ]
    # It is a race no more: this one is raced as any is.
    assert call.in_flight == {key(3)}
    assert silence(call, 3) == [Send(key(4), tasks)]


def test_only_the_last_loss_of_a_race_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "LOSSES_ALLOWED", 1)
    call, (only,) = raced(1)
    call.handle(AttemptLost(key(1)))
    assert call.handle(AttemptLost(key(2)))[-1] == Send(key(3), [only])
    _, failed = call.handle(AttemptLost(key(3)))
    assert "was lost by the cluster 2 times" in message(failed)


def test_what_is_stranded_twice_over_fails_once() -> None:
    call, (first, _) = raced(2)
    states = {key(1): "queued", key(2): "queued"}
    assert call.handle(Looked(0, states, 0)) == []
    release, again, failed = call.handle(Looked(10, states, 0))
    assert (release, again) == (Release([key(1)]), Release([key(2)]))
    assert isinstance(failed, DeliverError)
    assert (failed.task, type(failed.error)) == (first, NoWorkersError)
    assert call.in_flight == frozenset()


def test_what_is_stranded_while_another_is_out_may_be_raced_again() -> None:
    """It has cost no worker: the race is not over because of it."""
    call, tasks = raced(1)
    for number in range(2, 3 + RACING_ALLOWED):
        states = {key(number): "queued"}
        assert call.handle(Looked(0, states, 0)) == []
        assert call.handle(Looked(10, states, 0)) == [Release([key(number)])]
        assert silence(call, 1) == [Send(key(number + 1), tasks)]


def test_what_is_killed_while_another_is_out_counts_in_the_race() -> None:
    """Its task may be what kills: not all workers are to be lost to it."""
    call, tasks = raced(1)
    for number in range(2, RACING_ALLOWED):
        assert call.handle(AttemptKilled(key(number), "")) == [Release([key(number)])]
        assert silence(call, 1) == [Send(key(number + 1), tasks)]
    assert call.handle(AttemptKilled(key(RACING_ALLOWED), "")) == [
        Release([key(RACING_ALLOWED)])
    ]
    assert silence(call, 1) == []


def test_what_fails_to_start_twice_over_fails_once() -> None:
    call, (first, _) = raced(2)
    assert call.handle(AttemptFailed(key(2), "one")) == [Release([key(2)])]
    release, failed = call.handle(AttemptFailed(key(1), "two"))
    assert release == Release([key(1)])
    assert isinstance(failed, DeliverError)
    assert failed.task == first
    assert "two" in message(failed)


def test_what_is_killed_twice_over_becomes_suspect_once() -> None:
    call, tasks = raced(2)
    assert call.handle(AttemptKilled(key(1), "")) == [Release([key(1)])]
    assert call.handle(AttemptKilled(key(2), "")) == [
        Release([key(2)]),
        alone(3, tasks[0]),
    ]
    assert call.handle(finished(3, value(0))) == [Release([key(3)]), alone(4, tasks[1])]
    assert call.handle(finished(4, value(1))) == [
        Deliver(0, tasks, [value(0), value(1)]),
        Release([key(4)]),
    ]


def test_what_is_killed_and_lost_is_no_suspect() -> None:
    """Nothing says that the attempt which was lost has died."""
    call, tasks = raced(2)
    call.handle(AttemptKilled(key(2), ""))
    assert call.handle(AttemptLost(key(1))) == [Release([key(1)]), Send(key(3), tasks)]


def test_when_all_have_fallen_silent_another_is_sent() -> None:
    call, tasks = raced(2)
    assert silence(call, 1) == []
    assert silence(call, 2) == []  # the first has thawed
    assert silence(call, 1, 2) == [Send(key(3), tasks)]
    assert silence(call, 1, 2) == []
    assert call.handle(finished(2, value(0), value(1))) == [
        Release([key(1), key(3)]),
        Interrupt([key(1), key(3)]),
        Deliver(0, tasks, [value(0), value(1)]),
        Release([key(2)]),
    ]
    assert call.in_flight == frozenset()


def test_a_task_that_silences_its_workers_does_not_take_them_all() -> None:
    call, tasks = raced(2)
    assert silence(call, 1, 2) == [Send(key(3), tasks)]
    for now in range(100):
        assert silence(call, 1, 2, 3, now=now) == []
    # Nor does one that kills them.
    assert call.handle(AttemptKilled(key(3), "")) == [Release([key(3)])]
    assert silence(call, 1, 2) == []
    assert call.handle(finished(1, value(0), value(1)))[0] == Release([key(2)])


def test_what_is_lost_has_silenced_no_worker() -> None:
    call, tasks = raced(2)
    for number in range(3, 20):
        assert call.handle(AttemptLost(key(number - 1))) == [Release([key(number - 1)])]
        assert silence(call, 1) == [Send(key(number), tasks)]


def test_what_was_raced_is_raced_anew_when_it_is_sent_again() -> None:
    call, (first, second) = raced(2)
    assert call.handle(finished(2, value(0), NOT_RUN)) == [
        Release([key(1)]),
        Interrupt([key(1)]),
        Release([key(2)]),
        Send(key(3), [second]),
    ]
    assert silence(call, 3) == [Send(key(4), [second])]
    assert call.handle(finished(3, value(1))) == [
        Release([key(4)]),
        Interrupt([key(4)]),
        Deliver(0, [first, second], [value(0), value(1)]),
        Release([key(3)]),
    ]


@pytest.mark.parametrize(("winner", "loser"), [(1, 2), (2, 1)])
def test_what_the_winner_has_not_run_is_sent_again(winner: int, loser: int) -> None:
    call, tasks = raced(3)
    assert call.handle(finished(winner, value(0), NOT_RUN, value(2))) == [
        Release([key(loser)]),
        Interrupt([key(loser)]),
        Release([key(winner)]),
        Send(key(3), [tasks[1]]),
    ]
    assert call.handle(finished(loser, value(0), value(1), value(2))) == []
    assert call.handle(finished(3, value(1))) == [
        Deliver(0, tasks, [value(0), value(1), value(2)]),
        Release([key(3)]),
    ]


def test_an_error_in_a_race_takes_one_retry() -> None:
    call, (only,) = raced(1, retries=1)
    assert call.handle(finished(2, error(0))) == [
        Release([key(1)]),
        Interrupt([key(1)]),
        Release([key(2)]),
        Send(key(3), [only]),
    ]
    assert call.handle(finished(1, error(0))) == []
    assert silence(call, 3) == [Send(key(4), [only])]
    assert call.handle(finished(3, error(0))) == [
        Release([key(4)]),
        Interrupt([key(4)]),
        DeliverError(0, only, error(0)),
        Release([key(3)]),
    ]
    assert call.handle(finished(4, value(0))) == []


def test_what_lacks_buffers_gives_up_the_race() -> None:
    call, (first, second) = raced(2)
    assert call.handle(finished(2, value(0), MISSING)) == [
        Release([key(1)]),
        Interrupt([key(1)]),
        lacks(2, second),
        Release([key(2)]),
    ]
    assert call.in_flight == frozenset()
    assert call.handle(finished(1, value(0), value(1))) == []
    assert call.handle(supplied(2)) == [Send(key(3), [second], worker=THERE)]
    assert call.handle(finished(3, value(1))) == [
        Deliver(0, [first, second], [value(0), value(1)]),
        Release([key(3)]),
    ]


def test_what_is_raced_is_bound_for_no_worker() -> None:
    """It is the one that has fallen silent. But what goes along goes along."""
    call = new_call()
    (only,) = dispatch(call, 1)
    call.handle(finished(1, MISSING))
    assert call.handle(supplied(1, along=True)) == [
        Send(key(2), [only], with_buffers=True, worker=THERE)
    ]
    assert silence(call, 2) == [Send(key(3), [only], with_buffers=True)]


def test_a_race_goes_beyond_the_limit() -> None:
    call, (first, second) = raced(1, 1, limit=2)
    assert call.in_flight == {key(1), key(2), key(3)}
    third, fourth = task(2), task(3)
    assert call.handle(Dispatched(2, [third])) == []
    assert call.handle(Dispatched(3, [fourth])) == []
    # But nothing new is sent before there is room.
    assert call.handle(finished(2, value(1))) == [
        Deliver(1, [second], [value(1)]),
        Release([key(2)]),
    ]
    assert call.handle(finished(3, value(0))) == [
        Release([key(1)]),
        Interrupt([key(1)]),
        Deliver(0, [first], [value(0)]),
        Release([key(3)]),
        Send(key(4), [third]),
        Send(key(5), [fourth]),
    ]


def test_one_job_at_a_time_is_raced() -> None:
    call = new_call(limit=1)
    first, second = dispatch(call, 1, 1)
    assert silence(call, 1) == [Send(key(2), [first])]
    assert call.handle(finished(2, value(0))) == [
        Release([key(1)]),
        Interrupt([key(1)]),
        Deliver(0, [first], [value(0)]),
        Release([key(2)]),
        Send(key(3), [second]),
    ]
    assert call.in_flight == {key(3)}


def test_the_rest_is_sent_while_there_is_a_race() -> None:
    call, _ = raced(1)
    other = task(1)
    assert call.handle(Dispatched(1, [other])) == [Send(key(3), [other])]


def test_what_nobody_wants_any_more_is_not_raced() -> None:
    call, _ = sized_call(1)
    first, second = task(0), task(1)
    assert call.handle(Dispatched(0, [first, second])) == [
        boxed(1, first),
        boxed(2, second),
    ]
    assert call.handle(finished(1, error(0))) == [
        DeliverError(0, first, error(0)),
        Release([key(1)]),
    ]
    assert silence(call, 2) == []


def test_what_is_still_wanted_of_an_attempt_is_raced() -> None:
    call, policy = sized_call(0)
    first, second, third = task(0), task(1), task(2)
    call.handle(Dispatched(0, [first]))
    policy.size = 2
    assert call.handle(Dispatched(1, [second, third])) == [
        boxed(1, first, second),
        boxed(2, third),
    ]
    call.handle(finished(2, error(2)))
    assert silence(call, 1) == [boxed(3, first)]
    assert call.handle(finished(1, value(0), value(1))) == [
        Release([key(3)]),
        Interrupt([key(3)]),
        Deliver(0, [first], [value(0)]),
        Release([key(1)]),
    ]


def test_deliveries_of_several_rows_are_raced_as_they_were_sent() -> None:
    rows = [plain(0, 3), task(3), plain(4, 2)]
    call, _ = merged_call(rows, [task(6)])
    policy_says = [*rows, task(6)]
    assert silence(call, 1) == [boxed(2, *policy_says)]
    # The winner has parted a row; what it has not run is sent again, in parts.
    assert call.handle(
        finished(2, values(0, 2), NOT_RUN, value(3), values(4, 2), value(6))
    ) == [
        Release([key(1)]),
        Interrupt([key(1)]),
        Deliver(1, [task(6)], [value(6)]),
        Release([key(2)]),
        boxed(3, plain(2, 1)),
    ]
    assert call.handle(finished(1, values(0, 3), value(3), values(4, 2), value(6))) == []
    assert silence(call, 3) == [boxed(4, plain(2, 1))]
    assert call.handle(finished(4, values(2, 1))) == [
        Release([key(3)]),
        Interrupt([key(3)]),
        Deliver(
            0,
            [plain(0, 2), plain(2, 1), task(3), plain(4, 2)],
            [values(0, 2), values(2, 1), value(3), values(4, 2)],
        ),
        Release([key(4)]),
    ]
    assert call.undelivered == 0


def test_plain_neighbours_killed_twice_over_become_suspects_each() -> None:
    call, _ = merged_call([plain(0, 2)])
    assert silence(call, 1) == [boxed(2, plain(0, 2))]
    assert call.handle(AttemptKilled(key(2), "")) == [Release([key(2)])]
    assert call.handle(AttemptKilled(key(1), "")) == [
        Release([key(1)]),
        boxed_alone(3, plain(0, 1)),
    ]
    assert call.handle(finished(3, values(0, 1))) == [
        Release([key(3)]),
        boxed_alone(4, plain(1, 1)),
    ]


def test_the_policy_is_told_of_the_winner_only() -> None:
    call, policy = merged_call([task(0)])
    silence(call, 1)
    call.handle(finished(2, value(0)))
    call.handle(finished(1, value(0)))
    assert policy.recorded == [(1, 0.5, task(0).nbytes)]


def test_the_policy_is_told_of_all_that_is_in_flight() -> None:
    call, policy = merged_call([task(0)])
    silence(call, 1)
    policy.asked.clear()
    call.handle(Dispatched(1, [task(1)]))
    assert policy.asked == [(1, 2)]


def test_a_suspect_that_is_raced_stays_alone() -> None:
    call, tasks = raced_suspect(1)
    assert call.handle(Dispatched(2, [task(2)])) == []
    assert not call.can_send
    assert call.handle(AttemptKilled(key(3), "")) == [Release([key(3)])]
    # Still alone, and nobody has been blamed: it may have been the neighbour's fault.
    assert call.in_flight == {key(2)}
    assert call.handle(Dispatched(3, [task(3)])) == []
    assert call.handle(finished(2, value(0))) == [
        Deliver(0, tasks[:1], [value(0)]),
        Release([key(2)]),
        Send(key(4), [tasks[1]]),
        Send(key(5), [task(2)]),
        Send(key(6), [task(3)]),
    ]


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_a_suspect_killed_in_both_attempts_is_to_blame(order: tuple[int, int]) -> None:
    """Nothing else of the call was out when either died."""
    call, tasks = raced_suspect(1)
    one, other = order
    assert call.handle(AttemptKilled(key(one), "one")) == [Release([key(one)])]
    release, failed, sent = call.handle(AttemptKilled(key(other), "the other."))
    assert release == Release([key(other)])
    assert isinstance(failed, DeliverError)
    assert (failed.task, type(failed.error)) == (tasks[0], WorkerDiedError)
    assert "also when it ran alone: 1 worker died, the other." in message(failed)
    assert sent == Send(key(4), [tasks[1]])


def test_a_suspect_lost_in_both_attempts_runs_alone_again() -> None:
    call, tasks = raced_suspect(1)
    assert call.handle(AttemptLost(key(2))) == [Release([key(2)])]
    assert call.handle(AttemptLost(key(3))) == [Release([key(3)]), alone(4, tasks[0])]


def test_a_suspect_killed_in_one_attempt_and_lost_in_the_other_is_one_still() -> None:
    call, tasks = raced_suspect(1)
    assert call.handle(AttemptKilled(key(3), "")) == [Release([key(3)])]
    assert call.handle(AttemptLost(key(2))) == [Release([key(2)]), alone(4, tasks[0])]


def test_a_raced_suspect_that_was_not_run_runs_alone_again() -> None:
    call, tasks = raced_suspect(1)
    assert call.handle(finished(3, NOT_RUN)) == [
        Release([key(2)]),
        Interrupt([key(2)]),
        Release([key(3)]),
        alone(4, tasks[0]),
    ]


def test_a_raced_suspect_whose_first_attempt_is_lost_is_raced_on() -> None:
    """Neither is it the turn of the next attempt then: see `RunningCall`."""
    call, tasks = raced_suspect()
    assert call.handle(AttemptLost(key(2))) == [Release([key(2)])]
    assert silence(call, 3) == [Send(key(4), tasks)]


def test_suspects_wait_for_the_end_of_a_race() -> None:
    call, tasks = raced(1, 1)
    assert call.handle(AttemptKilled(key(2), "")) == [Release([key(2)])]
    assert call.handle(finished(3, value(0))) == [
        Release([key(1)]),
        Interrupt([key(1)]),
        Deliver(0, [tasks[0]], [value(0)]),
        Release([key(3)]),
        alone(4, tasks[1]),
    ]


def test_what_is_out_when_suspects_wait_is_raced() -> None:
    call = new_call()
    tasks = dispatch(call, 1, 1)
    assert call.handle(AttemptKilled(key(2), "")) == [Release([key(2)])]
    assert silence(call, 1) == [Send(key(3), [tasks[0]])]


def test_a_race_at_the_end_of_a_call_is_released_and_interrupted() -> None:
    call, _ = raced(1, 1)
    assert call.handle(Cancelled()) == [Release([key(1), key(2), key(3)]), Interrupt()]
    assert call.in_flight == frozenset()
    for number in (1, 2, 3):
        assert call.handle(finished(number, value(0))) == []
    assert silence(call, 1) == []


def test_a_race_ends_with_the_cluster() -> None:
    call, _ = raced(1)
    closed = ClusterClosedError("closed")
    assert call.handle(ClusterFailed(closed)) == [
        DeliverError(0, None, closed),
        Release([key(1), key(2)]),
        Interrupt(),
    ]


# ------------------------------------------------------------------------------ the end
def test_failed_cluster_fails_every_delivery() -> None:
    call = new_call(limit=1)
    dispatch(call, 2, 1)
    closed = ClusterClosedError("closed")
    delivered = [
        i
        for i in call.handle(ClusterFailed(closed))
        if not isinstance(i, (Release, Interrupt))
    ]
    assert delivered == [DeliverError(0, None, closed), DeliverError(1, None, closed)]
    assert call.undelivered == 0
    assert call.in_flight == frozenset()


def test_failed_cluster_leaves_nothing_running() -> None:
    """A cluster "fails" also when one batch could not be submitted: others may run."""
    call = new_call()
    dispatch(call, 1, 1)
    instructions = call.handle(ClusterFailed(ClusterClosedError("closed")))
    assert Release([key(1), key(2)]) in instructions
    assert Interrupt() in instructions


def test_a_batch_that_comes_after_a_cancel_is_dropped() -> None:
    """For joblib is aborting: it waits for nothing any more."""
    call = new_call()
    call.handle(Cancelled())
    assert call.handle(Dispatched(0, [task(0)])) == []


def test_a_batch_that_comes_after_the_cluster_failed_is_answered() -> None:
    """An iterable may go on for a while; joblib waits for every batch of it."""
    call = new_call()
    error = ClusterClosedError("closed")
    assert call.handle(ClusterFailed(error)) == []
    assert call.handle(Dispatched(0, [task(0)])) == [DeliverError(0, None, error)]


def test_cancelled_call_is_released_and_interrupted() -> None:
    call = new_call(limit=2)
    dispatch(call, 1, 1, 1)
    assert call.handle(Cancelled()) == [Release([key(1), key(2)]), Interrupt()]
    assert call.undelivered == 0
    assert call.in_flight == frozenset()


def test_cancelled_call_with_nothing_in_flight_interrupts_nobody() -> None:
    assert new_call().handle(Cancelled()) == []
    call = new_call()
    dispatch(call, 1)
    call.handle(finished(1, value(0)))
    assert call.handle(Cancelled()) == []


@pytest.mark.parametrize(
    "event",
    [AttemptLost(key(1)), Looked(1, {key(1): "no-worker"}, 4)],
    ids=["lost", "stranded"],
)
def test_call_that_gave_an_attempt_up_interrupts_it_at_its_end(event: Event) -> None:
    """The engine may be wrong about it: the attempt may run."""
    call = new_call(stranded_timeout=0)
    dispatch(call, 1)
    call.handle(event)
    call.handle(finished(2, value(0)))
    assert call.in_flight == frozenset()
    assert call.handle(Cancelled()) == [Interrupt()]


def test_failed_cluster_interrupts_what_was_lost_before() -> None:
    call = new_call()
    dispatch(call, 1)
    call.handle(AttemptLost(key(1)))
    call.handle(finished(2, value(0)))
    closed = ClusterClosedError("closed")
    assert call.handle(ClusterFailed(closed)) == [Interrupt()]


@pytest.mark.parametrize(
    "last",
    [Cancelled(), ClusterFailed(ClusterClosedError("closed"))],
    ids=["cancelled", "cluster failed"],
)
@pytest.mark.parametrize(
    "event",
    [
        finished(1, value(0)),
        AttemptKilled(key(1), ""),
        AttemptLost(key(1)),
        AttemptFailed(key(1), ""),
        Looked(1, {key(1): None}, 0),
        ClusterFailed(ClusterClosedError("closed again")),
        Cancelled(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_nothing_is_done_after_the_end(last: Event, event: Event) -> None:
    call = new_call(stranded_timeout=0)
    dispatch(call, 1)
    call.handle(last)
    assert call.handle(event) == []
    assert call.handle(event) == []
    assert call.undelivered == 0


def test_errors_of_the_ledger_are_of_our_tree() -> None:
    call = new_call()
    dispatch(call, 1, 1)
    (_, lost) = call.handle(AttemptFailed(key(1), "x"))
    assert isinstance(lost, DeliverError)
    assert isinstance(lost.error, TaskError)


# ------------------------------------------------------------------------------- recall
#: Seconds after which an attempt of several tasks should be back: its own box, and that
#: of another one that it may have waited for.
DUE = FLIGHTS * BOX


def overdue(call: Call, *numbers: int, now: float = 100.0) -> list[Instruction]:
    """Look at attempts that were sent too long ago."""
    states: dict[str, str | None] = dict.fromkeys(map(key, numbers), "processing")
    return call.handle(looked(now, states, 4, sent=now - DUE - 0.25))


def recalled(number: int, kept: int, seconds: float = 5.0) -> Recalled:
    return Recalled(key(number), kept, seconds, "tcp://slow:1", has_others=True)


@pytest.mark.parametrize(
    ("ago", "state", "is_asked"),
    [
        (DUE + 0.25, "processing", True),
        (DUE + 0.25, "waiting", True),  # on the embedded cluster it may be anywhere
        (DUE - 0.25, "processing", False),
        (DUE + 0.25, "queued", False),
        (DUE + 0.25, "memory", False),
        (DUE + 0.25, "erred", False),
        (DUE + 0.25, None, False),
    ],
)
def test_what_should_be_back_is_recalled(
    ago: float, state: str | None, is_asked: bool
) -> None:
    call, _ = merged_call([plain(0, 3)])
    found = call.handle(looked(100, {key(1): state}, 4, sent=100 - ago))
    assert found == ([Recall([key(1)])] if is_asked else [])


def test_when_it_was_sent_is_not_forgotten() -> None:
    """Later looks do not tell: the process might have been stopped."""
    call, _ = merged_call([plain(0, 3)])
    assert call.handle(looked(100, {key(1): "processing"}, 4, sent=100 - DUE / 2)) == []
    again = looked(100 + DUE, {key(1): "processing"}, 4, sent=100 + DUE / 2)
    assert call.handle(again) == [Recall([key(1)])]


def test_all_that_should_be_back_is_recalled_at_once() -> None:
    call, _policy = sized_call(2)
    call.handle(Dispatched(0, [plain(0, 5)]))
    # The third has but one task, behind which nothing waits.
    assert overdue(call, 1, 2, 3) == [Recall([key(1), key(2)])]


def test_batches_as_the_user_wants_them_are_not_recalled() -> None:
    call = new_call()
    dispatch(call, 10)
    assert overdue(call, 1) == []
    assert call.flights.due(key(1)) == math.inf


def test_what_is_out_says_when_it_is_to_be_looked_at() -> None:
    call, _ = sized_call(2)
    call.handle(Dispatched(0, [plain(0, 3)]))
    assert call.flights.due(key(1)) == DUE
    assert call.flights.due(key(2)) == math.inf  # one task
    assert call.flights.due("gone") == math.inf
    call.handle(recalled(1, kept=2))
    assert call.flights.due(key(1)) == math.inf


def test_what_was_not_begun_is_sent_to_others_at_once() -> None:
    call, policy = merged_call([plain(0, 4), task(4)], [plain(5, 2)])
    policy.size = 2
    assert call.handle(recalled(1, kept=3)) == [
        boxed(2, plain(3, 1), task(4)),
        boxed(3, plain(5, 2)),
    ]
    assert overdue(call, 1) == []  # there is no more to be asked
    # 1. The report comes after the answer: it tells of all that was sent.
    assert call.handle(finished(1, values(0, 3), not_run(4))) == [Release([key(1)])]
    assert call.handle(finished(2, values(3, 1), value(4))) == [
        Deliver(
            0,
            [plain(0, 3), plain(3, 1), task(4)],
            [values(0, 3), values(3, 1), value(4)],
        ),
        Release([key(2)]),
    ]
    assert policy.recorded[0] == (3, 0.25, plain(0, 3).nbytes)


def test_a_kept_task_that_was_not_begun_either_is_sent_again() -> None:
    call, _policy = merged_call([plain(0, 4)])
    assert call.handle(recalled(1, kept=3)) == [boxed(2, plain(3, 1))]
    assert call.handle(finished(1, values(0, 2), not_run(2))) == [
        Release([key(1)]),
        boxed(3, plain(2, 1)),
    ]


def test_an_answer_after_the_report_is_late() -> None:
    call, _ = merged_call([plain(0, 4)])
    assert call.handle(finished(1, values(0, 2), not_run(2))) == [
        Release([key(1)]),
        boxed(2, plain(2, 2)),
    ]
    assert call.handle(recalled(1, kept=2)) == []
    assert call.in_flight == {key(2)}


@pytest.mark.parametrize("end", [AttemptLost(key(1)), AttemptKilled(key(1), "")])
def test_an_answer_after_another_end_is_late(end: Event) -> None:
    call, _ = merged_call([plain(0, 4)])
    call.handle(end)
    out = call.in_flight
    assert call.handle(recalled(1, kept=2)) == []
    assert call.in_flight == out


def test_an_answer_after_the_call_is_late() -> None:
    call, _ = merged_call([plain(0, 4)])
    call.handle(Cancelled())
    assert call.handle(recalled(1, kept=2)) == []


def test_the_same_answer_twice_is_one() -> None:
    call, _ = merged_call([plain(0, 4)])
    assert call.handle(recalled(1, kept=2)) == [boxed(2, plain(2, 2))]
    assert call.handle(recalled(1, kept=2)) == []


@pytest.mark.parametrize("kept", [0, -1, 5])
def test_an_answer_that_cannot_be_is_none(kept: int) -> None:
    call, _ = merged_call([plain(0, 4)])
    assert call.handle(recalled(1, kept)) == []


def test_a_task_that_is_not_known_to_be_long_is_asked_about_again() -> None:
    call, _ = merged_call([plain(0, 4)])
    assert call.handle(recalled(1, kept=3, seconds=BOX / 2)) == [boxed(2, plain(3, 1))]
    assert overdue(call, 1) == [Recall([key(1)])]
    assert call.handle(recalled(1, kept=3, seconds=BOX)) == []
    assert overdue(call, 1) == []


def test_no_answer_is_asked_for_again() -> None:
    call, _ = merged_call([plain(0, 4)])
    assert overdue(call, 1) == overdue(call, 1) == [Recall([key(1)])]


def test_a_worker_that_dies_after_its_answer_takes_only_what_it_kept() -> None:
    call, policy = merged_call([plain(0, 4)])
    policy.size = 0
    call.handle(recalled(1, kept=1))
    policy.size = 9
    assert call.handle(AttemptKilled(key(1), "")) == [
        Release([key(1)]),
        boxed_alone(2, plain(0, 1)),
    ]
    assert call.handle(finished(2, values(0, 1))) == [
        Release([key(2)]),
        boxed(3, plain(1, 3)),
    ]


def test_what_is_lost_after_its_answer_is_sent_again_but_for_what_was_given_back() -> (
    None
):
    call, _ = merged_call([plain(0, 4)])
    assert call.handle(recalled(1, kept=1)) == [boxed(2, plain(1, 3))]
    assert call.handle(AttemptLost(key(1))) == [Release([key(1)]), boxed(3, plain(0, 1))]


def test_a_second_run_of_what_was_recalled_may_tell_of_all() -> None:
    """The engine runs it again if the worker that told dies: that one knows nothing."""
    call, _ = merged_call([plain(0, 2), task(2), task(3)])
    assert call.handle(recalled(1, kept=1)) == [boxed(2, plain(1, 1), task(2), task(3))]
    both = pack_plain(["zero", "one"], 3.0)
    call.handle(finished(2, values(1, 1), value(2), value(3)))
    delivered, release = call.handle(finished(1, both, value(2), MISSING))
    assert isinstance(delivered, Deliver)
    assert delivered.outcomes[0] == pack_plain(["zero"], 1.5)
    assert release == Release([key(1)])


def test_what_another_worker_has_too_is_not_given_to_a_third() -> None:
    call, _ = merged_call([plain(0, 4)])
    assert silence(call, 1) == [boxed(2, plain(0, 4))]
    assert call.handle(recalled(1, kept=1)) == []
    assert call.handle(recalled(2, kept=3)) == []
    # Whichever reports has tasks sent again that it has not run.
    assert call.handle(finished(1, values(0, 1), not_run(3))) == [
        Release([key(2)]),
        Interrupt([key(2)]),
        Release([key(1)]),
        boxed(3, plain(1, 3)),
    ]


def test_only_what_an_attempt_kept_is_raced_when_it_falls_silent() -> None:
    call, _ = merged_call([plain(0, 4)])
    assert call.handle(recalled(1, kept=2)) == [boxed(2, plain(2, 2))]
    assert silence(call, 1) == [boxed(3, plain(0, 2))]
    assert call.handle(finished(3, values(0, 2))) == [
        Release([key(1)]),
        Interrupt([key(1)]),
        Release([key(3)]),
    ]
    assert call.handle(finished(2, values(2, 2)))[0] == Deliver(
        0, [plain(0, 2), plain(2, 2)], [values(0, 2), values(2, 2)]
    )


def test_what_nobody_wants_any_more_is_not_sent_when_it_is_given_back() -> None:
    call, policy = sized_call(0)
    call.handle(Dispatched(0, [task(0)]))
    policy.size = 2
    call.handle(Dispatched(1, [task(1), task(2)]))  # 0 and 1; and 2
    assert call.handle(finished(2, error(2)))[0] == DeliverError(1, task(2), error(2))
    assert call.handle(recalled(1, kept=1)) == []


def test_what_is_given_back_waits_for_room() -> None:
    call, _policy = sized_call(4, limit=1)
    call.handle(Dispatched(0, [plain(0, 4)]))
    assert call.handle(recalled(1, kept=1)) == []
    assert call.handle(finished(1, values(0, 1), not_run(3))) == [
        Release([key(1)]),
        boxed(2, plain(1, 3)),
    ]


def test_what_is_given_back_is_bound_for_no_worker() -> None:
    call, _policy = merged_call([plain(0, 3)])
    call.handle(finished(1, MISSING, not_run(2)))
    send = Send(key(2), [plain(0, 1), plain(1, 2)], worker=THERE, box=BOX)
    assert call.handle(Supplied(key(1), THERE)) == [send]
    assert call.handle(recalled(2, kept=1)) == [boxed(3, plain(1, 2))]


def test_the_policy_learns_of_what_runs_until_it_ends() -> None:
    call, policy = merged_call([plain(0, 4)])
    policy.size = 0
    call.handle(recalled(1, kept=1))
    assert policy.mean == BOX
    call.handle(AttemptLost(key(1)))
    assert policy.mean is None


# --------------------------------------------------------------------------- stragglers
def racing_call(*sizes: int, limit: int | None = None) -> tuple[Call, list[PackedTask]]:
    """Return a call whose first delivery took 0.5 s a task, and whose others are out."""
    call = new_call(limit)
    call.races_stragglers = True
    tasks = dispatch(call, *sizes)
    call.handle(finished(1, *[value(i) for i in range(sizes[0])]))
    return call, tasks


def straggle(call: Call, number: int, ago: float = 1.25, threads: int = 4) -> object:
    states: dict[str, str | None] = {key(number): "processing"}
    return call.handle(looked(100, states, threads, sent=100 - ago))


def racing(number: int, *tasks: PackedTask, avoiding: str = "tcp://slow:1") -> Send:
    return Send(key(number), list(tasks), avoiding=frozenset(avoiding.split()))


def test_a_straggler_is_raced_and_the_loser_interrupted() -> None:
    call, (_, second) = racing_call(1, 1)
    assert straggle(call, 2) == [Recall([key(2)])]
    assert call.handle(recalled(2, kept=1, seconds=1.25)) == [racing(3, second)]
    assert call.handle(finished(3, value(1))) == [
        Release([key(2)]),
        Interrupt([key(2)]),
        Deliver(1, [second], [value(1)]),
        Release([key(3)]),
    ]
    assert call.handle(finished(2, value(1))) == []


def test_the_first_try_may_win() -> None:
    call, _ = racing_call(1, 1)
    call.handle(looked(100, {key(2): "processing"}, 4, sent=98))
    call.handle(recalled(2, kept=1))
    assert call.handle(finished(2, value(1)))[:2] == [
        Release([key(3)]),
        Interrupt([key(3)]),
    ]


def test_stragglers_are_waited_for_by_default() -> None:
    call, _ = racing_call(1, 1)
    call.races_stragglers = False
    assert straggle(call, 2) == []
    assert call.handle(recalled(2, kept=1)) == []


@pytest.mark.parametrize(
    ("ago", "threads"),
    [(0.75, 4), (1.25, 1)],
    ids=["not for long", "no thread idles"],
)
def test_who_is_no_straggler_is_not_asked(ago: float, threads: int) -> None:
    call, _ = racing_call(1, 1)
    assert straggle(call, 2, ago, threads) == []


def test_nobody_straggles_while_nothing_is_known() -> None:
    call = new_call()
    call.races_stragglers = True
    dispatch(call, 1)
    assert straggle(call, 1, ago=50) == []
    assert call.handle(recalled(1, kept=1, seconds=50)) == []


def test_a_straggler_takes_twice_as_long_as_others() -> None:
    call = new_call()
    call.races_stragglers = True
    _, second = dispatch(call, 1, 1)
    call.handle(finished(1, Outcome(Kind.VALUE, 5.0, b"value")))
    assert straggle(call, 2, ago=9.75) == []
    assert straggle(call, 2, ago=10.25) == [Recall([key(2)])]
    # It has waited for a while: only its worker knows since when it runs.
    assert call.handle(recalled(2, kept=1, seconds=9.75)) == []
    assert call.handle(recalled(2, kept=1, seconds=10.25)) == [racing(3, second)]


@pytest.mark.parametrize("outcome", [MISSING, not_run(1)], ids=["missing", "not run"])
def test_a_rival_that_has_run_nothing_leaves_it_to_the_straggler(
    outcome: Outcome,
) -> None:
    call, (_, second) = racing_call(1, 1)
    straggle(call, 2)
    call.handle(recalled(2, kept=1, seconds=1.25))
    assert call.handle(finished(3, outcome)) == [Release([key(3)])]
    assert call.in_flight == {key(2)}
    # Whoever is tried next has what that one lacked.
    straggle(call, 2)
    (again,) = call.handle(recalled(2, kept=1, seconds=2.25))
    assert isinstance(again, Send)
    assert again.with_buffers == (outcome is MISSING)
    assert call.handle(finished(2, value(1))) == [
        Release([key(4)]),
        Interrupt([key(4)]),
        Deliver(1, [second], [value(1)]),
        Release([key(2)]),
    ]


def test_there_must_be_another_worker() -> None:
    call, _ = racing_call(1, 1)
    straggle(call, 2)
    assert call.handle(Recalled(key(2), 1, 5.0, "tcp://slow:1", has_others=False)) == []


def test_what_waits_goes_first() -> None:
    call, policy = sized_call(1)
    call.races_stragglers = True
    call.handle(Dispatched(0, [task(0)]))
    call.handle(Dispatched(1, [task(1)]))
    call.handle(finished(1, value(0)))
    assert straggle(call, 2) == [Recall([key(2)])]
    policy.size = 0
    call.handle(Dispatched(2, [task(2)]))
    assert straggle(call, 2) == []
    assert call.handle(recalled(2, kept=1)) == []


def test_the_limit_holds_for_stragglers() -> None:
    call, _tasks = racing_call(1, 1, limit=1)
    assert straggle(call, 2) == []
    assert call.handle(recalled(2, kept=1)) == []


def test_a_suspect_is_not_raced_for_being_slow() -> None:
    call, (_, _second) = racing_call(1, 1)
    call.handle(AttemptKilled(key(2), ""))
    assert call.in_flight == {key(3)}
    assert straggle(call, 3) == []
    assert call.handle(recalled(3, kept=1)) == []


def test_a_third_try_only_if_both_are_slow_and_no_fourth() -> None:
    call, (_, second) = racing_call(1, 1)
    straggle(call, 2, threads=9)
    assert call.handle(recalled(2, kept=1)) == [racing(3, second)]
    assert call.handle(recalled(2, kept=1)) == []
    other = Recalled(key(3), 1, 5.0, "tcp://two:1", has_others=True)
    both = "tcp://slow:1 tcp://two:1"
    assert call.handle(other) == [racing(4, second, avoiding=both)]
    third = Recalled(key(4), 1, 5.0, "tcp://three:1", has_others=True)
    assert call.handle(third) == []
