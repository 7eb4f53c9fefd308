"""Tasks whose effects a test can see, and that a test can hold back."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.waiting import wait_until


def wait_for_file(path: str, timeout: float = 30) -> None:
    """Return when a file exists: how a task waits for its test."""
    wait_until(lambda: os.path.exists(path), timeout, lambda: f"no file {path}")


def mark(folder: str, name: object) -> None:
    """Make a file: how a task tells its test something."""
    Path(folder, str(name)).touch()


def marks(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def spin(folder: str, name: object) -> None:
    """Say that it runs, then run Python code for a minute."""
    mark(folder, f"running-{name}")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        sum(range(1000))
    mark(folder, f"finished-{name}")


def fail_at(x: int, bad: int) -> int:
    if x == bad:
        raise LookupError(f"on purpose at {x}")
    return x


def run_for(seconds: float) -> float:
    """Run Python code for so long, without leaving the interpreter."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(500))
    return seconds


def fail_after_file(path: str) -> None:
    wait_for_file(path)
    raise ValueError("the one that fails")


def fail_when_all_run(folder: str, count: int) -> None:
    """Raise once `count` spinning tasks run."""
    wait_until(
        lambda: sum(name.startswith("running") for name in os.listdir(folder)) >= count,
        30,
        lambda: f"only {os.listdir(folder)} run",
    )
    raise ValueError("the one that fails")


class Concurrency:
    """Counts how many of its tasks run at a time, across processes.

    Each task holds a file while it runs and notes how many there are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def task(self, number: int, seconds: float = 0.05) -> int:
        path = Path(self.folder, f"in-{number}-{os.getpid()}-{threading.get_ident()}")
        path.touch()
        try:
            most = 0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                most = max(most, len(os.listdir(self.folder)))
            return most
        finally:
            path.unlink()


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start a function in a thread; return what waits for its result or error."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join(timeout: float = 45) -> Any:
        thread.join(timeout)
        assert not thread.is_alive(), "the thread has not ended"
        if errors:
            raise errors[0]
        return results[0]

    return join


class Careful(UserWarning):
    """A warning with more to it than a text."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text, number)
        self.number = number


def warn_of(warning: Warning, fails: bool = False) -> None:
    """Warn, and then fail if asked to."""
    warnings.warn(warning, stacklevel=1)
    if fails:
        raise ZeroDivisionError
