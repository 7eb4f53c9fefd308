"""Batches, run as the engine runs them but without one."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import joblib
import pytest
from joblib.parallel import SequentialBackend, ThreadingBackend

from joblib_distributed.data import host
from joblib_distributed.data.batch import BatchPayload, CallContext, Surroundings
from joblib_distributed.data.buffers import name_of
from joblib_distributed.data.host import HostStore, host_store
from joblib_distributed.data.outcome import (
    Kind,
    Missing,
    Outcome,
    Report,
    not_run,
    unpack_error,
    unpack_missing,
    unpack_plain,
    unpack_report,
    unpack_value,
)
from joblib_distributed.data.payload import Packer, pack
from joblib_distributed.data.store import Buffer
from joblib_distributed.data.tasks import (
    PLAIN_TEXT,
    PackedTask,
    PlainTasks,
    References,
    Sharing,
    Tasks,
)
from joblib_distributed.data.wire import wire_format
from joblib_distributed.driver.sending import Sender
from joblib_distributed.errors import (
    ErrorTransferError,
    ResultTransferError,
    TaskExitError,
)
from joblib_distributed.worker import buffers, interrupt, run
from joblib_distributed.worker.probe import describe_worker
from joblib_distributed.worker.run import run_batch
from joblib_distributed.worker.supplies import READ, TAKE
from support.hostile import Harm, OnPickle, OnUnpickle
from support.tasks import in_thread

CONTEXT = pack(CallContext(SequentialBackend(nesting_level=1), None, None))
NOT_RUN = not_run(1)
WORKER = f"(no worker) (pid {os.getpid()})"


@pytest.fixture(autouse=True)
def _fresh_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test interrupts calls of its own; none is left registered."""
    monkeypatch.setattr(interrupt, "_unwanted", OrderedDict())
    yield
    assert interrupt._runs == {}


def payload(
    *items: tuple[Any, ...], call: str = "c", context: bytes = CONTEXT
) -> BatchPayload:
    """Pack tasks, each ``(function, *arguments)``, as the driver does."""
    packer = Packer()
    tasks = [packer.pack_task((function, args, {})) for function, *args in items]
    return BatchPayload(
        call,
        context,
        {task.function_key: task.function for task in tasks},
        tuple((task.index, task.function_key, task.arguments, 0) for task in tasks),
    )


def report_of(batch: BatchPayload) -> Report:
    packed = run_batch(*batch)
    assert type(packed) is bytes
    return unpack_report(packed)


def results_of(batch: BatchPayload) -> list[object]:
    """Run a batch; return its values, and its errors as they would be raised."""
    found = [r for outcome in report_of(batch).outcomes for r in results(outcome)]
    assert len(found) == sum(plain or 1 for *_, plain in batch.tasks)
    return found


def results_in_turns(batch: BatchPayload) -> list[object]:
    """The same, as the driver does it: what was not run is sent again."""
    found = results_of(batch)
    begun = [r for r in found if r is not NOT_RUN]
    if len(begun) < len(found):
        assert begun, "a batch in which nothing is run"
        begun += results_in_turns(batch._replace(tasks=batch.tasks[len(begun) :]))
    return begun


def results(outcome: Outcome) -> list[object]:
    """Return what each task of an outcome gave."""
    if outcome.kind is Kind.VALUE and outcome.plain:
        return unpack_plain(outcome)
    return [result(outcome)] * outcome.size


def result(outcome: Outcome) -> object:
    if outcome.kind is Kind.NOT_RUN:
        return NOT_RUN  # not its kind, a number that may be a result, too
    if outcome.kind is Kind.ERROR:
        return unpack_error(outcome.packed, 0, "f")
    return unpack_value(outcome.packed, 0, "f")


def kinds(results: list[object]) -> list[object]:
    return [type(r) if isinstance(r, BaseException) else r for r in results]


def double(x: int) -> int:
    return 2 * x


def fail(error: BaseException) -> None:
    raise error


def fail_without_end() -> None:
    fail_without_end()


class Counting:
    """A function with a state."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


# ------------------------------------------------------------------------------- results
def test_values_come_in_the_order_of_the_tasks() -> None:
    batch = payload((double, 3), (sorted, [2, 1]), (double, "a"))
    report = report_of(batch)
    assert report.worker == WORKER
    assert [outcome.kind for outcome in report.outcomes] == [Kind.VALUE] * 3
    assert [result(outcome) for outcome in report.outcomes] == [6, [1, 2], "aa"]


def test_empty_batch() -> None:
    assert report_of(payload()) == Report(WORKER, [])


def test_keyword_arguments() -> None:
    task = Packer().pack_task((sorted, ([1, 2],), {"reverse": True}))
    batch = BatchPayload(
        "c",
        CONTEXT,
        {task.function_key: task.function},
        ((0, task.function_key, task.arguments, 0),),
    )
    assert results_of(batch) == [[2, 1]]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ((fail, ValueError("mine")), ValueError),
        ((double, OnUnpickle("raise")), Harm),
        ((OnPickle, "raise"), ResultTransferError),
        ((fail, SystemExit(3)), TaskExitError),
    ],
    ids=["raises", "cannot be unpacked", "result cannot be packed", "exits"],
)
def test_batch_stops_at_its_first_error(bad: Any, error: type[Exception]) -> None:
    """The driver is to hear of it now, not after the rest."""
    results = results_of(payload((double, 1), bad, (double, 2), bad))
    assert kinds(results) == [2, error, NOT_RUN, NOT_RUN]


def test_one_bad_task_spoils_only_itself() -> None:
    batch = payload(
        (double, 1),
        (fail, ValueError("mine")),
        (double, OnUnpickle("raise")),
        (OnPickle, "raise"),
        (double, 2),
    )
    assert kinds(results_in_turns(batch)) == [
        2, ValueError, Harm, ResultTransferError, 4,
    ]  # fmt: skip


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_exit_of_a_task_spoils_only_itself(error: BaseException) -> None:
    results = results_in_turns(payload((double, 1), (fail, error), (double, 2)))
    assert kinds(results) == [2, TaskExitError, 4]


@pytest.mark.parametrize("act", ["raise", "sys.exit"])
def test_harm_while_packing_spoils_only_its_task(act: str) -> None:
    batch = payload((OnPickle, act), (double, 1))
    assert kinds(results_in_turns(batch)) == [ResultTransferError, 2]


def test_exit_while_unpacking_spoils_only_its_task() -> None:
    batch = payload((double, OnUnpickle("sys.exit")), (double, 1))
    assert kinds(results_in_turns(batch)) == [TaskExitError, 2]


def test_exception_that_does_not_pickle_spoils_only_its_task() -> None:
    def fail_with_lock() -> None:
        raise ValueError(threading.Lock())

    results = results_in_turns(payload((fail_with_lock,), (double, 1)))
    assert kinds(results) == [ErrorTransferError, 2]
    assert "TypeError: cannot pickle '_thread.lock' object" in str(results[0])


def test_endless_recursion_spoils_only_its_task() -> None:
    results = results_in_turns(payload((fail_without_end,), (double, 1)))
    assert kinds(results) == [RecursionError, 2]


def test_missing_module_is_named_with_the_task_and_the_worker() -> None:
    batch = payload((double, 1), (double, 2))
    (_, key, _, _), second = batch.tasks
    batch = batch._replace(tasks=((0, key, b"cmissing_module\nname\n.", 0), second))
    missing, four = results_in_turns(batch)
    assert isinstance(missing, ModuleNotFoundError)
    assert missing.name == "missing_module"
    assert f"Task 0 (f) could not be unpickled on worker {WORKER}: " in str(
        missing.__cause__
    )
    assert four == 4


class Model:
    pass


def same(first: object, second: object) -> tuple[bool, int]:
    return first is second, id(first)


def test_a_scattered_object_is_unpickled_once_for_a_batch() -> None:
    model = Model()
    packer = Packer(scatter=[model])
    tasks = [packer.pack_task((same, (model, model), {})) for _ in range(2)]
    batch = BatchPayload(
        "c",
        CONTEXT,
        {task.function_key: task.function for task in tasks},
        tuple((task.index, task.function_key, task.arguments, 0) for task in tasks),
        {task.index: task.shared.references for task in tasks},
        {0: (packer.scattered[0].packed, packer.scattered[0].shared.references, b"")},
    )
    first, second = results_of(batch)
    assert first == second == (True, first[1])  # type: ignore[index]


def test_function_that_does_not_unpickle_spoils_only_its_tasks() -> None:
    batch = payload((double, 1), (abs, -2), (double, 3))
    broken = {**batch.functions, batch.tasks[0][1]: b"cmissing_module\nname\n."}
    results = results_in_turns(batch._replace(functions=broken))
    assert kinds(results) == [ModuleNotFoundError, 2, ModuleNotFoundError]


def test_context_that_does_not_unpickle_fails_every_task() -> None:
    batch = payload((double, 1), (double, 2), context=b"cmissing_module\nname\n.")
    results = results_of(batch)
    assert kinds(results) == [ModuleNotFoundError] * 2
    assert "could not be unpickled on worker" in str(results[0].__cause__)  # type: ignore[attr-defined]


class Clock:
    """Stands still unless a task takes its time."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now


_clock = Clock()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(run, "time", _clock)
    _clock.now = 1000.0
    return _clock


def take(seconds: float) -> float:
    _clock.now += seconds
    return seconds


def take_and_fail(seconds: float) -> None:
    _clock.now += seconds
    raise ValueError(seconds)


def take_and_list(seconds: float) -> list[float]:
    _clock.now += seconds
    return [seconds]


@pytest.mark.usefixtures("clock")
def test_own_duration_of_each_task_is_reported() -> None:
    batch = payload((take, 0.5), (take_and_fail, 2.0))
    report = report_of(batch)
    assert [outcome.duration for outcome in report.outcomes] == [0.5, 2.0]


# --------------------------------------------------------------------------------- plain
def plain(index: int, function: Callable[..., Any], *values: object) -> PlainTasks:
    """Return neighbours with one argument each."""
    task = Packer().pack_task((function, (), {}))
    calls = [(value,) for value in values]
    return PlainTasks(index, task.name, task.function_key, task.function, calls)


def packed(index: int, function: Callable[..., Any], *args: object) -> PackedTask:
    packer = Packer()
    packer._count = index
    return packer.pack_task((function, args, {}))


def batch_of(
    *tasks: Tasks, box: float | None = None, call: str = "c", context: bytes = CONTEXT
) -> BatchPayload:
    return Sender(call, Surroundings(context), [], None).payload(tasks, False, box)


def shape_of(batch: BatchPayload) -> list[tuple[Kind, int]]:
    """Run a batch; return the kind of each outcome, and of how many plain tasks it is."""
    return [(outcome.kind, outcome.plain) for outcome in report_of(batch).outcomes]


def answer(word: object) -> object:
    """Do as one is told."""
    if word == "raise":
        raise ValueError("mine")
    if word == "exit":
        raise SystemExit(3)
    if word == "list":
        return [word]
    if word == "lock":
        return threading.Lock()
    if word == "kind":
        return Kind.ERROR
    if word == "long":
        return "x" * (PLAIN_TEXT + 1)
    return word


def test_values_of_plain_neighbours_are_one_outcome() -> None:
    batch = batch_of(plain(0, answer, 1, 2.5, None, "text", True, 1j))
    assert results_of(batch) == [1, 2.5, None, "text", True, 1j]
    assert shape_of(batch) == [(Kind.VALUE, 6)]


def test_plain_neighbours_beside_others() -> None:
    batch = batch_of(
        packed(0, double, 1),
        plain(1, double, 2, 3),
        plain(3, abs, -4),
        packed(4, abs, -5),
    )
    assert results_of(batch) == [2, 4, 6, 4, 5]
    assert [plain for _, plain in shape_of(batch)] == [0, 2, 1, 0]


def test_plain_tasks_take_all_arguments_by_position() -> None:
    (key, function) = next(iter(payload((pow, 2, 3)).functions.items()))
    tasks = PlainTasks(0, "pow", key, function, [(2, 3), (2, 10, 1000), (2, -1)])
    assert results_of(batch_of(tasks)) == [8, 24, 0.5]


@pytest.mark.parametrize("word", ["list", "kind", "long"])
def test_a_result_that_is_not_plain_keeps_its_place(word: str) -> None:
    batch = batch_of(plain(0, answer, 1, 2, word, 3, word, word))
    assert shape_of(batch) == [
        (Kind.VALUE, 2),
        (Kind.VALUE, 0),
        (Kind.VALUE, 1),
        (Kind.VALUE, 0),
        (Kind.VALUE, 0),
    ]
    found = results_of(batch)
    special = answer(word)
    assert found == [1, 2, special, 3, special, special]
    assert type(found[2]) is type(special)


def test_the_first_result_may_be_the_one_that_is_not_plain() -> None:
    assert results_of(batch_of(plain(0, answer, "list", 1))) == [["list"], 1]


@pytest.mark.parametrize(
    ("word", "error"),
    [("raise", ValueError), ("exit", TaskExitError), ("lock", ResultTransferError)],
)
def test_plain_neighbours_end_with_the_first_that_fails(
    word: str, error: type[Exception]
) -> None:
    batch = batch_of(plain(0, answer, 1, "list", 2, word, 3, 4), plain(6, double, 5))
    assert kinds(results_of(batch)) == [1, ["list"], 2, error, *[NOT_RUN] * 3]
    assert shape_of(batch) == [
        (Kind.VALUE, 1),
        (Kind.VALUE, 0),
        (Kind.VALUE, 1),
        (Kind.ERROR, 0),
        (Kind.NOT_RUN, 3),
    ]


def test_the_first_of_plain_neighbours_may_fail() -> None:
    batch = batch_of(plain(0, answer, "raise", 1))
    assert shape_of(batch) == [(Kind.ERROR, 0), (Kind.NOT_RUN, 1)]


def test_the_last_of_plain_neighbours_may_fail() -> None:
    batch = batch_of(plain(0, answer, 1, "raise"))
    assert shape_of(batch) == [(Kind.VALUE, 1), (Kind.ERROR, 0)]


def test_an_error_says_where_it_was_raised_among_plain_neighbours() -> None:
    _, failed = results_of(batch_of(plain(0, answer, 1, "raise")))
    assert "in answer" in str(failed.__cause__)  # type: ignore[attr-defined]
    _, failed = results_of(batch_of(plain(0, answer, 1, "lock")))
    assert "ran to its end" in str(failed)


def test_function_of_plain_neighbours_that_does_not_unpickle() -> None:
    batch = batch_of(plain(0, double, 1, 2, 3), packed(3, abs, -1))
    (_, key, _, _), _ = batch.tasks
    broken = {**batch.functions, key: b"cmissing_module\nname\n."}
    failed, *rest = results_of(batch._replace(functions=broken))
    assert isinstance(failed, ModuleNotFoundError)
    assert "could not be unpickled on worker" in str(failed.__cause__)
    assert rest == [NOT_RUN] * 3


def test_context_that_does_not_unpickle_fails_every_plain_task() -> None:
    batch = batch_of(
        plain(0, double, 1, 2), packed(2, double, 3), context=b"cmissing_module\nname\n."
    )
    assert kinds(results_of(batch)) == [ModuleNotFoundError] * 3


def test_function_of_plain_neighbours_is_unpacked_once_for_a_batch() -> None:
    task = Packer().pack_task((Counting(), (), {}))
    tasks = PlainTasks(0, "f", task.function_key, task.function, [()] * 3)
    assert results_of(batch_of(tasks, task, tasks)) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.usefixtures("clock")
def test_durations_of_plain_neighbours_are_those_of_their_values() -> None:
    report = report_of(
        batch_of(
            plain(0, take, 0.5, 0.25),
            plain(2, take_and_list, 2.0, 4.0),
            plain(4, take_and_fail, 8.0, 16.0),
        )
    )
    assert [(o.plain, o.duration) for o in report.outcomes] == [
        (2, 0.75),
        (0, 2.0),
        (0, 4.0),
        (0, 8.0),
        (1, 0.0),
    ]


def take_and_do(seconds: float, word: object) -> object:
    _clock.now += seconds
    return answer(word)


@pytest.mark.usefixtures("clock")
def test_time_of_a_result_that_is_not_plain_is_not_that_of_its_neighbours() -> None:
    task = Packer().pack_task((take_and_do, (), {}))
    calls = [(0.5, 1), (1.0, "list"), (2.0, 2), (4.0, 3), (8.0, "raise")]
    tasks = PlainTasks(0, "f", task.function_key, task.function, calls)
    report = report_of(batch_of(tasks))
    assert [(o.plain, o.duration) for o in report.outcomes] == [
        (1, 0.5),
        (0, 1.0),
        (2, 6.0),
        (0, 8.0),
    ]


# ----------------------------------------------------------------------------- the box
@pytest.mark.usefixtures("clock")
def test_tasks_not_begun_when_the_time_is_over_are_given_back() -> None:
    tasks = [packed(i, take, 1.0) for i in range(5)]
    assert results_of(batch_of(*tasks, box=2.5)) == [1.0, 1.0, 1.0, NOT_RUN, NOT_RUN]
    assert shape_of(batch_of(*tasks, box=2.5))[3:] == [(Kind.NOT_RUN, 2)]


@pytest.mark.usefixtures("clock")
def test_plain_neighbours_are_parted_when_the_time_is_over() -> None:
    batch = batch_of(plain(0, take, *[1.0] * 5), box=2.5)
    assert shape_of(batch) == [(Kind.VALUE, 3), (Kind.NOT_RUN, 2)]
    assert results_of(batch) == [1.0, 1.0, 1.0, NOT_RUN, NOT_RUN]


@pytest.mark.usefixtures("clock")
def test_neighbours_are_parted_also_after_a_result_that_is_not_plain() -> None:
    batch = batch_of(plain(0, take_and_list, *[1.0] * 5), box=1.5)
    assert results_of(batch) == [[1.0], [1.0], *[NOT_RUN] * 3]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("next_is_plain", [True, False])
def test_nothing_is_begun_after_neighbours_that_were_parted(next_is_plain: bool) -> None:
    """What it gave would be taken for what they gave."""
    after = plain(4, take, 7.0, 8.0) if next_is_plain else packed(4, take, 7.0)
    batch = batch_of(plain(0, take, *[1.0] * 4), after, box=1.5)
    assert results_of(batch) == [1.0, 1.0, *[NOT_RUN] * (2 + after.size)]


@pytest.mark.usefixtures("clock")
def test_nothing_is_begun_when_the_time_ended_with_a_row() -> None:
    batch = batch_of(plain(0, take, 1.0, 1.0), plain(2, take, 7.0), box=1.5)
    assert results_of(batch) == [1.0, 1.0, NOT_RUN]


@pytest.mark.usefixtures("clock")
def test_rows_are_run_while_there_is_time() -> None:
    rows = [plain(2 * i, take, 0.5, 0.5) for i in range(4)]
    assert shape_of(batch_of(*rows, box=2.25)) == [
        (Kind.VALUE, 2),
        (Kind.VALUE, 2),
        (Kind.VALUE, 1),
        (Kind.NOT_RUN, 3),
    ]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("first", [packed(0, take, 1.0), plain(0, take, 1.0)])
def test_the_first_task_is_run_however_short_the_time(first: Tasks) -> None:
    """A batch in which nothing is run would be sent for ever."""
    batch = batch_of(first, packed(1, take, 2.0), plain(2, take, 3.0, 4.0), box=0.0)
    assert results_of(batch) == [1.0, *[NOT_RUN] * 3]


@pytest.mark.usefixtures("clock")
def test_the_time_begins_with_the_first_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_surroundings(context: CallContext) -> Any:
        take(100.0)
        return contextlib.nullcontext()

    monkeypatch.setattr(run, "_surroundings", slow_surroundings)
    tasks = [packed(i, take, 1.0) for i in range(3)]
    assert results_of(batch_of(*tasks, box=1.5)) == [1.0, 1.0, NOT_RUN]


@pytest.mark.usefixtures("clock")
def test_without_a_box_all_are_run() -> None:
    batch = batch_of(plain(0, take, *[1e6] * 3), packed(3, take, 1e9))
    assert results_of(batch) == [1e6, 1e6, 1e6, 1e9]


@pytest.mark.usefixtures("clock")
def test_nobody_looks_at_the_time_after_each_short_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would take longer than they do."""
    monkeypatch.setattr(run, "LOOK_INTERVAL", 1.0)
    batch = batch_of(plain(0, take, *[0.25] * 20), box=0.125)
    assert shape_of(batch) == [(Kind.VALUE, 4), (Kind.NOT_RUN, 16)]


# ------------------------------------------------------------------------------- buffers
class Sharer:
    """Packs batches for a host whose store is in a folder."""

    def __init__(
        self,
        stores: HostStore,
        folder: str,
        mmap_mode: str | None,
        scatter: Sequence[object] = (),
    ) -> None:
        self.stores, self.folder, self.mmap_mode = stores, folder, mmap_mode
        sharing = Sharing(1000, mmap_mode, folder, "the driver's", "owner")
        #: What the driver's store, another one, has: by name, and in use.
        self.kept: dict[str, Buffer] = {}
        self._packer = Packer(1000, self._keep, scatter)
        self._sender = Sender("c", Surroundings(CONTEXT), self._packer.scattered, sharing)

    def _keep(self, view: memoryview) -> Buffer:
        buffer = Buffer(name_of(view), view, object())
        self.kept[buffer.name] = buffer
        return buffer

    def batch(self, *items: tuple[Any, ...], along: bool = False) -> BatchPayload:
        tasks = [self._packer.pack_task((f, args, {})) for f, *args in items]
        return self._sender.payload(tasks, along)


@pytest.fixture(params=["r", "c", None])
def sharer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sharer]:
    pytest.importorskip("fcntl")
    stores = host_store(str(tmp_path))
    yield Sharer(stores, str(tmp_path), request.param)
    host._open.pop((os.getpid(), str(tmp_path))).close()
    assert os.listdir(tmp_path) == []


def name(content: bytes) -> str:
    return name_of(memoryview(content))


X, Y, Z = (letter * 1000 for letter in (b"x", b"y", b"z"))


def test_buffers_are_looked_for_once_a_batch_unless_each_task_gets_its_own(
    sharer: Sharer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for = []

    def note(names: Sequence[str], *others: Any) -> list[memoryview]:
        looked_for.append(list(names))
        return buffers.find_buffers(names, *others)

    monkeypatch.setattr(run, "find_buffers", note)
    batch = sharer.batch((len, X), (len, Y), (len, X))
    for content in (X, Y):
        sharer.stores.put(memoryview(content))
    assert [result(one) for one in report_of(batch).outcomes] == [1000] * 3
    once = [[name(X)], [name(Y)]]
    assert looked_for == (once if sharer.mmap_mode == "r" else [*once, [name(X)]])


def test_all_that_a_batch_lacks_is_reported_at_once(sharer: Sharer) -> None:
    batch = sharer.batch((double, 1), (len, X), (len, Y), (len, X))
    first, missing, *rest = report_of(batch).outcomes
    assert result(first) == 2
    assert missing.kind is Kind.MISSING
    assert unpack_missing(missing) == Missing(
        sharer.stores.identity, "", tuple(sorted([name(X), name(Y)]))
    )
    assert rest == [not_run(2)]


def test_plain_neighbours_whose_function_lacks_a_buffer_wait_for_it(
    sharer: Sharer,
) -> None:
    batch = sharer.batch((lambda x: len(Z) + x, 1))
    ((_, key, _, _),) = batch.tasks
    rows = ((0, key, pack([(1,), (2,), (3,)]), 3),)
    batch = batch._replace(tasks=rows, references={key: References((name(Z),), 1, ())})
    missing, rest = report_of(batch).outcomes
    assert unpack_missing(missing).names == (name(Z),)
    assert rest == not_run(2)
    with_it = batch._replace(buffers={name(Z): Z})
    assert results_of(with_it) == [1001, 1002, 1003]


def test_what_a_host_has_is_not_missing(sharer: Sharer) -> None:
    kept = [sharer.stores.put(memoryview(content)) for content in (X, Z)]
    (missing,) = report_of(sharer.batch((same, X, Y))).outcomes
    assert unpack_missing(missing).names == (name(Y),)
    kept.append(sharer.stores.put(memoryview(Y)))
    assert results_of(sharer.batch((len, X), (len, Y))) == [1000, 1000]


def test_what_was_sent_along_is_not_missing(sharer: Sharer) -> None:
    batch = sharer.batch((same, X, Y), along=True)
    assert results_of(batch)[0][0] is False  # type: ignore[index]
    only_x = batch._replace(buffers={name(X): X})
    (missing,) = report_of(only_x).outcomes
    assert unpack_missing(missing).names == (name(Y),)


def test_a_worker_that_lacks_buffers_says_where_to_bring_them(
    sharer: Sharer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Worker:
        address = "tcp://there:1"
        handlers: ClassVar[dict[str, object]] = {}
        memory_manager = SimpleNamespace(memory_limit=0)

    worker = Worker()
    monkeypatch.setattr(buffers, "current_worker", lambda: worker)
    (missing,) = report_of(sharer.batch((len, X))).outcomes
    assert unpack_missing(missing).address == "tcp://there:1"
    assert set(worker.handlers) == {TAKE, READ}


class Large:
    """Pickles as more than a buffer has at least, none of it a buffer."""

    def __init__(self, text: str) -> None:
        self.text = text


def text_of(large: Large) -> str:
    return large.text


def test_the_pickle_of_a_scattered_object_may_lie_in_a_store(sharer: Sharer) -> None:
    model = Large("x" * 2000)
    sharing = Sharer(sharer.stores, sharer.folder, sharer.mmap_mode, [model])
    batch = sharing.batch((text_of, model))
    assert sum(len(packed) for _, _, packed, _ in batch.tasks) < 1000
    (buffer,) = sharing.kept.values()
    kept, _ = sharer.stores.put(buffer.view)
    assert results_of(batch) == [model.text]
    del kept


def test_a_pickle_that_somebody_else_has_put_into_a_store_is_not_unpickled(
    sharer: Sharer, tmp_path: Path
) -> None:
    model, ran = Large("x" * 2000), tmp_path / "ran"
    sharing = Sharer(sharer.stores, sharer.folder, sharer.mmap_mode, [model])
    batch = sharing.batch((text_of, model))
    (buffer,) = sharing.kept.values()
    kept, _ = sharer.stores.put(buffer.view)
    overwrite(buffer, tmp_path, pickle.dumps(Touch(ran)))
    (error,) = results_of(batch)
    assert isinstance(error, pickle.UnpicklingError)
    assert str(error).startswith(
        f"an object of {buffer.view.nbytes} bytes, in a file of the host's store, is not "
        "what was put there: "
    )
    assert not ran.exists()
    del kept


def overwrite(buffer: Buffer, folder: Path, evil: bytes) -> None:
    """Do as somebody does who may write to a store."""
    (stored,) = [path for path in folder.rglob("*") if path.name == buffer.name]
    stored.chmod(0o600)
    with stored.open("r+b") as file:
        file.write(evil.ljust(buffer.view.nbytes)[: buffer.view.nbytes])


class Wrapped:
    """Pickles itself into bytes, which are large, as joblib's wrapper of objects does."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return unwrap, (pickle.dumps(self.text),)


def unwrap(packed: bytes) -> Wrapped:
    return Wrapped(pickle.loads(packed))


def test_bytes_that_somebody_else_has_put_into_a_store_reach_nobody(
    sharer: Sharer, tmp_path: Path
) -> None:
    """Whoever owns them may unpickle them."""
    wrapped, ran = Wrapped("x" * 2000), tmp_path / "ran"
    batch = sharer.batch((text_of, wrapped))
    (buffer,) = sharer.kept.values()
    kept, _ = sharer.stores.put(buffer.view)
    assert results_of(batch) == [wrapped.text]
    overwrite(buffer, tmp_path, pickle.dumps(Touch(ran)))
    (error,) = results_of(batch)
    assert isinstance(error, pickle.UnpicklingError)
    assert not ran.exists()
    del kept


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_host_without_a_store_says_that_it_has_none(
    sharer: Sharer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffers, "host_store", lambda folder: HostStore([]))
    (missing,) = report_of(sharer.batch((len, X))).outcomes
    assert unpack_missing(missing) == Missing("", "", (name(X),))


# ----------------------------------------------------------------------------- functions
def test_function_is_unpacked_once_for_a_batch() -> None:
    counting = Counting()
    batch = payload((counting,), (counting,), (counting,))
    assert len(batch.functions) == 1
    assert results_of(batch) == [1, 2, 3]


def test_function_is_not_shared_between_batches() -> None:
    batch = payload((Counting(),))
    assert [results_of(batch), results_of(batch)] == [[1], [1]]


def test_arguments_are_not_shared_between_tasks() -> None:
    def extended(items: list[int]) -> list[int]:
        items.append(1)
        return items

    items: list[int] = []
    assert results_of(payload((extended, items), (extended, items))) == [[1], [1]]


# ------------------------------------------------------------------------------- context
def nested_call() -> tuple[str, int | None, int]:
    backend, n_jobs = joblib.parallel.get_active_backend()
    return type(backend).__name__, n_jobs, backend.nesting_level


def test_nested_calls_find_the_backend_of_the_context() -> None:
    context = CallContext(ThreadingBackend(nesting_level=1), 3, None)
    batch = payload((nested_call,), context=pack(context))
    outside = nested_call()
    assert results_of(batch) == [("ThreadingBackend", 3, 1)]
    assert nested_call() == outside


def test_backend_of_this_thread_is_back_after_a_failed_batch() -> None:
    context = CallContext(ThreadingBackend(nesting_level=1), 3, None)
    outside = nested_call()
    report_of(payload((fail, SystemExit()), context=pack(context)))
    assert nested_call() == outside


def library_threads() -> list[int]:
    from threadpoolctl import threadpool_info

    return [library["num_threads"] for library in threadpool_info()]


def test_threads_of_libraries_are_limited_while_tasks_run() -> None:
    pytest.importorskip("numpy").linalg.inv([[1.0]])
    before = library_threads()
    limited = CallContext(SequentialBackend(nesting_level=1), None, 1)
    assert results_of(payload((library_threads,), context=pack(limited))) == [
        [1] * len(before)
    ]
    assert library_threads() == before
    assert results_of(payload((library_threads,))) == [before]


# ----------------------------------------------------------------------------- interrupts
def test_batch_of_an_unwanted_call_is_not_run() -> None:
    interrupt.interrupt_call("c")
    assert results_of(payload((double, 1), (double, 2))) == [NOT_RUN] * 2
    assert results_of(payload((double, 1), call="other")) == [2]


def test_plain_tasks_of_an_unwanted_call_are_not_run() -> None:
    interrupt.interrupt_call("c")
    tasks = plain(0, double, 1, 2), packed(2, double, 3)
    assert shape_of(batch_of(*tasks)) == [(Kind.NOT_RUN, 3)]
    assert results_of(batch_of(*tasks, call="other")) == [2, 4, 6]


_started = threading.Event()


def spin_until_interrupted() -> None:
    _started.set()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass


def test_what_was_done_before_an_interrupt_is_reported() -> None:
    _started.clear()
    batch = payload((double, 1), (spin_until_interrupted,), (double, 3))
    join = in_thread(lambda: results_of(batch))
    assert _started.wait(30)
    assert interrupt.interrupt_call("c") == 1
    assert join() == [2, NOT_RUN, NOT_RUN]


def swallow(function: Callable[[], None]) -> str:
    try:
        function()
    except BaseException:
        return "swallowed"
    return "never interrupted"


def test_no_task_begins_after_one_that_swallowed_the_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "LOOK_INTERVAL", 0.0)
    _started.clear()
    batch = payload((swallow, spin_until_interrupted), (double, 3))
    join = in_thread(lambda: results_of(batch))
    assert _started.wait(30)
    interrupt.interrupt_call("c")
    assert join()[1] is NOT_RUN


def spin_if_asked(what: object) -> object:
    return spin_until_interrupted() if what == "spin" else what


def swallow_if_asked(what: object) -> object:
    return swallow(spin_until_interrupted) if what == "spin" else what


def test_plain_neighbours_are_interrupted() -> None:
    _started.clear()
    batch = batch_of(plain(0, spin_if_asked, "spin", 2), plain(2, double, 3))
    join = in_thread(lambda: results_of(batch))
    assert _started.wait(30)
    assert interrupt.interrupt_call("c") == 1
    assert join() == [NOT_RUN] * 3


@pytest.mark.parametrize("name", ["c", "an attempt"])
def test_no_neighbour_begins_after_one_that_swallowed_the_interrupt(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LOOK_INTERVAL", 0.0)
    _started.clear()
    batch = batch_of(plain(0, swallow_if_asked, 1, "spin", 3, 4))
    batch = batch._replace(attempt="an attempt")
    join = in_thread(lambda: results_of(batch))
    assert _started.wait(30)
    interrupt.interrupt_call(name)
    assert join() == [1, "swallowed", NOT_RUN, NOT_RUN]


# --------------------------------------------------------------------------------- probe
def test_probe_says_which_python_this_is_and_how_it_talks() -> None:
    assert describe_worker() == (*sys.version_info[:2], wire_format())
    assert pickle.loads(pickle.dumps(describe_worker)) is describe_worker
