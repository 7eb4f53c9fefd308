"""The context that a thread had before a batch began in it."""

from __future__ import annotations

import contextvars
import threading

from joblib_distributed.worker.clean import outside, remember_context

VAR: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)


def in_thread(function: object) -> list[object]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()))  # type: ignore[operator]
    thread.start()
    thread.join(10)
    return found


def test_what_was_set_since_is_not_seen() -> None:
    def run() -> tuple[int, int, int]:
        VAR.set(1)
        remember_context()
        VAR.set(2)
        return outside(VAR.get), VAR.get(), outside(VAR.get)

    assert in_thread(run) == [(1, 2, 1)]


def test_a_thread_without_a_batch_has_but_one_context() -> None:
    def run() -> int:
        VAR.set(3)
        return outside(VAR.get)

    assert in_thread(run) == [3]


def test_it_may_be_entered_within_itself() -> None:
    def run() -> int:
        remember_context()
        VAR.set(4)
        return outside(lambda: outside(VAR.get))

    assert in_thread(run) == [0]
