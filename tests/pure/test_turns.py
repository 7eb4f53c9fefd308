"""Turns at running a suspect."""

from __future__ import annotations

import threading
from collections.abc import Callable

from joblib_distributed.driver.turns import Turns
from support.tasks import in_thread


class Asking:
    """Asks for turns; notes whose turn has begun."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.begun: list[str] = []

    def ask(self, *names: str) -> None:
        for name in names:
            self.turns.ask(name, self._beginner(name))

    def _beginner(self, name: str) -> Callable[[], object]:
        return lambda: self.begun.append(name)

    def give_back(self, *names: str) -> list[str]:
        for name in names:
            self.turns.give_back(name)
        return self.begun


def test_the_first_begins_at_once_and_the_others_wait() -> None:
    asking = Asking()
    asking.ask("a")
    assert asking.begun == ["a"]
    asking.ask("b", "c")
    assert asking.begun == ["a"]


def test_turns_are_in_the_order_in_which_they_were_asked_for() -> None:
    asking = Asking()
    asking.ask("a", "b", "c")
    assert asking.give_back("a") == ["a", "b"]
    asking.ask("a")
    assert asking.give_back("b") == ["a", "b", "c"]
    assert asking.give_back("c") == ["a", "b", "c", "a"]
    assert asking.give_back("a") == ["a", "b", "c", "a"]
    asking.ask("d")
    assert asking.begun == ["a", "b", "c", "a", "d"]


def test_who_gives_back_while_waiting_gets_no_turn() -> None:
    asking = Asking()
    asking.ask("a", "b", "c")
    assert asking.give_back("b") == ["a"]
    assert asking.give_back("a") == ["a", "c"]


def test_giving_back_what_one_does_not_have_does_nothing() -> None:
    asking = Asking()
    assert asking.give_back("a") == []
    asking.ask("a", "b")
    assert asking.give_back("unknown") == ["a"]
    assert asking.give_back("a", "a") == ["a", "b"]
    assert asking.give_back("b", "b") == ["a", "b"]


def test_begin_may_give_its_own_turn_back() -> None:
    """So may whoever finds at once that the turn is of no use."""
    turns = Turns()
    begun = []

    def begin() -> None:
        begun.append("b")
        turns.give_back("b")

    turns.ask("a", lambda: None)
    turns.ask("b", begin)
    turns.ask("c", lambda: begun.append("c"))
    turns.give_back("a")
    assert begun == ["b", "c"]


def test_of_many_threads_one_has_the_turn_at_a_time() -> None:
    turns = Turns()
    lock = threading.Lock()
    begun: list[int] = []
    have_it: set[int] = set()
    most = 0

    def take_turns(number: int) -> None:
        nonlocal most
        for i in range(100):
            mine = threading.Event()
            who = 1000 * number + i
            turns.ask(who, mine.set)
            assert mine.wait(30)
            with lock:
                begun.append(who)
                have_it.add(who)
                most = max(most, len(have_it))
            with lock:
                have_it.remove(who)
            turns.give_back(who)

    for join in [in_thread(lambda n=n: take_turns(n)) for n in range(8)]:
        join()
    assert most == 1
    assert sorted(begun) == [1000 * n + i for n in range(8) for i in range(100)]
