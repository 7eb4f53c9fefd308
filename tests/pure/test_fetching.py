"""What attempts have given is fetched past workers that do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from joblib_distributed.data.carried import carried
from joblib_distributed.driver import fetching
from joblib_distributed.driver.fetching import SLOWEST, fetch

pytestmark = pytest.mark.timeout(30)

DEADLINE = 10
#: Far less than the deadline, so that a test may wait for it to be over several times.
PATIENCE = 0.01
GATHERED = b"gathered"
ASKED = b"asked of the scheduler"


class FakeFuture:
    """An attempt; says when it is looked at, and when somebody waits for its end."""

    def __init__(self, status: str = "finished") -> None:
        self._status = status
        self._callbacks: list[Callable[[FakeFuture], object]] = []
        self.looks = 0
        self.awaited = asyncio.Event()
        self.looked_at_often = asyncio.Event()

    @property
    def status(self) -> str:
        self.looks += 1
        if self.looks == 3:
            self.looked_at_often.set()
        return self._status

    def end(self, status: str = "finished") -> None:
        """End, and say so on the thread that calls this, as the engine does on its."""
        self._status = status
        for callback in self._callbacks:
            callback(self)

    def add_done_callback(self, callback: Callable[[FakeFuture], object]) -> None:
        self._callbacks.append(callback)
        self.awaited.set()


#: What a fake does when it is asked.
Answer = Callable[[], Coroutine[Any, Any, Any]]


class FakeClient:
    """Gathers, and has a scheduler that does: each answers as the test says, in turn."""

    def __init__(self) -> None:
        self.scheduler = FakeScheduler()
        self.answers: list[Answer] = []
        #: What was gathered, and how that ended: a result, or an error.
        self.gathered: list[FakeFuture] = []
        self.ends: list[object] = []
        self.ended = asyncio.Event()

    async def gather(self, future: FakeFuture, asynchronous: bool) -> object:
        assert asynchronous is True
        self.gathered.append(future)
        answer = self.answers.pop(0)
        try:
            given = await answer()
        except BaseException as error:
            self.ends.append(error)
            raise
        else:
            self.ends.append(given)
            return given
        finally:
            self.ended.set()


class FakeScheduler:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[str] = []
        #: Of which keys a question was cancelled.
        self.cancelled: list[str] = []
        #: How the size of a result is told.
        self.tells_size: Answer = raises(KeyError("a"))

    async def gather(self, keys: list[str]) -> object:
        (key,) = keys
        self.asked.append(key)
        answer = self.answers.pop(0)
        try:
            return await answer()
        except asyncio.CancelledError:
            self.cancelled.append(key)
            raise

    async def nbytes(self, keys: list[str], summary: bool) -> object:
        assert (keys, summary) == (["a"], False)
        return await self.tells_size()


def gives(value: object) -> Answer:
    async def give() -> object:
        return value

    return give


def raises(error: BaseException) -> Answer:
    async def fail() -> object:
        raise error

    return fail


def has(key: str) -> Answer:
    """What the scheduler answers that has found the result."""
    return gives({"status": "OK", "data": {key: ASKED}})


def hangs() -> Answer:
    return asyncio.Event().wait


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", PATIENCE)


def run(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    # The loop then objects to whatever is done to it on another thread.
    asyncio.run(asyncio.wait_for(scene(), DEADLINE), debug=True)


# ------------------------------------------------------------ with the news of its end
class Told:
    """A future that ends when the test says so, and then has a type."""

    def __init__(self, type_of_result: object) -> None:
        self._state = self
        self._type = type_of_result
        self._has_ended = asyncio.Event()
        self.awaited = asyncio.Event()
        self.status = "pending"

    async def wait(self) -> None:
        self.awaited.set()
        await self._has_ended.wait()

    def end(self) -> None:
        self.status = "finished"
        self._has_ended.set()

    @property
    def type(self) -> object:
        return self._type if self._has_ended.is_set() else None


def test_what_came_with_the_news_is_not_asked_for() -> None:
    async def scene() -> None:
        client, future = FakeClient(), Told(b"carried")
        fetched = asyncio.ensure_future(fetch(client, "a", future))
        await future.awaited.wait()
        future.end()
        assert await fetched == b"carried"
        assert (client.gathered, client.scheduler.asked) == ([], [])

    run(scene)


@pytest.mark.parametrize("type_of_result", [bytes, None, "builtins.bytes"])
def test_what_did_not_come_with_the_news_is_gathered(type_of_result: object) -> None:
    async def scene() -> None:
        client, future = FakeClient(), Told(type_of_result)
        future.end()
        client.answers = [gives(GATHERED)]
        assert await fetch(client, "a", future) == GATHERED

    run(scene)


def test_what_was_not_moved_from_its_process_is_its_report() -> None:
    """Workers in threads of the client's process pickle nothing."""

    async def scene() -> None:
        client, future = FakeClient(), FakeFuture()
        client.answers = [gives(carried(b"report")), hangs()]
        assert await fetch(client, "a", future) == b"report"
        client.scheduler.answers = [
            gives({"status": "OK", "data": {"a": carried(b"asked for")}})
        ]
        assert await fetch(client, "a", future) == b"asked for"

    run(scene)


# -------------------------------------------------------------------------- by a gather
def test_what_has_ended_is_gathered_once() -> None:
    async def scene() -> None:
        client, future = FakeClient(), FakeFuture()
        client.answers = [gives(GATHERED)]
        assert await fetch(client, "a", future) == GATHERED
        assert (client.gathered, client.scheduler.asked) == ([future], [])

    run(scene)


def test_what_has_not_ended_is_waited_for_however_long() -> None:
    async def scene() -> None:
        client, future = FakeClient(), FakeFuture("pending")
        may_end = asyncio.Event()

        async def give() -> bytes:
            await may_end.wait()
            return GATHERED

        client.answers = [give]
        fetched = asyncio.ensure_future(fetch(client, "a", future))
        await future.looked_at_often.wait()
        may_end.set()
        assert await fetched == GATHERED
        assert (client.gathered, client.scheduler.asked) == ([future], [])

    run(scene)


def test_an_error_is_raised() -> None:
    async def scene() -> None:
        client, future = FakeClient(), FakeFuture("error")
        client.answers = [raises(error := ValueError("of the attempt"))]
        with pytest.raises(ValueError, match="of the attempt") as caught:
            await fetch(client, "a", future)
        assert caught.value is error
        assert (client.gathered, client.scheduler.asked) == ([future], [])

    run(scene)


# -------------------------------------------------------------------- past one that hangs
def test_past_a_gather_that_hangs_the_scheduler_is_asked() -> None:
    async def scene() -> None:
        client, future = FakeClient(), FakeFuture()
        client.answers = [hangs()]
        client.scheduler.answers = [has("a")]
        assert await fetch(client, "a", future) == ASKED
        assert (client.gathered, client.scheduler.asked) == ([future], ["a"])

    run(scene)


def test_a_gather_that_hangs_is_not_cancelled() -> None:
    """Others may wait for the same answer."""

    async def scene() -> None:
        client = FakeClient()
        goes_on = asyncio.Event()

        async def give_at_last() -> bytes:
            await goes_on.wait()
            return GATHERED

        client.answers = [give_at_last]
        client.scheduler.answers = [has("a")]
        assert await fetch(client, "a", FakeFuture()) == ASKED
        assert client.ends == []
        goes_on.set()
        await client.ended.wait()
        assert client.ends == [GATHERED]

    run(scene)


@pytest.mark.parametrize(
    "end",
    [raises(OSError("late")), gives(GATHERED), raises(asyncio.CancelledError())],
    ids=["fails", "gives", "is cancelled"],
)
def test_when_no_gather_hangs_any_more_the_next_is_one(end: Answer) -> None:
    async def scene() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        client, future = FakeClient(), FakeFuture()
        goes_on = asyncio.Event()

        async def end_at_last() -> object:
            await goes_on.wait()
            return await end()

        client.answers = [end_at_last, gives(GATHERED)]
        client.scheduler.answers = [has("a")]
        assert await fetch(client, "a", FakeFuture()) == ASKED
        goes_on.set()
        await client.ended.wait()
        # 1. The gather ends, 2. its callbacks are called.
        for _ in range(3):
            await asyncio.sleep(0)
        assert await fetch(client, "b", future) == GATHERED
        assert (client.gathered[1:], client.scheduler.asked) == ([future], ["a"])
        assert complaints == []

    run(scene)


def test_while_a_gather_hangs_the_scheduler_is_asked_of_what_has_ended() -> None:
    async def scene() -> None:
        client, next_one = FakeClient(), FakeFuture("pending")
        client.answers = [hangs()]
        client.scheduler.answers = [has("a"), has("b")]
        assert await fetch(client, "a", FakeFuture()) == ASKED
        fetched = asyncio.ensure_future(fetch(client, "b", next_one))
        await next_one.awaited.wait()
        assert client.scheduler.asked == ["a"]
        await asyncio.to_thread(next_one.end)
        assert await fetched == ASKED
        assert (len(client.gathered), client.scheduler.asked) == (1, ["a", "b"])

    run(scene)


def test_while_a_gather_hangs_an_error_is_raised() -> None:
    async def scene() -> None:
        client, next_one = FakeClient(), FakeFuture("pending")
        client.answers = [hangs(), raises(error := ValueError("of the attempt"))]
        client.scheduler.answers = [has("a")]
        assert await fetch(client, "a", FakeFuture()) == ASKED
        fetched = asyncio.ensure_future(fetch(client, "b", next_one))
        await next_one.awaited.wait()
        await asyncio.to_thread(next_one.end, "error")
        with pytest.raises(ValueError, match="of the attempt") as caught:
            await fetched
        assert caught.value is error
        assert (client.gathered[1:], client.scheduler.asked) == ([next_one], ["a"])

    run(scene)


def test_a_gather_that_hangs_is_that_of_one_client() -> None:
    async def scene() -> None:
        client, other = FakeClient(), FakeClient()
        client.answers, other.answers = [hangs()], [gives(GATHERED)]
        client.scheduler.answers = [has("a")]
        assert await fetch(client, "a", FakeFuture()) == ASKED
        assert await fetch(other, "a", FakeFuture()) == GATHERED

    run(scene)


def test_past_a_gather_that_others_cancel_the_scheduler_is_asked() -> None:
    async def scene() -> None:
        client, future = FakeClient(), FakeFuture()
        client.answers = [raises(asyncio.CancelledError())]
        client.scheduler.answers = [has("a")]
        assert await fetch(client, "a", future) == ASKED
        assert (client.gathered, client.scheduler.asked) == ([future], ["a"])

    run(scene)


# ------------------------------------------------------------- what the scheduler answers
def test_what_nobody_has_is_lost() -> None:
    async def scene() -> None:
        client = FakeClient()
        client.answers = [hangs()]
        client.scheduler.answers = [gives({"status": "error", "keys": ["a"]})]
        with pytest.raises(OSError, match=r"^no worker has the result of a$"):
            await fetch(client, "a", FakeFuture())

    run(scene)


def test_a_question_that_others_cancel_is_lost() -> None:
    async def scene() -> None:
        client = FakeClient()
        client.answers = [hangs()]
        client.scheduler.answers = [raises(asyncio.CancelledError())]
        with pytest.raises(
            OSError, match=r"^the connection that asked for a was given up$"
        ):
            await fetch(client, "a", FakeFuture())

    run(scene)


def test_an_error_of_the_question_is_raised() -> None:
    async def scene() -> None:
        client = FakeClient()
        client.answers = [hangs()]
        client.scheduler.answers = [raises(error := OSError("cut"))]
        with pytest.raises(OSError, match="cut") as caught:
            await fetch(client, "a", FakeFuture())
        assert caught.value is error

    run(scene)


SMALL = gives({"a": 4 * PATIENCE * SLOWEST})
LARGE = gives({"a": 7 * PATIENCE * SLOWEST})
#: What is waited for on the way, in times of the patience: to be gathered, given, told
#: the size, given, and so on.
NOT_LARGE = [1, 1, 1, 2, 1, 4, 1, 4, 1, 4]
DOUBLED = [1, 1, 1, 2, 1, 4, 1, 8, 1, 16]


@pytest.mark.parametrize(
    ("tells_size", "times"),
    [
        (SMALL, NOT_LARGE),
        (LARGE, [1, 1, 1, 2, 1, 4, 1, 7, 1, 7]),
        (raises(KeyError("a")), DOUBLED),
        (raises(OSError("cut")), DOUBLED),
        (raises(asyncio.CancelledError()), DOUBLED),
        (hangs(), DOUBLED),
        (gives(None), DOUBLED),
        (gives({}), DOUBLED),
    ],
    ids=[
        *("small", "large", "forgotten", "cut", "cancelled", "not told"),
        *("not known how to tell", "told of none"),
    ],
)
def test_a_question_that_hangs_is_asked_anew_with_more_patience(
    tells_size: Answer, times: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, timeouts = asyncio.wait, []

    async def note_and_wait(what: Any, timeout: float) -> Any:
        timeouts.append(timeout)
        return await wait(what, timeout=timeout)

    async def scene() -> None:
        client, future = FakeClient(), FakeFuture()
        client.answers = [hangs()]
        client.scheduler.answers = [hangs()] * 4 + [has("a")]
        client.scheduler.tells_size = tells_size
        monkeypatch.setattr(asyncio, "wait", note_and_wait)
        assert await fetch(client, "a", future) == ASKED
        assert client.scheduler.asked == ["a"] * 5
        assert client.scheduler.cancelled == ["a"] * 4
        assert client.gathered == [future]

    run(scene)
    assert timeouts == [PATIENCE * n for n in times]


def test_what_is_cancelled_while_the_scheduler_is_asked_is_cancelled() -> None:
    async def scene() -> None:
        client, future = FakeClient(), FakeFuture()

        async def cancel_and_hang() -> None:
            future.end("cancelled")
            await asyncio.Event().wait()

        client.answers = [hangs(), raises(error := asyncio.CancelledError("released"))]
        client.scheduler.answers = [cancel_and_hang]
        with pytest.raises(asyncio.CancelledError):
            await fetch(client, "a", future)
        assert client.ends == [error]
        assert (client.gathered, client.scheduler.asked) == ([future, future], ["a"])

    run(scene)
