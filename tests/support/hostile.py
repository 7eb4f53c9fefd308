"""Objects and tasks that do harm at a chosen moment of a task's life."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

MOMENTS = (
    "pickle argument",
    "unpickle argument",
    "run",
    "pickle result",
    "unpickle result",
)


class Harm(Exception):
    """What a task of these raises when it only raises."""


def do_raise() -> None:
    raise Harm("on purpose")


def do_exit() -> None:
    sys.exit(3)


def do_kill() -> None:
    os._exit(3)


def do_segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


ACTS: dict[str, Callable[[], None]] = {
    "raise": do_raise,
    "sys.exit": do_exit,
    "os._exit": do_kill,
    "SIGSEGV": do_segfault,
}


class OnPickle:
    """Harms whoever pickles it."""

    def __init__(self, act: str) -> None:
        self.act = act

    def __reduce__(self) -> Any:
        ACTS[self.act]()
        return (OnPickle, (self.act,))


class OnUnpickle:
    """Harms whoever unpickles it."""

    def __init__(self, act: str) -> None:
        self.act = act

    def __reduce__(self) -> Any:
        return (ACTS[self.act], ())


def run_hostile(moment: str, act: str, number: int, harmful: bool, given: object) -> Any:
    """Return `number`, but for the harmful task of a call."""
    if not harmful:
        return number
    if moment == "run":
        ACTS[act]()
    if moment == "pickle result":
        return OnPickle(act)
    if moment == "unpickle result":
        return OnUnpickle(act)
    return number


def argument(moment: str, act: str, harmful: bool) -> object:
    """Return what is to be given to `run_hostile`."""
    if harmful and moment == "pickle argument":
        return OnPickle(act)
    if harmful and moment == "unpickle argument":
        return OnUnpickle(act)
    return None
