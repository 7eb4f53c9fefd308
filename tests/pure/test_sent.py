"""When attempts were sent, and which of them are to be asked about."""

from __future__ import annotations

import math

import pytest

from joblib_distributed.driver.sent import Sent


@pytest.fixture
def sent() -> Sent:
    """Two attempts, sent at 100 and 103 seconds."""
    sent = Sent()
    sent.note("a", 100.0, 4)
    sent.note("b", 103.0, 7)
    return sent


def never(key: str) -> float:
    return math.inf


def test_those_are_late_of_which_nothing_was_heard_for_long(sent: Sent) -> None:
    assert sent.late(102.0, 2.0, never) == {}
    assert sent.late(102.1, 2.0, never) == {"a": 100.0}
    assert sent.late(105.1, 2.0, never) == {"a": 100.0, "b": 103.0}


def test_one_that_is_due_sooner_is_late_sooner(sent: Sent) -> None:
    assert sent.late(103.6, 10.0, {"a": 9.0, "b": 0.5}.__getitem__) == {"b": 103.0}
    assert sent.late(103.6, 2.0, {"a": 9.0, "b": 9.0}.__getitem__) == {"a": 100.0}


def test_what_was_before_is_not_known(sent: Sent) -> None:
    assert sent.late(200.0, 2.0, never, known=102.0) == {"a": 102.0, "b": 103.0}


def test_they_are_told_in_the_order_in_which_they_were_sent(sent: Sent) -> None:
    sent.note("0", 104.0, 7)
    assert list(sent.late(200.0, 2.0, never)) == ["a", "b", "0"]


def test_each_is_told_after_how_many_arrivals_it_was_sent(sent: Sent) -> None:
    assert (sent.arrivals("a"), sent.arrivals("b")) == (4, 7)


def test_what_is_released_is_forgotten(sent: Sent) -> None:
    sent.forget(["a", "one of another call"])
    assert sent.late(200.0, 2.0, never) == {"b": 103.0}
    with pytest.raises(KeyError):
        sent.arrivals("a")
