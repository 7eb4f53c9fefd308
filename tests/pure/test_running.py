"""A live call's instructions carried out on a cluster that only takes notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from joblib_distributed.data.batch import Surroundings
from joblib_distributed.data.outcome import Kind, Outcome
from joblib_distributed.data.tasks import PackedTask
from joblib_distributed.driver.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptKilled,
    AttemptLost,
    Cancelled,
    ClusterFailed,
    Dispatched,
    Event,
    Looked,
)
from joblib_distributed.driver.outgoing import Outgoing
from joblib_distributed.driver.running import RunningCall
from joblib_distributed.driver.turns import Turns
from joblib_distributed.errors import ClusterClosedError
from joblib_distributed.options import Options

VALUE = Outcome(Kind.VALUE, 0.5, b"value")


class NotingCluster:
    """Takes the place of `driver.cluster.Cluster`."""

    arrivals = 0

    def __init__(self) -> None:
        self.turns = Turns()
        self.sent: list[str] = []

    def listen(self, call: str, tally: object) -> str:
        return "topic"

    def compute(self, collection: Any) -> Any:
        raise AssertionError("no task takes a dask collection")

    def send(self, attempts: Sequence[Outgoing], post: Callable[[Event], None]) -> None:
        self.sent += [attempt.key for attempt in attempts]

    def release(self, keys: Iterable[str]) -> None:
        pass

    def interrupt(self, names: Iterable[str]) -> None:
        pass


class CallByHand:
    """A call whose threads are not started: a test feeds it."""

    def __init__(self) -> None:
        self.cluster = NotingCluster()
        cluster: Any = self.cluster
        self.call = RunningCall(
            cluster, Options(), None, Surroundings(), lambda *_: True, lambda *_: 0
        )
        self.call._callbacks = dict.fromkeys(range(10), lambda _: None)

    def feed(self, *events: Event) -> None:
        for event in events:
            self.call._events.put(event)
        while not self.call._events.empty():
            heard = self.call._events.get()
            assert heard is not None
            self.call._handle(heard)
            self.call._send_on()

    def suspect(self) -> str:
        """Return the key of the suspect that runs alone."""
        task = PackedTask(0, "f", b"key", b"f", b"arguments")
        self.feed(Dispatched(0, [task]))
        (key,) = self.cluster.sent
        self.feed(AttemptKilled(key, ""))
        return self.cluster.sent[-1]


def silent(*keys: str) -> Looked:
    return Looked(0, dict.fromkeys(keys, "processing"), 4, silent=frozenset(keys))


def test_a_suspect_waits_for_its_turn() -> None:
    hand = CallByHand()
    hand.cluster.turns.ask("another", lambda: None)
    hand.suspect()
    assert len(hand.cluster.sent) == 1
    hand.cluster.turns.give_back("another")
    hand.feed()
    assert len(hand.cluster.sent) == 2


def test_a_raced_suspect_waits_for_no_second_turn() -> None:
    hand = CallByHand()
    first = hand.suspect()
    hand.feed(silent(first))
    assert len(hand.cluster.sent) == 3


@pytest.mark.parametrize("ends", [0, 1])
@pytest.mark.parametrize(
    "how",
    [AttemptLost, lambda key: AttemptKilled(key, ""), lambda key: AttemptFailed(key, "")],
    ids=["lost", "killed", "failed"],
)
@pytest.mark.parametrize(
    "last",
    [
        lambda key: AttemptFinished(key, "worker", [VALUE]),
        lambda key: AttemptKilled(key, ""),
        lambda _: Cancelled(),
        lambda _: ClusterFailed(ClusterClosedError("closed")),
    ],
    ids=["finished", "killed", "cancelled", "cluster failed"],
)
def test_no_other_suspect_runs_before_a_race_has_ended(
    ends: int, how: Callable[[str], Event], last: Callable[[str], Event]
) -> None:
    """Or it could kill what is left of the race, which would be blamed for it."""
    hand = CallByHand()
    racing = [hand.suspect()]
    hand.feed(silent(*racing))
    racing.append(hand.cluster.sent[-1])
    begun: list[str] = []
    hand.cluster.turns.ask("another", lambda: begun.append("another"))
    hand.feed(how(racing.pop(ends)))
    assert begun == []
    hand.feed(last(*racing))
    assert begun == ["another"]


def test_a_suspect_sent_again_waits_for_another_turn() -> None:
    hand = CallByHand()
    begun: list[str] = []
    first = hand.suspect()
    hand.cluster.turns.ask("another", lambda: begun.append("another"))
    hand.feed(AttemptLost(first))
    assert (begun, hand.cluster.sent[-1]) == (["another"], first)
    hand.cluster.turns.give_back("another")
    hand.feed()
    assert hand.cluster.sent[-1] != first


def test_a_suspect_that_is_dropped_waits_no_more() -> None:
    hand = CallByHand()
    hand.cluster.turns.ask("another", lambda: None)
    hand.suspect()
    begun: list[str] = []
    hand.cluster.turns.ask("a third", lambda: begun.append("a third"))
    hand.feed(Cancelled())
    hand.cluster.turns.give_back("another")
    assert begun == ["a third"]
    hand.feed()
    assert len(hand.cluster.sent) == 1
