"""Calls whose batches are known beforehand: what is believed, and when it begins."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client
from joblib import Parallel, delayed

from joblib_distributed.data.payload import Packer
from joblib_distributed.driver.cluster import Cluster
from joblib_distributed.driver.running import RunningCall
from support.waiting import wait_until

#: Seconds after which a call begins with what it has.
HUNG = 40


def believe_short(client: Client, function: Callable[..., Any], *args: Any) -> None:
    """Have a function known to be next to nothing, however slow this machine is."""
    key = Packer().pack_task(delayed(function)(*args)).function_key
    Cluster(client).durations.note(key, 1e-5)


def call_once(client: Client, function: Callable[..., Any], *args: Any) -> None:
    """Have a function known to be short because a call has shown it."""
    Parallel()(delayed(function)(*args) for _ in range(4))
    key = Packer().pack_task(delayed(function)(*args)).function_key
    durations = Cluster(client).durations
    wait_until(
        lambda: durations.get(key) is not None, 10, lambda: "it was not taken note of"
    )
    believe_short(client, function, *args)


def send_when_dispatched(monkeypatch: pytest.MonkeyPatch, tasks: int) -> None:
    """Have the ledgers of calls begin when they have got so many tasks, all at once."""
    dispatch, run = RunningCall.dispatch, RunningCall._run_ledger
    enough = threading.Event()
    dispatched: Counter[str] = Counter()

    def dispatch_and_tell(call: RunningCall, items: list[Any], *args: Any) -> None:
        dispatch(call, items, *args)
        dispatched[call.id] += len(items)
        if dispatched[call.id] >= tasks:
            enough.set()

    def run_late(call: RunningCall) -> None:
        enough.wait(HUNG)
        run(call)

    monkeypatch.setattr(RunningCall, "dispatch", dispatch_and_tell)
    monkeypatch.setattr(RunningCall, "_run_ledger", run_late)
