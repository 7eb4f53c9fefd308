"""Attempts that are sent at the same time go together."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from joblib_distributed.driver.outgoing import MOST_NBYTES, Outbox, Outgoing, grouped
from joblib_distributed.options import Options

OPTIONS = Options()


def attempt(key: str, nbytes: int = 1, **rest: Any) -> Outgoing:
    return Outgoing(key, bytes(nbytes), rest.pop("options", OPTIONS), **rest)


def keys(*attempts: Outgoing) -> list[list[str]]:
    return [[one.key for one in group] for group in grouped(attempts)]


def test_nothing_makes_no_group() -> None:
    assert keys() == []


def test_what_is_alike_goes_together_in_its_order() -> None:
    assert keys(attempt("a"), attempt("b"), attempt("c")) == [["a", "b", "c"]]


def test_groups_are_no_larger_than_they_may_be() -> None:
    half = MOST_NBYTES // 2
    assert keys(attempt("a", half), attempt("b", half)) == [["a", "b"]]
    assert keys(attempt("a", half), attempt("b", half + 1)) == [["a"], ["b"]]
    assert keys(*(attempt(k, half) for k in "abcde")) == [["a", "b"], ["c", "d"], ["e"]]


def test_one_that_is_larger_goes_alone() -> None:
    large = attempt("b", MOST_NBYTES + 1)
    assert keys(attempt("a"), large, attempt("c")) == [["a"], ["b"], ["c"]]
    assert keys(large) == [["b"]]


@pytest.mark.parametrize(
    "other",
    [
        Options(priority=3),
        Options(workers="a"),
        Options(workers=["a", "b"], allow_other_workers=True),
        Options(resources={"gpu": 1}),
    ],
)
def test_what_dask_is_told_of_otherwise_makes_another_group(other: Options) -> None:
    found = keys(attempt("a"), attempt("b", options=other), attempt("c", options=other))
    assert found == [["a"], ["b", "c"]]
    assert keys(attempt("a"), attempt("b", options=other), attempt("c")) == [
        ["a"], ["b"], ["c"],
    ]  # fmt: skip


def test_what_dask_is_not_told_of_makes_no_other_group() -> None:
    one, another = Options(workers="a"), Options(workers=["a"], retries=5)
    found = keys(attempt("a", options=one), attempt("b", options=another))
    assert found == [["a", "b"]]


def test_those_that_take_the_values_of_futures_go_alone() -> None:
    """Each takes others, and `Client.map` gives all the same."""
    taking = attempt("b", inputs=["a future"])
    assert keys(attempt("a"), taking, taking, attempt("c")) == [
        ["a"], ["b"], ["b"], ["c"],
    ]  # fmt: skip


def test_an_outbox_lets_all_go_at_once() -> None:
    sent: list[list[Outgoing]] = []
    outbox = Outbox(sent.append)
    outbox.let_go()
    assert sent == []
    outbox.put(attempt("a"))
    outbox.put(attempt("b"))
    assert sent == []
    outbox.let_go()
    outbox.let_go()
    assert sent == [[attempt("a"), attempt("b")]]


def test_what_was_cleared_is_not_sent() -> None:
    sent: list[list[Outgoing]] = []
    outbox = Outbox(sent.append)
    outbox.put(attempt("a"))
    outbox.clear()
    outbox.put(attempt("b"))
    outbox.let_go()
    assert sent == [[attempt("b")]]


def test_what_could_not_be_sent_is_not_sent_again() -> None:
    """The call has failed then; another one would run its tasks."""
    sent: list[list[Outgoing]] = []

    def fail(attempts: list[Outgoing]) -> None:
        sent.append(attempts)
        raise OSError("lost")

    outbox = Outbox(fail)
    outbox.put(attempt("a"))
    with pytest.raises(OSError, match="lost"):
        outbox.let_go()
    with contextlib.suppress(OSError):
        outbox.let_go()
    assert sent == [[attempt("a")]]


def test_an_outbox_that_is_full_does_not_wait() -> None:
    sent: list[list[Outgoing]] = []
    outbox = Outbox(sent.append)
    half = MOST_NBYTES // 2
    for key in ("a", "b", "c", "d"):
        outbox.put(attempt(key, half + (key == "b")))
    outbox.let_go()
    assert [[one.key for one in lot] for lot in sent] == [["a", "b"], ["c", "d"]]
