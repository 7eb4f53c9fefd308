"""What a batch has not begun is given back when it is recalled, and nothing else."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Status
from joblib.parallel import SequentialBackend

from joblib_distributed.data.batch import BatchPayload, CallContext
from joblib_distributed.data.outcome import Kind, Outcome, unpack_plain, unpack_report
from joblib_distributed.data.payload import Packer, pack
from joblib_distributed.worker import buffers, recall, run
from joblib_distributed.worker.recall import Agenda, Row
from joblib_distributed.worker.run import run_batch
from support.tasks import in_thread

CONTEXT = pack(CallContext(SequentialBackend(nesting_level=1), None, None))

#: Longer than anything here takes.
HUNG = 20

_gates: dict[int, threading.Event] = {}
_begun: list[int] = []
_at_gate = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    _gates.clear()
    _begun.clear()
    _at_gate.clear()
    yield
    assert recall._running == {}


def work(number: int) -> int:
    """Note that it has begun; wait if there is a gate."""
    _begun.append(number)
    gate = _gates.get(number)
    if gate is not None:
        _at_gate.set()
        gate.wait(HUNG)
    return number


def rows_of(sizes: list[int], function: Callable[..., Any] = work) -> BatchPayload:
    """Return a batch of plain neighbours, so many in each row; 0 for one apart."""
    packer = Packer()
    rows: list[Row] = []
    index = 0
    packed = packer.pack_task((function, (0,), {}))
    for size in sizes:
        if size:
            arguments = pickle.dumps([(index + i,) for i in range(size)])
        else:
            arguments = packer.pack_task((function, (index,), {})).arguments
        rows.append((index, packed.function_key, arguments, size))
        index += size or 1
    functions = {packed.function_key: packed.function}
    return BatchPayload(
        "c", CONTEXT, functions, tuple(rows), box=0.0, attempt="a", sharing=None
    )


def shape(outcomes: list[Outcome]) -> list[tuple[Kind, int]]:
    return [(outcome.kind, outcome.size) for outcome in outcomes]


class Running:
    """A batch that is at a gate."""

    def __init__(
        self, batch: BatchPayload, gate: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Between the tasks it does not look: then it would give back by itself.
        monkeypatch.setattr(run, "LOOK_INTERVAL", 3600.0)
        self.gate = _gates[gate] = threading.Event()
        self.report = in_thread(lambda: unpack_report(run_batch(*batch)))
        assert _at_gate.wait(HUNG)

    def end(self) -> list[Outcome]:
        self.gate.set()
        return self.report(HUNG).outcomes


@pytest.mark.parametrize(
    ("sizes", "gate", "kept"),
    [
        ([5], 0, 1),
        ([5], 2, 3),
        ([5], 4, 5),
        ([0, 0, 0], 0, 1),
        ([0, 0, 0], 1, 2),
        ([2, 0, 3], 0, 1),
        ([2, 0, 3], 1, 2),
        ([2, 0, 3], 2, 3),
        ([2, 0, 3], 3, 4),
        ([2, 0, 3], 5, 6),
    ],
)
def test_what_follows_the_task_that_runs_is_given_back(
    sizes: list[int], gate: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = rows_of(sizes)
    number = sum(size or 1 for size in sizes)
    running = Running(batch, gate, monkeypatch)
    assert {a: kept for a, (kept, _) in recall.recall(["a", "b"]).items()} == {"a": kept}
    assert {a: kept for a, (kept, _) in recall.recall(["a"]).items()} == {"a": kept}
    outcomes = running.end()
    assert _begun == list(range(kept))
    given = [kind for kind, size in shape(outcomes) for _ in range(size)]
    assert given == [Kind.VALUE] * kept + [Kind.NOT_RUN] * (number - kept)


def test_a_batch_that_has_time_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It will look itself; and without a box the tasks are to stay together."""
    for box in (3600.0, float("inf")):
        running = Running(rows_of([3])._replace(box=box), 0, monkeypatch)
        assert recall.recall(["a"])["a"][0] == 3
        assert shape(running.end()) == [(Kind.VALUE, 3)]
        _at_gate.clear()


def test_it_says_for_how_long_it_has_been_at_its_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = Running(rows_of([1]), 0, monkeypatch)
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: 1e9))
    seconds = recall.recall(["a"])["a"][1]
    assert 0.9e9 < seconds < 1e9
    monkeypatch.undo()
    running.end()


def test_a_batch_that_has_not_begun_is_not_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine may move it to a worker that knows nothing of the recall."""
    assert recall.recall(["a"]) == {}
    found = []
    surroundings = run._surroundings

    def recall_first(context: CallContext) -> Any:
        found.append(recall.recall(["a"]))
        return surroundings(context)

    monkeypatch.setattr(run, "_surroundings", recall_first)
    outcomes = unpack_report(run_batch(*rows_of([3])._replace(box=3600.0))).outcomes
    assert found == [{}]
    assert shape(outcomes) == [(Kind.VALUE, 3)]


def test_a_batch_that_has_ended_is_forgotten() -> None:
    run_batch(*rows_of([3]))
    assert recall.recall(["a"]) == {}


# -------------------------------------------------------------------------------- agenda
def test_the_first_task_of_a_row_that_was_begun_is_kept() -> None:
    agenda = Agenda([(0, b"", b"", 3), (3, b"", b"", 0)])
    agenda.recall()
    assert agenda.kept == 0
    assert agenda.begin_row() == (0, b"", b"", 3)
    agenda.recall()
    # Its tasks are not known yet: all count as begun.
    assert agenda.kept == 3
    first, begin_next = agenda.begin_calls([(0,), (1,), (2,)])
    agenda.recall()
    assert first == (0,)
    assert agenda.kept == 1
    with pytest.raises(IndexError):
        begin_next()
    assert agenda.begin_row() is None


@pytest.mark.parametrize("size", [1, 3, 200])
def test_each_task_is_begun_or_given_back_never_both(size: int) -> None:
    """However the two threads take turns."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            begin_and_recall(size)
    finally:
        sys.setswitchinterval(interval)


def begin_and_recall(size: int) -> None:
    agenda = Agenda([(i * size, b"", b"", size) for i in range(3)])
    begun: list[int] = []
    ready = threading.Barrier(2)

    def begin() -> None:
        ready.wait(HUNG)
        while (row := agenda.begin_row()) is not None:
            numbers = [(row[0] + i,) for i in range(size)]
            (number,), begin_next = agenda.begin_calls(numbers)
            try:
                while True:
                    begun.append(number)
                    (number,) = begin_next()
            except IndexError:
                pass

    done = in_thread(begin)
    ready.wait(HUNG)
    agenda.recall()
    kept = agenda.kept
    done(HUNG)
    if kept:
        assert begun == list(range(kept))
    else:  # it had not begun then
        assert begun == list(range(3 * size))


# -------------------------------------------------------------------------- paused
class PausingWorker:
    """Is paused once a task has begun, or from the first."""

    address = "tcp://here:1"

    def __init__(self, after: int) -> None:
        self.after = after

    @property
    def status(self) -> Status:
        return Status.paused if len(_begun) >= self.after else Status.running


@pytest.mark.parametrize(
    ("sizes", "after", "run_first"),
    [([5], 2, 2), ([0, 0, 0], 2, 2), ([5], 0, 1), ([0, 0], 0, 1), ([5], 9, 5)],
)
def test_a_paused_worker_begins_no_more_of_a_batch(
    sizes: list[int], after: int, run_first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one: what is run nowhere would be sent for ever."""
    monkeypatch.setattr(run, "LOOK_INTERVAL", 0.0)
    monkeypatch.setattr(buffers, "get_worker", lambda: PausingWorker(after))
    outcomes = unpack_report(run_batch(*rows_of(sizes)._replace(box=3600.0))).outcomes
    assert _begun == list(range(run_first))
    number = sum(size or 1 for size in sizes)
    given = [kind for kind, size in shape(outcomes) for _ in range(size)]
    assert given == [Kind.VALUE] * run_first + [Kind.NOT_RUN] * (number - run_first)
    assert outcomes[0].kind is Kind.VALUE
    if outcomes[0].plain:
        assert unpack_plain(outcomes[0]) == list(range(run_first))


def test_an_attempt_that_runs_anew_answers_though_the_first_run_ends() -> None:
    """Several workers may be one process."""
    recall.note_running("key", lambda: (1, 2.0))
    second = SimpleNamespace(answer=lambda: (3, 4.0)).answer
    first = recall._running["key"]
    recall.note_running("key", second)
    recall.note_ended("key", first)
    assert recall.recall(["key"]) == {"key": (3, 4.0)}
    recall.note_ended("key", second)
    assert recall.recall(["key"]) == {}
    recall.note_ended("key", second)
