"""Who is asked how far attempts are, and what is made of the answers, and of none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import pytest

from joblib_distributed.driver import recalling
from joblib_distributed.driver.events import Recalled
from joblib_distributed.driver.heartbeats import Heartbeats
from joblib_distributed.driver.recalling import Recaller

pytestmark = pytest.mark.timeout(30)

ONE, TWO, THREE = "tcp://one:1", "tcp://two:1", "tcp://three:1"


class FakeClient:
    """Its workers answer what a test says; those that have no answer never do."""

    def __init__(self, given: dict[str, list[str]]) -> None:
        self.given = given
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.scheduler_comm = None

    async def processing(self) -> dict[str, list[str]]:
        return self.given

    async def run(
        self,
        function: Callable[..., Any],
        *args: object,
        workers: list[str],
        on_error: str,
    ) -> dict[str, Any]:
        (address,) = workers
        assert on_error == "ignore"
        self.asked.append(address)
        if address not in self.answers:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.append(address)
        answer = self.answers[address]
        if isinstance(answer, BaseException):
            raise answer
        return {} if answer is None else {address: answer}


def heartbeats(*addresses: str) -> Heartbeats:
    found = Heartbeats()
    found.note(dict.fromkeys(addresses, 1.0), 0.0)
    return found


def recall(
    client: FakeClient,
    keys: Collection[str],
    recaller: Recaller | None = None,
    is_bound: bool = False,
) -> list[Recalled]:
    posted: list[Recalled] = []
    recaller = recaller or Recaller(heartbeats(ONE, TWO))
    asyncio.run(recaller.recall(client, keys, is_bound, posted.append))
    return posted


def test_only_workers_that_have_the_attempts_are_asked() -> None:
    client = FakeClient({ONE: ["a", "x"], TWO: ["b"], THREE: ["x"]})
    client.answers = {ONE: {"a": (3, 5.0)}, TWO: {"b": (1, 2.0)}}
    assert recall(client, ["a", "b", "c"]) == [
        Recalled("a", 3, 5.0, ONE, True),
        Recalled("b", 1, 2.0, TWO, True),
    ]
    assert client.asked == [ONE, TWO]


@pytest.mark.parametrize("answer", [None, {}, OSError(), RuntimeError()])
def test_who_says_nothing_keeps_nobody_from_being_heard(answer: object) -> None:
    client = FakeClient({ONE: ["a"], TWO: ["b"]})
    client.answers = {ONE: answer, TWO: {"b": (1, 2.0)}}
    assert recall(client, ["a", "b"]) == [Recalled("b", 1, 2.0, TWO, True)]


def test_who_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalling, "ANSWER_TIMEOUT", 0.01)
    client = FakeClient({ONE: ["a"], TWO: ["b"]})
    client.answers = {TWO: {"b": (1, 2.0)}}
    assert recall(client, ["a", "b"]) == [Recalled("b", 1, 2.0, TWO, True)]
    assert client.cancelled == [ONE]


def test_a_worker_is_asked_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalling, "ANSWER_TIMEOUT", 0.1)
    client = FakeClient({ONE: ["a"]})
    recaller = Recaller(heartbeats(ONE))

    async def ask_twice() -> None:
        asks = [recaller.recall(client, ["a"], False, print) for _ in range(2)]
        await asyncio.gather(*asks)

    asyncio.run(ask_twice())
    assert client.asked == [ONE]
    recall(client, ["a"], recaller)
    assert client.asked == [ONE, ONE]


def test_no_more_than_so_many_are_asked_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recalling, "ASKED_AT_ONCE", 1)
    client = FakeClient({ONE: ["a"], TWO: ["b"]})
    client.answers = {ONE: {}, TWO: {}}
    recall(client, ["a", "b"])
    assert client.asked == [ONE]


@pytest.mark.parametrize(
    ("known", "is_bound", "has_others"),
    [([ONE, TWO], False, True), ([ONE], False, False), ([ONE, TWO], True, False)],
)
def test_it_says_whether_others_could_run_it(
    known: list[str], is_bound: bool, has_others: bool
) -> None:
    client = FakeClient({ONE: ["a"]})
    client.answers = {ONE: {"a": (1, 2.0)}}
    recaller = Recaller(heartbeats(*known))
    expected = [Recalled("a", 1, 2.0, ONE, has_others)]
    assert recall(client, ["a"], recaller, is_bound) == expected


def test_a_scheduler_that_is_gone_is_noticed_elsewhere() -> None:
    class Gone(FakeClient):
        async def processing(self) -> dict[str, list[str]]:
            raise OSError

    assert recall(Gone({}), ["a"]) == []
