"""What is made of the scheduler's answers, and of none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Coroutine, Iterable
from typing import Any

import pytest

from joblib_distributed.driver import attendance, looks
from joblib_distributed.driver.heartbeats import Heartbeats
from joblib_distributed.driver.looks import ANSWER_TIMEOUT, Look, look
from support.clock import FakeTime

pytestmark = pytest.mark.timeout(30)

DEADLINE = 10
ADDRESS = "tcp://scheduler:1"
FROZEN, ALIVE = "tcp://frozen:1", "tcp://alive:1"
FROZEN_AFTER = 10.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(looks, "time", clock)
    monkeypatch.setattr(attendance, "time", clock)
    return clock


class FakeComm:
    """A connection; that it has ended is noticed by its client."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self.buffer: list[str] = []
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1
        self._client.scheduler_comm = None


class FutureState:
    def __init__(self, status: str) -> None:
        self.status = status


class FakeClient:
    def __init__(self) -> None:
        self.status = "running"
        self.comm = FakeComm(self)
        self.scheduler_comm: FakeComm | None = self.comm
        self.scheduler = FakeScheduler()
        self.rpc = self
        #: Addresses whose connections were removed from the pool.
        self.removed: list[str] = []
        self.given: dict[str, tuple[str, ...]] = {}
        #: What the client itself has been told.
        self.futures: dict[str, FutureState] = {}

    def remove(self, address: str) -> None:
        self.removed.append(address)

    async def nthreads(self) -> dict[str, int]:
        return {FROZEN: 2, ALIVE: 3}

    async def processing(self, workers: list[str]) -> dict[str, tuple[str, ...]]:
        self.scheduler.asked.append("processing")
        return {worker: self.given.get(worker, ()) for worker in workers}

    @property
    def ended(self) -> tuple[int, list[str]]:
        return self.comm.aborted, self.removed


#: A client whose connection was ended once, and one whose was not.
ENDED, NOT_ENDED = (1, [ADDRESS]), (0, [])


class FakeScheduler:
    address = ADDRESS

    def __init__(self) -> None:
        self.states: dict[str, str | None] | None = {}
        self.last_seen = {FROZEN: 1.0, ALIVE: 1.0}
        self.holders: dict[str, tuple[str, ...]] = {}
        #: Raised in place of an answer.
        self.error: BaseException | None = None
        #: Set while questions are answered.
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked: list[str] = []
        self.questions = asyncio.Semaphore(0)
        self.cancelled = 0

    async def get_task_status(self, keys: object) -> dict[str, str | None] | None:
        assert type(keys) is list
        self.asked.append("get_task_status")
        self.questions.release()
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        if self.states is None:
            return None
        return {key: self.states.get(key) for key in keys}

    async def identity(self) -> dict[str, Any]:
        self.asked.append("identity")
        workers = {a: {"last_seen": seen} for a, seen in self.last_seen.items()}
        return {"workers": workers}

    async def who_has(self, keys: object) -> dict[str, tuple[str, ...]]:
        assert type(keys) is list
        self.asked.append("who_has")
        return {key: self.holders.get(key, ()) for key in keys}


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, DEADLINE))


async def look_at(
    client: FakeClient,
    keys: Collection[str],
    heartbeats: Heartbeats | None = None,
    frozen_after: float = FROZEN_AFTER,
) -> Look | None:
    return await look(client, keys, heartbeats or Heartbeats(), frozen_after)


# ------------------------------------------------------------------------------ an answer
def test_what_the_scheduler_says() -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.states = {"a": "processing", "c": "memory"}
        # Any collection: what is sent is a list.
        assert await look_at(client, {"a": 0.0, "b": 1.0, "c": 2.0}) == Look(
            {"a": "processing", "b": None, "c": "memory"}, 5, frozenset()
        )
        assert client.scheduler.asked == ["get_task_status", "identity"]
        assert client.ended == NOT_ENDED

    run(scene())


def test_a_scheduler_that_does_not_know_the_question() -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.states = None
        assert await look_at(client, ["a"]) == Look({}, 5, frozenset())

    run(scene())


def test_without_attempts_workers_are_of_interest_only_if_some_were_silent(
    clock: FakeTime,
) -> None:
    async def scene() -> None:
        client, heartbeats = FakeClient(), Heartbeats()
        assert await look_at(client, [], heartbeats) == Look({}, 5, frozenset())
        assert client.scheduler.asked == ["get_task_status"]
        await make_silent(client, heartbeats, [FROZEN], clock)
        client.scheduler.asked.clear()
        client.scheduler.last_seen[FROZEN] = 3.0
        assert await look_at(client, [], heartbeats) == Look({}, 5, frozenset())
        assert client.scheduler.asked == ["get_task_status", "identity"]
        assert heartbeats.silent(clock.now, FROZEN_AFTER) == frozenset()

    run(scene())


# ---------------------------------------------------------------- workers that are silent
async def make_silent(
    client: FakeClient, heartbeats: Heartbeats, silent: Iterable[str], clock: FakeTime
) -> None:
    """Have nothing be heard of some workers for longer than they may be silent."""
    client.scheduler.states = {"any": "waiting"}
    await look_at(client, ["any"], heartbeats)
    clock.now += FROZEN_AFTER + 1
    for worker in client.scheduler.last_seen.keys() - set(silent):
        client.scheduler.last_seen[worker] = 2.0
    await look_at(client, ["any"], heartbeats)


def test_what_only_silent_workers_have_is_silent(clock: FakeTime) -> None:
    async def scene() -> None:
        client, heartbeats = FakeClient(), Heartbeats()
        await make_silent(client, heartbeats, [FROZEN], clock)
        client.given = {FROZEN: ("runs there", "of another call"), ALIVE: ("runs",)}
        client.scheduler.states = {
            "runs there": "processing",
            "runs": "processing",
            "held there": "memory",
            "held by both": "memory",
            "held elsewhere": "memory",
            "held by nobody": "memory",
            "waits": "waiting",
        }
        client.scheduler.holders = {
            "held there": (FROZEN,),
            "held by both": (FROZEN, ALIVE),
            "held elsewhere": (ALIVE,),
        }
        assert await look_at(client, list(client.scheduler.states), heartbeats) == Look(
            client.scheduler.states, 5, frozenset({"runs there", "held there"})
        )

    run(scene())


def test_who_has_results_is_asked_only_if_there_are_some(clock: FakeTime) -> None:
    async def scene() -> None:
        client, heartbeats = FakeClient(), Heartbeats()
        await make_silent(client, heartbeats, [FROZEN], clock)
        client.given = {FROZEN: ("a",)}
        client.scheduler.states = {"a": "processing"}
        client.scheduler.asked.clear()
        expected = Look({"a": "processing"}, 5, frozenset({"a"}))
        assert await look_at(client, ["a"], heartbeats) == expected
        assert client.scheduler.asked == ["get_task_status", "identity", "processing"]

    run(scene())


@pytest.mark.parametrize(
    ("silent", "frozen_after"),
    [([], FROZEN_AFTER), ([FROZEN, ALIVE], FROZEN_AFTER), ([FROZEN], math.inf)],
    ids=["all report", "nobody else reports", "never"],
)
def test_nothing_is_silent(
    silent: list[str], frozen_after: float, clock: FakeTime
) -> None:
    async def scene() -> None:
        client, heartbeats = FakeClient(), Heartbeats()
        await make_silent(client, heartbeats, silent, clock)
        client.given = {FROZEN: ("a",)}
        client.scheduler.states = {"a": "processing"}
        client.scheduler.asked.clear()
        found = await look_at(client, ["a"], heartbeats, frozen_after)
        assert found == Look({"a": "processing"}, 5, frozenset())
        assert client.scheduler.asked == ["get_task_status", "identity"]

    run(scene())


# ------------------------------------------------------------------------------ no answer
@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "ANSWER_TIMEOUT", 0.01)


@pytest.mark.usefixtures("_impatient")
def test_a_connection_by_which_no_answer_comes_is_ended() -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.answers.clear()
        assert await look_at(client, ["a"]) is None
        assert client.ended == ENDED
        await asyncio.sleep(0)
        assert client.scheduler.cancelled == 1

    run(scene())


@pytest.mark.usefixtures("_impatient")
def test_a_connection_is_ended_once_though_several_looks_are_not_answered() -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.answers.clear()
        found = await asyncio.gather(*(look_at(client, ["a"]) for _ in range(3)))
        assert found == [None] * 3
        assert len(client.scheduler.asked) == 3
        assert client.ended == ENDED

    run(scene())


@pytest.mark.usefixtures("_impatient")
def test_a_connection_that_is_new_is_not_ended() -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.answers.clear()
        looking = asyncio.ensure_future(look_at(client, ["a"]))
        await client.scheduler.questions.acquire()
        new = client.scheduler_comm = FakeComm(client)
        assert await looking is None
        assert (client.ended, new.aborted) == (NOT_ENDED, 0)
        assert client.scheduler_comm is new

    run(scene())


@pytest.mark.parametrize("status", ["connecting", "closing", "closed", "newly-created"])
def test_a_client_that_is_not_connected_is_not_asked(status: str) -> None:
    async def scene() -> None:
        client = FakeClient()
        client.status = status
        assert await look_at(client, ["a"]) is None
        assert (client.scheduler.asked, client.ended) == ([], NOT_ENDED)

    run(scene())


def test_a_client_without_a_connection_is_not_asked() -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler_comm = None
        assert await look_at(client, ["a"]) is None
        assert (client.scheduler.asked, client.ended) == ([], NOT_ENDED)

    run(scene())


@pytest.mark.parametrize(
    "error",
    [
        OSError("cut"),
        RuntimeError("closed"),
        AttributeError("rpc"),
        KeyError("last_seen"),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_question_that_fails_gives_nothing_and_ends_nothing(
    error: BaseException,
) -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.error = error
        assert await look_at(client, ["a"]) is None
        assert (client.scheduler.asked, client.ended) == (
            ["get_task_status"],
            NOT_ENDED,
        )

    run(scene())


# ------------------------------------------------------- whether what is sent does arrive
async def looks_at(
    client: FakeClient, clock: FakeTime, keys: list[str], *seconds: float
) -> list[bool]:
    """Look when so many seconds have passed each time; say whether its connection lives.

    Each look gives what the scheduler has said, also if it ends the connection.
    """
    states = client.scheduler.states or {}
    found = []
    for after in seconds:
        clock.now += after
        answer = Look({key: states.get(key) for key in keys}, 5, frozenset())
        assert await look_at(client, keys) == answer
        found.append(client.scheduler_comm is client.comm)
    assert client.ended == (NOT_ENDED if found[-1] else ENDED)
    return found


JUST_LESS = ANSWER_TIMEOUT - 0.25
JUST_ENOUGH = 0.25


def test_a_connection_by_which_nothing_arrives_is_ended(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.states = {"a": "processing"}
        lives = await looks_at(client, clock, ["a", "b"], 0, JUST_LESS, JUST_ENOUGH)
        assert lives == [True, True, False]

    run(scene())


def test_a_connection_by_which_the_last_arrives_is_kept(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.states = {"b": "processing"}  # a is forgotten
        lives = await looks_at(client, clock, ["a", "b"], 0, JUST_LESS, JUST_ENOUGH, 100)
        assert lives == [True] * 4

    run(scene())


# --------------------------------------------------------- whether what has ended is told
@pytest.mark.parametrize("told", ["pending", "lost"])
def test_a_connection_by_which_no_end_is_told_is_ended(
    clock: FakeTime, told: str
) -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.states = {"a": "memory", "b": "processing"}
        client.futures = {"a": FutureState(told), "b": FutureState("pending")}
        lives = await looks_at(client, clock, ["a", "b"], 0, JUST_LESS, JUST_ENOUGH)
        assert lives == [True, True, False]

    run(scene())


@pytest.mark.parametrize("told", ["finished", "error", "cancelled", None])
def test_a_connection_by_which_ends_are_told_is_kept(
    clock: FakeTime, told: str | None
) -> None:
    """What an attempt gave may take long to come."""

    async def scene() -> None:
        client = FakeClient()
        client.scheduler.states = {"a": "memory"}
        client.futures = {} if told is None else {"a": FutureState(told)}
        lives = await looks_at(client, clock, ["a"], 0, JUST_LESS, JUST_ENOUGH, 100)
        assert lives == [True] * 4

    run(scene())


def test_what_has_ended_just_now_is_waited_for_from_then_on(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        client.futures = {"a": FutureState("pending")}
        assert await looks_at(client, clock, ["a"], 0, JUST_LESS) == [True, True]
        client.scheduler.states = {"a": "memory"}
        lives = await looks_at(client, clock, ["a"], JUST_ENOUGH, JUST_LESS, JUST_ENOUGH)
        assert lives == [True, True, False]

    run(scene())


def test_ends_are_told_of_each_call_of_its_own(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        client.scheduler.states = {"a": "memory", "b": "memory"}
        client.futures = {key: FutureState("pending") for key in "ab"}
        assert await looks_at(client, clock, ["a"], 0, JUST_LESS) == [True, True]
        assert await looks_at(client, clock, ["b"], JUST_ENOUGH) == [True]
        assert await looks_at(client, clock, ["a"], 0) == [False]

    run(scene())


# ------------------------------------------------------- whether what is sent does arrive
def test_what_has_been_known_meanwhile_is_waited_for_anew(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        assert await looks_at(client, clock, ["a"], 0, JUST_LESS) == [True, True]
        client.scheduler.states = {"a": "waiting"}
        assert await looks_at(client, clock, ["a"], JUST_ENOUGH) == [True]
        client.scheduler.states = {}
        lives = await looks_at(client, clock, ["a"], 1, JUST_LESS, JUST_ENOUGH)
        assert lives == [True, True, False]

    run(scene())


def test_what_has_not_been_written_is_not_waited_for(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        assert await looks_at(client, clock, ["a"], 0, JUST_LESS) == [True, True]
        client.comm.buffer.append("to be written")
        assert await looks_at(client, clock, ["a"], JUST_ENOUGH, 100) == [True, True]
        client.comm.buffer.clear()
        lives = await looks_at(client, clock, ["a"], 1, JUST_LESS, JUST_ENOUGH)
        assert lives == [True, True, False]

    run(scene())


def test_what_is_sent_later_is_waited_for_from_then_on(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        assert await looks_at(client, clock, ["a"], 0, JUST_LESS) == [True, True]
        lives = await looks_at(
            client, clock, ["a", "b"], JUST_ENOUGH, JUST_LESS, JUST_ENOUGH
        )
        assert lives == [True, True, False]

    run(scene())


def test_without_attempts_nothing_is_waited_for(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        assert await looks_at(client, clock, [], 0, JUST_LESS, 100) == [True] * 3

    run(scene())


@pytest.mark.parametrize("others", [[], ["known"], ["unknown"]], ids=str)
def test_another_call_on_the_connection_keeps_it_from_nothing(
    others: list[str], clock: FakeTime
) -> None:
    """A generator that nobody reads, say, looks on for as long as it lives."""

    async def scene() -> None:
        client = FakeClient()
        client.scheduler.states = {"known": "processing"}
        assert await looks_at(client, clock, ["a"], 0, JUST_LESS - 1) == [True] * 2
        assert await looks_at(client, clock, others, 1) == [True]
        assert await looks_at(client, clock, ["a"], JUST_ENOUGH) == [False]

    run(scene())


def test_what_nobody_looks_at_any_more_is_forgotten(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        for key in ("a", "b", "c"):
            assert await looks_at(client, clock, [key], 3 * ANSWER_TIMEOUT) == [True]
        assert list(looks._unheard[client.comm]) == [("c", None)]

    run(scene())


def test_a_connection_of_which_is_not_known_what_is_written_is_kept(
    clock: FakeTime,
) -> None:
    async def scene() -> None:
        client = FakeClient()
        del client.comm.buffer
        lives = await looks_at(client, clock, ["a"], 0, JUST_LESS, JUST_ENOUGH, 100)
        assert lives == [True] * 4

    run(scene())


def test_a_connection_that_is_new_has_its_own_time(clock: FakeTime) -> None:
    async def scene() -> None:
        client = FakeClient()
        assert await looks_at(client, clock, ["a"], 0, JUST_LESS) == [True, True]
        client.scheduler_comm = client.comm = FakeComm(client)
        lives = await looks_at(client, clock, ["a"], JUST_ENOUGH, JUST_LESS, JUST_ENOUGH)
        assert lives == [True, True, False]

    run(scene())


@pytest.mark.parametrize("error", [OSError("reset"), ValueError("not idle")])
def test_whatever_ends_a_connection_is_an_error_of_the_connection(
    error: Exception,
) -> None:
    """Tornado gives the second where it ends before the TLS handshake begins."""

    class Client:
        scheduler_comm = None

    async def lose() -> None:
        raise error

    with pytest.raises(OSError, match=str(error)):
        asyncio.run(looks.ask(Client(), lose))
