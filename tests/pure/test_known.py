"""What calls on one cluster know of it together."""

from __future__ import annotations

import threading

import pytest

from joblib_distributed.driver import known
from joblib_distributed.driver.known import REMEMBERED, Durations, known_of
from support.tasks import in_thread


def key(number: int) -> bytes:
    return b"key %d" % number


def test_a_function_that_was_never_called_is_not_known() -> None:
    durations = Durations()
    durations.note(b"f", 0.5)
    assert (durations.get(b"f"), durations.get(b"g")) == (0.5, None)


def test_no_time_at_all_is_known() -> None:
    durations = Durations()
    durations.note(b"f", 0.0)
    assert durations.get(b"f") == 0.0


def test_the_last_call_counts() -> None:
    durations = Durations()
    for seconds in (0.1, 3.0, 0.2):
        durations.note(b"f", seconds)
    assert durations.get(b"f") == 0.2


def test_the_function_called_longest_ago_is_forgotten() -> None:
    durations = Durations()
    for number in range(REMEMBERED):
        durations.note(key(number), number)
    durations.note(key(0), 0.5)
    durations.note(b"one more", 7.0)
    assert [durations.get(key(n)) for n in (0, 1, 2)] == [0.5, None, 2]
    assert durations.get(b"one more") == 7.0


def test_what_is_remembered_is_bounded() -> None:
    durations = Durations()
    for number in range(3 * REMEMBERED):
        durations.note(key(number), number)
    found = [n for n in range(3 * REMEMBERED) if durations.get(key(n)) is not None]
    assert found == list(range(2 * REMEMBERED, 3 * REMEMBERED))


def test_many_threads_may_note_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "REMEMBERED", 3)
    durations = Durations()
    begin = threading.Barrier(4)

    def note(thread: int) -> None:
        begin.wait(30)
        for number in range(2000):
            durations.note(key(number % 7), thread)
            durations.get(key(number % 5))

    for joined in [in_thread(lambda i=i: note(i)) for i in range(4)]:
        joined()
    left = [n for n in range(7) if durations.get(key(n)) is not None]
    assert len(left) == 3


class Client:
    pass


def test_calls_on_one_client_know_the_same() -> None:
    one, other = Client(), Client()
    known_of(one).durations.note(b"f", 1.0)
    assert known_of(one).durations.get(b"f") == 1.0
    assert known_of(other).durations.get(b"f") is None
