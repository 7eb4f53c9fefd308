"""A clock that tests set."""

from __future__ import annotations


class FakeTime:
    """The module `time`, as far as it is used; stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now
