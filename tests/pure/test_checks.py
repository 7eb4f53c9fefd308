"""What is asked of a cluster before a call, and what its answers mean."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from joblib_distributed.driver import checks
from joblib_distributed.errors import OptionValueError


class FakeClient:
    """Knows how many threads workers have; its scheduler cannot look up some hosts."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.asked: list[str] = []

    async def nthreads(self, workers: list[str]) -> dict[str, int]:
        (name,) = workers
        self.asked.append(name)
        if self._failures:
            raise self._failures.pop(0)
        if name.startswith("nowhere"):
            raise socket.gaierror(-2, "Name or service not known")
        return {name: 1}


def insist(question: Callable[[], Any]) -> Any:
    """Ask once more if the connection was lost, as a cluster does."""
    try:
        return asyncio.run(question())
    except OSError:
        return asyncio.run(question())


def test_addresses_are_looked_up_and_names_are_not() -> None:
    client = FakeClient()
    checks.check_names(client, ["alice", "here:1", "tcp://there:2"], insist)
    assert client.asked == ["here:1", "tcp://there:2"]


def test_an_address_that_cannot_be_looked_up_is_named_and_asked_for_once() -> None:
    client = FakeClient()
    with pytest.raises(OptionValueError, match=r"workers='nowhere:1'.*Name or service"):
        checks.check_names(client, ["here:1", "nowhere:1"], insist)
    assert client.asked == ["here:1", "nowhere:1"]


def test_a_connection_that_is_lost_meanwhile_is_asked_again() -> None:
    client = FakeClient(OSError("reset"))
    checks.check_names(client, ["here:1"], insist)
    assert client.asked == ["here:1"] * 2


class UnheardClient:
    """Its own connection is lost whatever it asks."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def run(self, *_: object, **__: object) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        OSError("reset"),
        RuntimeError("closed"),
        ValueError("IOStream is not idle; cannot convert to SSL"),
        asyncio.TimeoutError(),
    ],
    ids=repr,
)
def test_a_lost_connection_is_no_answer_of_a_worker(error: Exception) -> None:
    assert asyncio.run(checks._ask_worker(UnheardClient(error), "a", False)) is None


def test_workers_that_are_gone_are_forgotten() -> None:
    """Another one may come to the address, and addresses are many."""
    seen = {"tcp://there:1", "tcp://gone:1", "tcp://gone:2"}
    checks.check_workers(None, seen, lambda: {"tcp://there:1": 2})
    assert seen == {"tcp://there:1"}
