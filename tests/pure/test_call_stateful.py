"""The ledger against a model cluster that does whatever a cluster may do."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

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
from joblib_distributed.driver import entries, verdicts
from joblib_distributed.driver.batching import FLIGHTS, BatchPolicy
from joblib_distributed.driver.call import Call
from joblib_distributed.driver.entries import (
    FAILURES_ALLOWED,
    LOOKS_BEFORE_LOST,
    RACING_ALLOWED,
)
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
)
from joblib_distributed.errors import (
    ClusterClosedError,
    NoWorkersError,
    TaskLostError,
    WorkerDiedError,
)

#: It takes seconds; but to make an example of a failure short may take minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

STRANDED_TIMEOUT = 10.0
NOT_RUN = not_run(1)

#: Small enough for what they bound to be reached in a few steps.
LOOKS_BEFORE_NEVER_ARRIVED = 3
LOSSES_ALLOWED = 2
MISSES_ALLOWED = 2


@pytest.fixture(scope="module", autouse=True)
def small_bounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "LOOKS_BEFORE_NEVER_ARRIVED", LOOKS_BEFORE_NEVER_ARRIVED)
        patch.setattr(verdicts, "LOSSES_ALLOWED", LOSSES_ALLOWED)
        patch.setattr(ledger, "MISSES_ALLOWED", MISSES_ALLOWED)
        yield


#: What an attempt that has ended already says when it is heard of again.
LATE = Outcome(Kind.VALUE, 0.0, b"late")

#: What is said of a task whose buffers its host lacks.
MISSING = pack_missing(Missing("host", "worker", ("name",)))

#: How many times a task raises before it gives its value; POISON always kills.
POISON = -1
behaviours = st.sampled_from([0, 0, 0, 0, 1, 2, 3, POISON])

#: What tasks do, and whether they are plain.
kinds_of_tasks = st.tuples(behaviours, st.booleans())

picks = st.integers(min_value=0, max_value=10**6)


class Ours(NamedTuple):
    """An error of ours that is to be delivered."""

    kind: type[Exception]
    #: What its message says.
    phrase: str


@dataclasses.dataclass
class ModelTask:
    """A task, and what it does when it is run."""

    index: int
    #: None if it is plain.
    packed: PackedTask | None
    delivery: int
    #: How long it takes.
    seconds: float
    #: How many times it still raises; POISON if it kills instead.
    raises: int
    retries_left: int
    #: Whether it was on a worker that died, and is not cleared.
    suspect: bool = False
    #: How often the engine forgot it, and how often of these before it arrived.
    losses: int = 0
    never_arrived: int = 0
    #: How often a worker could not begin it.
    failures: int = 0
    #: How often a host lacked its buffers; what it is to be sent with since.
    misses: int = 0
    along: bool = False
    #: Whether it was sent anew because no worker took it.
    renewed: bool = False
    #: Since when, until it is sent anew, if it was the first of its attempt.
    stranded_since: float | None = None
    worker: str = ""
    #: Whether its value has arrived.
    done: bool = False

    @property
    def value(self) -> Outcome:
        return Outcome(Kind.VALUE, self.seconds, b"value %d" % self.index)

    @property
    def error(self) -> Outcome:
        return Outcome(Kind.ERROR, self.seconds, b"error %d" % self.index)

    @property
    def gives_plain(self) -> bool:
        """Whether its value is reported together with those of its neighbours."""
        return self.packed is None and self.index % 4 != 3


def joined(tasks: Sequence[ModelTask]) -> Outcome:
    """Return what plain neighbours give together."""
    seconds = math.fsum(task.seconds for task in tasks)
    return pack_plain([task.value.packed for task in tasks], seconds)


@dataclasses.dataclass(eq=False)
class ModelRace:
    """Attempts that carry the same tasks: one, or more if workers fell silent."""

    #: Of all but those that were lost.
    keys: set[str] = dataclasses.field(default_factory=set)
    #: How many are to be sent.
    due: int = 0


@dataclasses.dataclass
class ModelAttempt:
    """An attempt as the engine has it."""

    #: What it was sent with.
    sent: list[ModelTask]
    #: Of each, the row that it was sent in.
    rows: list[int]
    sent_at: float
    race: ModelRace
    arrived: bool = False
    unknown: int = 0
    stranded_since: float | None = None
    #: How many of its tasks the worker keeps, if it was recalled, and was heard to be.
    kept: int | None = None
    heard: int | None = None
    #: Whether it is known to be at a long task; when it was sent, as looks have told.
    recalled: bool = False
    looked_since: float = math.inf

    @property
    def tasks(self) -> list[ModelTask]:
        """What it still is to give."""
        return self.sent[: self.heard]

    @property
    def surplus(self) -> list[ModelTask]:
        """What others are to give."""
        return self.sent[len(self.tasks) :]

    @property
    def patience(self) -> int:
        """Looks in a row that may not find it, and one more."""
        if self.arrived:
            return LOOKS_BEFORE_LOST
        times = max(task.never_arrived for task in self.tasks)
        return LOOKS_BEFORE_NEVER_ARRIVED * int(2**times)


class Remembering(BatchPolicy):
    """Remembers what it said last."""

    last: int | None = None

    def next_size(
        self, waiting: int, in_flight: int, loads: Sequence[float] = ()
    ) -> int | None:
        self.last = super().next_size(waiting, in_flight)
        return self.last


class LedgerMachine(RuleBasedStateMachine):
    """Feeds events; checks each instruction against what is known to be right."""

    #: Whether batches are merged and cut.
    has_policy = False

    @initialize(
        limit=st.sampled_from([None, 1, 2, 3]),
        retries=st.integers(min_value=0, max_value=2),
        threads=st.sampled_from([1, 2, 3]),
        known=st.sampled_from([None, 0.0, 0.001, 0.03, 0.05, 1.0]),
    )
    def start(
        self, limit: int | None, retries: int, threads: int, known: float | None
    ) -> None:
        self.limit = limit
        self.retries = retries
        self.policy = Remembering(threads) if self.has_policy else None
        if self.policy is not None and known is not None:
            self.policy.record(1, known, 0)
        self.call = Call("c", limit, retries, STRANDED_TIMEOUT, self.policy)
        self.now = 0.0
        #: When the cluster was last seen with threads.
        self.threads_at = -math.inf
        self.over = False
        self.tasks: list[ModelTask] = []
        #: Tasks of each delivery, in their order.
        self.deliveries: list[list[ModelTask]] = []
        #: Deliveries still to be made, and how each of the others ended.
        self.open: set[int] = set()
        #: Why the cluster failed, if it did.
        self.failure: ClusterClosedError | None = None
        self.ends: dict[int, str] = {}
        #: Task index -> its own error, or ours, that is to be delivered for it.
        self.expected_errors: dict[int, Outcome | Ours] = {}
        #: Whether an attempt that was given up may be running.
        self.strays = False
        self.in_flight: dict[str, ModelAttempt] = {}
        #: Attempts that have ended: key -> number of tasks.
        self.ended: dict[str, int] = {}
        self.released: set[str] = set()
        #: What waits for its buffers, by the attempt that lacked them.
        self.held: dict[str, list[ModelTask]] = {}
        #: Attempts whose buffers have been brought.
        self.supplied: list[str] = []
        #: What must be sent next because a worker has fallen silent.
        self.to_race: list[tuple[ModelRace, list[ModelTask]]] = []
        #: Attempts that workers must be asked about next.
        self.to_recall: list[str] = []
        #: The attempt, and its tasks, that buffers must be asked for next.
        self.lacking: tuple[str, list[ModelTask]] | None = None

    # ------------------------------------------------------------- the model's reactions
    def feed(self, event: Event) -> list[Instruction]:
        instructions = self.call.handle(event)
        for instruction in instructions:
            self.carry_out(instruction)
        assert not self.to_race, "what a silent worker has is not raced"
        assert not self.to_recall, "what should be back is not recalled"
        return instructions

    def carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, Send):
            self.send(instruction)
        elif isinstance(instruction, Deliver):
            self.deliver(instruction)
        elif isinstance(instruction, DeliverError):
            self.deliver_error(instruction)
        elif isinstance(instruction, Supply):
            self.hold(instruction)
        elif isinstance(instruction, Release):
            for key in instruction.keys:
                assert key not in self.released, "released twice"
                self.released.add(key)
                self.ended[key] = len(self.in_flight.pop(key).sent)
        elif isinstance(instruction, Recall):
            assert list(instruction.keys) == self.to_recall
            self.to_recall = []
        else:
            assert isinstance(instruction, Interrupt)

    def send(self, send: Send) -> None:
        assert not self.over
        assert send.key not in self.in_flight, "two attempts under one key"
        assert send.key not in self.ended, "a key is used again"
        assert send.tasks, "an empty attempt"
        rows = [self.tasks_of(row) for row in send.tasks]
        tasks = [task for row in rows for task in row]
        assert len({task.index for task in tasks}) == len(tasks), "a task is sent twice"
        for task in tasks:
            assert not task.done, "a task that gave its value is sent again"
            assert task.delivery in self.open, "nobody wants this task"
            assert task.index not in self.expected_errors, "a failed task is sent again"
            assert not self.is_held(task), "a task is sent before its buffers are there"
        race = self.check_race(send, tasks) if self.to_race else ModelRace()
        if race.keys:
            assert not send.solo, "a second turn is asked for"
        else:
            assert not any(t in a.tasks for a in self.in_flight.values() for t in tasks)
            assert self.limit is None or len(self.in_flight) < self.limit
            assert send.solo == any(task.suspect for task in tasks)
        if send.solo:
            assert len(tasks) == 1, "a suspect shares its attempt"
            assert not self.in_flight, "a suspect runs beside others"
        elif not race.keys:
            assert not self.suspects(), "an attempt is sent while there are suspects"
        race.keys.add(send.key)
        assert {send.with_buffers} == {task.along for task in tasks}
        assert {send.worker} == {task.worker for task in tasks}
        if self.policy is None:
            assert send.box is None
            assert len({task.delivery for task in tasks}) == 1, "deliveries are merged"
        else:
            assert send.box == self.policy.patience
        numbers = [number for number, row in enumerate(rows) for _ in row]
        attempt = ModelAttempt(tasks, numbers, self.now, race)
        attempt.stranded_since, tasks[0].stranded_since = tasks[0].stranded_since, None
        self.in_flight[send.key] = attempt

    def check_race(self, send: Send, tasks: list[ModelTask]) -> ModelRace:
        race, expected = self.to_race.pop(0)
        assert tasks == expected, "another attempt carries other tasks"
        assert send.worker == "", "what is raced is bound for the silent worker"
        race.due -= 1
        return race

    def racing(self, key: str, gone: Collection[str] = ()) -> set[str]:
        """Keys of the others that carry the tasks of an attempt."""
        keys = self.in_flight[key].race.keys & self.in_flight.keys()
        return keys - {key} - set(gone)

    def tasks_of(self, row: Tasks) -> list[ModelTask]:
        """Find what was sent, or delivered, in the model."""
        tasks = self.tasks[row.index : row.index + row.size]
        if isinstance(row, PlainTasks):
            assert [task.packed for task in tasks] == [None] * row.size
            assert list(row.calls) == [(task.index,) for task in tasks]
            assert len({task.delivery for task in tasks}) == 1
        else:
            assert [task.packed is row for task in tasks] == [True]
        return tasks

    def hold(self, supply: Supply) -> None:
        assert self.lacking is not None, "nothing is lacking"
        (key, tasks), self.lacking = self.lacking, None
        assert (supply.key, supply.missing) == (key, MISSING)
        assert [task for row in supply.tasks for task in self.tasks_of(row)] == tasks
        self.held[key] = tasks

    def is_held(self, task: ModelTask) -> bool:
        return any(task in tasks for tasks in self.held.values())

    def deliver(self, deliver: Deliver) -> None:
        tasks = self.deliveries[deliver.delivery]
        self.close(deliver.delivery, "values")
        delivered = []
        for row, outcome in zip(deliver.tasks, deliver.outcomes, strict=True):
            part = self.tasks_of(row)
            expected = joined(part) if outcome.plain else part[0].value
            assert outcome._replace(duration=expected.duration) == expected
            assert math.isclose(outcome.duration, expected.duration)
            assert outcome.size == len(part)
            delivered += part
        assert delivered == tasks
        assert all(task.done for task in tasks)

    def deliver_error(self, failed: DeliverError) -> None:
        self.close(failed.delivery, "error")
        assert failed.task is not None
        task, *others = self.tasks_of(failed.task)
        assert task.delivery == failed.delivery
        expected = self.expected_errors[task.index]
        if isinstance(expected, Outcome):
            assert failed.error == expected
            assert others == []
        else:
            assert type(failed.error) is expected.kind
            assert expected.phrase in str(failed.error)

    def close(self, number: int, end: str) -> None:
        assert number in self.open, "delivered twice"
        self.open.remove(number)
        self.ends[number] = end

    def suspects(self) -> list[ModelTask]:
        return [
            task
            for task in self.tasks
            if task.suspect and task.delivery in self.open and not self.is_held(task)
        ]

    def pick(self, number: int) -> str:
        return list(self.in_flight)[number % len(self.in_flight)]

    def is_solo(self, key: str) -> bool:
        return any(task.suspect for task in self.in_flight[key].tasks)

    def run(
        self, tasks: Sequence[ModelTask], most: int, stops: bool
    ) -> list[Outcome] | None:
        """Run the first `most` tasks of an attempt; None if that kills the worker.

        A worker stops at the first error, but for one of its own that all tasks meet.
        """
        failing = [i for i, task in enumerate(tasks) if task.raises > 0]
        begun = tasks[: min([most, failing[0] + 1] if stops and failing else [most])]
        if any(task.raises == POISON for task in begun):
            return None
        outcomes: list[Outcome] = []
        for task in begun:
            if task.raises == 0:
                outcomes.append(task.value)
                task.done, task.suspect = True, False
                continue
            task.raises -= 1
            outcomes.append(task.error)
            if task.retries_left:
                task.retries_left -= 1
            else:
                self.expected_errors[task.index] = task.error
        return outcomes + [NOT_RUN] * (len(tasks) - len(begun))

    def lose_attempt(self, key: str, gone: Collection[str] = ()) -> None:
        attempt = self.in_flight[key]
        self.strays = True
        if self.is_raced(key, gone):
            attempt.race.keys.discard(key)
            return
        for task in attempt.tasks:
            task.losses += 1
            if task.losses > LOSSES_ALLOWED:
                phrase = f"was lost by the cluster {task.losses} times"
                self.expected_errors[task.index] = Ours(TaskLostError, phrase)

    def is_raced(self, key: str, gone: Collection[str] = ()) -> bool:
        return bool(self.racing(key, gone) or self.in_flight[key].race.due)

    def win(self, key: str, outcomes: list[Outcome]) -> None:
        """Have the outcomes of an attempt arrive: others that carry its tasks end."""
        others = sorted(self.racing(key))
        self.strays = self.strays or bool(others)
        instructions = self.feed(AttemptFinished(key, "worker", outcomes))
        released = [list(i.keys) for i in instructions if isinstance(i, Release)]
        assert released == [*([others] if others else []), [key]]
        if others:
            assert isinstance(instructions[0], Release)

    def finish_attempt(self, key: str, most: int, stops: bool = True) -> None:
        attempt = self.in_flight[key]
        if attempt.kept is not None:
            most = min(most, attempt.kept)
        outcomes = self.run(attempt.tasks, most, stops)
        if outcomes is None:
            self.kill_attempts([key])
        else:
            # Somebody who runs it anew knows nothing of what was given back.
            knows = attempt.kept is not None
            ends = outcomes[-1].kind is not Kind.VALUE
            for task in attempt.surplus:
                outcomes.append(NOT_RUN if knows or ends else task.value)
            for task in attempt.tasks:
                task.worker = ""  # its host has what they need: anybody may run the rest
            self.win(key, self.reported(attempt, outcomes))

    def reported(
        self, attempt: ModelAttempt, outcomes: Sequence[Outcome]
    ) -> list[Outcome]:
        """Put together what a worker does: plain values, and what was not run."""
        reported: list[Outcome] = []
        one_by_one = zip(attempt.sent, attempt.rows, outcomes, strict=True)

        def group(one: tuple[ModelTask, int, Outcome]) -> tuple[str, int]:
            task, row, outcome = one
            if outcome.kind is Kind.NOT_RUN:
                return "not run", 0
            if outcome.kind is Kind.VALUE and task.gives_plain:
                return "row", row
            return "task", task.index

        for (what, _), members in itertools.groupby(one_by_one, group):
            tasks, _, given = zip(*members, strict=True)
            if what == "not run":
                reported.append(not_run(len(tasks)))
            else:
                reported += [joined(tasks)] if what == "row" else given
        return reported

    def miss(self, key: str, tasks: list[ModelTask]) -> None:
        """Note what of an attempt lacks its buffers."""
        tasks = [task for task in tasks if task.delivery in self.open]
        if not tasks:
            return
        for task in tasks:
            task.misses += 1
        if all(task.misses <= MISSES_ALLOWED for task in tasks):
            self.lacking = key, tasks
            return
        for task in tasks:
            task.along, task.worker, task.renewed = True, "", False

    def supply_one(self, key: str, along: bool) -> None:
        for task in self.held.pop(key):
            task.along = task.along or along
            task.worker, task.renewed = f"supplied for {key}", False
        self.feed(Supplied(key, f"supplied for {key}", along))
        self.supplied.append(key)

    def kill_attempts(self, keys: Sequence[str]) -> None:
        for key in keys:
            raced = self.is_raced(key)
            for task in () if raced else self.in_flight[key].tasks:
                if task.suspect:
                    self.expected_errors[task.index] = Ours(
                        WorkerDiedError, "also when it ran alone: "
                    )
                task.suspect = True
            instructions = self.feed(AttemptKilled(key, "It died."))
            self.check_nothing_but_released(key, instructions if raced else None)

    def check_nothing_but_released(
        self, key: str, instructions: list[Instruction] | None
    ) -> None:
        """Nothing comes of the end of an attempt that is raced, but room for others."""
        if instructions is not None:
            assert instructions[0] == Release([key])
            assert all(isinstance(other, Send) for other in instructions[1:])

    # ------------------------------------------------------------------------------ rules
    @precondition(lambda self: not self.over)
    @rule(
        kinds=st.lists(kinds_of_tasks, min_size=1, max_size=8),
        seconds=st.sampled_from([0.0, 0.001, 0.05, 0.3]),
    )
    def dispatch(self, kinds: list[tuple[int, bool]], seconds: float) -> None:
        number = len(self.deliveries)
        new: list[ModelTask] = []
        rows: list[Tasks] = []
        for is_plain, members in itertools.groupby(kinds, lambda kind: kind[1]):
            first = len(self.tasks) + len(new)
            for index, (raises, _) in enumerate(members, first):
                packed = None if is_plain else PackedTask(index, "f", b"", b"", b"")
                new.append(
                    ModelTask(index, packed, number, seconds, raises, self.retries)
                )
                if packed is not None:
                    rows.append(packed)
            if is_plain:
                calls = [(task.index,) for task in new[first - len(self.tasks) :]]
                rows.append(PlainTasks(first, "f", b"", b"", calls))
        self.tasks += new
        self.deliveries.append(new)
        self.open.add(number)
        self.feed(Dispatched(number, rows))

    @precondition(lambda self: self.in_flight)
    @rule(
        which=picks,
        share=st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0]),
        stops=st.sampled_from([True, True, False]),
    )
    def finish(self, which: int, share: float, stops: bool) -> None:
        key = self.pick(which)
        most = math.ceil(share * len(self.in_flight[key].tasks))
        self.finish_attempt(key, most, stops)

    @precondition(lambda self: self.in_flight)
    @rule(which=picks, share=st.sampled_from([0.0, 0.0, 0.5]))
    def lack_buffers(self, which: int, share: float) -> None:
        """A task finds that its host lacks buffers; those after it are not run."""
        key = self.pick(which)
        attempt = self.in_flight[key]
        tasks = attempt.tasks
        able = len(tasks) if attempt.kept is None else min(attempt.kept, len(tasks))
        begun = math.floor(share * able)
        if any(task.raises for task in tasks[:begun]):
            self.finish_attempt(key, begun)
            return
        outcomes = self.run(tasks, begun, stops=True)
        assert outcomes is not None
        outcomes[begun] = MISSING
        outcomes += [NOT_RUN] * len(attempt.surplus)
        self.miss(key, tasks[begun:])
        self.win(key, self.reported(attempt, outcomes))
        assert self.lacking is None, "buffers were not asked for"

    @precondition(lambda self: self.in_flight)
    @rule(
        which=picks,
        share=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
        seconds=st.sampled_from([0.0, 0.5, 50.0]),
        is_heard=st.sampled_from([True, True, True, False]),
    )
    def recall(self, which: int, share: float, seconds: float, is_heard: bool) -> None:
        """A worker gives back what it has not begun; the answer may never come.

        Asked again it answers the same. Others that carry the same tasks may run them.
        """
        key = self.pick(which)
        attempt = self.in_flight[key]
        if attempt.kept is None:
            attempt.kept = max(1, math.ceil(share * len(attempt.sent)))
        if is_heard:
            if not self.racing(key) and attempt.kept < len(attempt.tasks):
                for task in attempt.tasks[attempt.kept :]:
                    task.worker = ""
                attempt.heard = attempt.kept
            if self.policy is not None:
                attempt.recalled = seconds >= self.policy.patience
            self.feed(Recalled(key, attempt.kept, seconds, "worker", has_others=True))

    @precondition(lambda self: self.in_flight)
    @rule(which=picks)
    def run_anew(self, which: int) -> None:
        """Its worker dies; the engine has another run it, which was told nothing."""
        self.in_flight[self.pick(which)].kept = None

    @precondition(lambda self: self.held)
    @rule(which=picks, along=st.sampled_from([False, False, True]))
    def supply(self, which: int, along: bool) -> None:
        self.supply_one(list(self.held)[which % len(self.held)], along)

    @precondition(lambda self: self.supplied)
    @rule(along=st.booleans())
    def supply_again(self, along: bool) -> None:
        """What is said twice is as if it had been said once."""
        assert self.call.handle(Supplied(self.supplied[-1], "again", along)) == []

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def kill_a_worker(self, data: st.DataObject) -> None:
        """Several attempts die with their worker; none of them need be guilty."""
        shared = [k for k in self.in_flight if self.racing(k) or not self.is_solo(k)]
        shared = shared[:1] if any(map(self.is_solo, shared)) else shared
        if shared:
            self.kill_attempts(
                data.draw(st.lists(st.sampled_from(shared), unique=True, max_size=4))
            )

    @precondition(lambda self: self.in_flight)
    @rule(which=picks)
    def lose(self, which: int) -> None:
        key = self.pick(which)
        raced = self.is_raced(key)
        self.lose_attempt(key)
        instructions = self.feed(AttemptLost(key))
        self.check_nothing_but_released(key, instructions if raced else None)

    @precondition(lambda self: self.in_flight)
    @rule(which=picks, never_began=st.booleans())
    def fail_to_start(self, which: int, never_began: bool) -> None:
        key = self.pick(which)
        raced = self.is_raced(key)
        for task in () if raced else self.in_flight[key].tasks:
            task.failures += 1
            if not never_began or task.failures > FAILURES_ALLOWED:
                self.expected_errors[task.index] = Ours(
                    TaskLostError, "gave nothing that could be had: It could not."
                )
        failed = AttemptFailed(key, "It could not.", never_began=never_began)
        instructions = self.feed(failed)
        self.check_nothing_but_released(key, instructions if raced else None)

    @precondition(lambda self: self.ended)
    @rule(which=picks, kind=st.integers(min_value=0, max_value=7))
    def report_late(self, which: int, kind: int) -> None:
        """An attempt that has ended is heard of again: as if nothing had been said."""
        key = list(self.ended)[which % len(self.ended)]
        events: list[Event] = [
            AttemptFinished(key, "worker", [LATE] * self.ended[key]),
            AttemptKilled(key, "late"),
            AttemptLost(key),
            AttemptFailed(key, "late"),
            Looked(self.now, {key: None}, 1, silent=frozenset([key])),
            AttemptFinished(key, "worker", [MISSING] * self.ended[key]),
            Supplied("unknown" if key in self.held else key, "late", along=True),
            Recalled(key, 1, 50.0, "late", has_others=True),
        ]
        assert self.call.handle(events[kind]) == []
        if isinstance(events[kind], Looked):
            self.threads_at = self.now

    @precondition(lambda self: self.in_flight)
    @rule(
        data=st.data(),
        passed=st.sampled_from([0.0, 1.0, STRANDED_TIMEOUT]),
        threads=st.sampled_from([0, 4, 4, 4]),
        constrained=st.booleans(),
        times=st.sampled_from([1, 1, 2, 6]),
    )
    def look(
        self,
        data: st.DataObject,
        passed: float,
        threads: int,
        constrained: bool,
        times: int,
    ) -> None:
        state = st.sampled_from(["processing", "queued", "erred", "no-worker", None])
        keys = st.sampled_from(list(self.in_flight))
        states = data.draw(st.dictionaries(keys, state, min_size=1))
        silent = data.draw(st.one_of(st.just(frozenset()), st.frozensets(keys)))
        for _ in range(times):
            self.now += passed
            sent_at = {key: a.sent_at for key, a in self.in_flight.items()}
            self.look_once(
                Looked(self.now, states, threads, constrained, sent_at, silent)
            )

    @precondition(lambda self: self.in_flight)
    @rule(which=picks, all_of_them=st.booleans())
    def fall_silent(self, which: int, all_of_them: bool) -> None:
        """One worker does, or all that have the tasks of an attempt."""
        key = self.pick(which)
        keys = {key, *(self.racing(key) if all_of_them else ())}
        states = dict.fromkeys(sorted(keys), "processing")
        self.look_once(Looked(self.now, states, 4, False, silent=frozenset(keys)))

    def look_once(self, looked: Looked) -> None:
        gone: list[str] = []
        threads_at = self.threads_at
        if looked.threads:
            self.threads_at = self.now
        for key, said in looked.states.items():
            attempt = self.in_flight.get(key)
            if attempt is None:
                continue
            since = looked.sent_at.get(key, self.now)
            attempt.looked_since = min(attempt.looked_since, since)
            if said != "no-worker" and looked.threads:
                attempt.stranded_since = None
            elif attempt.stranded_since is None:
                attempt.stranded_since = self.now if attempt.arrived else attempt.sent_at
                if not looked.threads:
                    attempt.stranded_since = max(attempt.stranded_since, threads_at)
            attempt.arrived = attempt.arrived or said is not None
            if said not in (None, "no-worker"):
                for task in attempt.tasks:
                    task.renewed = False
            attempt.unknown = attempt.unknown + 1 if said in (None, "erred") else 0
            if attempt.unknown >= attempt.patience:
                gone.append(key)
                if not attempt.arrived:
                    for task in attempt.tasks:
                        task.never_arrived += 1
                self.lose_attempt(key, gone)
            elif self.is_to_be_renewed(attempt, said, looked):
                gone.append(key)
                for task in attempt.tasks:
                    task.renewed, task.worker = True, ""
                if not self.is_raced(key, gone):
                    attempt.tasks[0].stranded_since = attempt.stranded_since
                self.lose_attempt(key, gone)
            elif attempt.stranded_since is not None and (
                self.now - attempt.stranded_since >= STRANDED_TIMEOUT
            ):
                gone.append(key)
                self.strand_attempt(key, gone, looked)
            elif key in looked.silent:
                self.race_attempt(key, gone, looked.silent)
            elif said == "processing" and self.is_overdue(attempt):
                self.to_recall.append(key)
        instructions = self.feed(looked)
        released = [i.keys for i in instructions if isinstance(i, Release)]
        assert released == [[key] for key in gone]

    def is_overdue(self, attempt: ModelAttempt) -> bool:
        if self.policy is None or attempt.recalled or len(attempt.tasks) < 2:
            return False
        return self.now - attempt.looked_since > FLIGHTS * self.policy.patience

    def is_to_be_renewed(
        self, attempt: ModelAttempt, said: str | None, looked: Looked
    ) -> bool:
        renewed = any(task.renewed for task in attempt.tasks)
        return said == "no-worker" and looked.threads > 0 and not renewed

    def race_attempt(
        self, key: str, gone: Collection[str], silent: Collection[str]
    ) -> None:
        """Expect an attempt's tasks, if they are wanted, to be sent to another, too."""
        attempt = self.in_flight[key]
        wanted = [task for task in attempt.tasks if self.is_wanted(task)]
        race = attempt.race
        speaks = race.due or not self.racing(key, gone) <= set(silent)
        if wanted and not speaks and len(race.keys) < RACING_ALLOWED:
            for task in wanted:
                task.worker = ""
            race.due += 1
            self.to_race.append((race, wanted))

    def is_wanted(self, task: ModelTask) -> bool:
        """Whether its delivery is to be made, and not to fail next."""
        tasks = self.deliveries[task.delivery]
        has_failed = any(other.index in self.expected_errors for other in tasks)
        return task.delivery in self.open and not has_failed

    def strand_attempt(self, key: str, gone: Collection[str], looked: Looked) -> None:
        attempt = self.in_flight[key]
        self.strays = True
        if self.is_raced(key, gone):
            attempt.race.keys.discard(key)
            return
        phrase = "has no worker"
        if looked.threads:
            phrase = "resources= allow" if looked.constrained else "probably paused"
        for task in attempt.tasks:
            self.expected_errors[task.index] = Ours(NoWorkersError, phrase)

    def last_instructions(self) -> list[Instruction]:
        released = [Release(sorted(self.in_flight))] if self.in_flight else []
        return [*released, *([Interrupt()] if self.in_flight or self.strays else [])]

    @precondition(lambda self: not self.over and len(self.deliveries) > 5)
    @rule()
    def cancel(self) -> None:
        assert self.call.handle(Cancelled()) == self.last_instructions()
        self.end("cancelled")

    @precondition(lambda self: not self.over and len(self.deliveries) > 5)
    @rule()
    def fail_the_cluster(self) -> None:
        error = ClusterClosedError("closed")
        failed = [DeliverError(n, None, error) for n in sorted(self.open)]
        expected = [*failed, *self.last_instructions()]
        assert self.call.handle(ClusterFailed(error)) == expected
        self.failure = error
        self.end("cluster failed")

    @precondition(lambda self: self.over)
    @rule()
    def dispatch_after_the_end(self) -> None:
        task = PackedTask(len(self.tasks), "f", b"", b"", b"")
        number = len(self.deliveries)
        refused = [DeliverError(number, None, self.failure)] if self.failure else []
        assert self.call.handle(Dispatched(number, [task])) == refused

    def end(self, how: str) -> None:
        self.over = True
        self.ends.update(dict.fromkeys(self.open, how))
        self.open.clear()
        for key, attempt in self.in_flight.items():
            self.ended[key] = len(attempt.sent)
        self.in_flight.clear()
        self.held.clear()

    # ------------------------------------------------------------------------- invariants
    @invariant()
    def the_ledger_knows_what_is_in_flight(self) -> None:
        assert self.call.in_flight == set(self.in_flight)
        assert not self.released & set(self.in_flight)

    @invariant()
    def the_ledger_knows_what_is_undelivered(self) -> None:
        assert self.call.undelivered == len(self.open)

    @invariant()
    def what_has_failed_is_delivered(self) -> None:
        assert not self.open & {self.tasks[i].delivery for i in self.expected_errors}

    @invariant()
    def the_limit_holds(self) -> None:
        """But for what is raced: it counts once."""
        races = {attempt.race for attempt in self.in_flight.values()}
        assert self.limit is None or len(races) <= self.limit
        assert all(len(race.keys) <= RACING_ALLOWED for race in races)

    @invariant()
    def a_suspect_in_flight_is_alone(self) -> None:
        if any(self.is_solo(key) for key in self.in_flight):
            assert len({attempt.race for attempt in self.in_flight.values()}) == 1

    @invariant()
    def nothing_waits_without_need(self) -> None:
        """What may be sent has been sent: otherwise nothing would ever send it."""
        if self.suspects():
            assert self.in_flight
            return
        out = {t.index for a in self.in_flight.values() for t in a.tasks}
        waiting = [
            task
            for task in self.tasks
            if task.delivery in self.open
            and not task.done
            and task.index not in out
            and not self.is_held(task)
        ]
        solo = any(self.is_solo(key) for key in self.in_flight)
        has_room = self.limit is None or len(self.in_flight) < self.limit
        if waiting and not solo and has_room:
            assert self.policy is not None
            assert self.policy.last == 0
            assert self.in_flight, "tasks wait, and nothing will ever send them"

    # ------------------------------------------------------------------------ the end
    def teardown(self) -> None:
        """Drive the call to its end, and look at how each delivery ended."""
        if not hasattr(self, "call"):
            return
        for _ in range(1000):
            if not self.open:
                break
            for key in list(self.held):
                self.supply_one(key, along=False)
            if self.in_flight:
                key = next(iter(self.in_flight))
                self.finish_attempt(key, len(self.in_flight[key].tasks))
        assert not self.open, "something is never delivered"
        assert self.ends.keys() == set(range(len(self.deliveries)))
        for tasks in self.deliveries:
            if self.ends[tasks[0].delivery] == "values":
                assert not any(task.raises == POISON for task in tasks)
            elif self.ends[tasks[0].delivery] == "error":
                assert any(task.index in self.expected_errors for task in tasks)
        # Nobody is blamed for the death of another.
        for index, expected in self.expected_errors.items():
            if isinstance(expected, Ours) and expected.kind is WorkerDiedError:
                assert self.tasks[index].raises == POISON


class MergingLedgerMachine(LedgerMachine):
    """The same, of a ledger that merges and cuts what joblib hands over."""

    has_policy = True


TestLedger = LedgerMachine.TestCase
TestMergingLedger = MergingLedgerMachine.TestCase
TestLedger.settings = TestMergingLedger.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
